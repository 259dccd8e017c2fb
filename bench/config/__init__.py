"""The mechanism of options: how they are declared, and how their text is read."""
