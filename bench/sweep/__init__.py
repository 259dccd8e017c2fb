"""The sweep: every method at every goal with every seed, by one process or many, each cell once."""
