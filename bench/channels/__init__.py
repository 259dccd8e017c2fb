"""Channels: which axis of which tensor they are, and which can only go together."""
