"""RECOVER: what helps a network after the cut."""
