"""Options: how they are declared, and how their text is read."""
