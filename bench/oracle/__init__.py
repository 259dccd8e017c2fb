"""The oracle: what removing single channels really costs, and which scores know it."""
