"""What single channels are really worth, and which scores know it."""
