"""The five stages put together."""
