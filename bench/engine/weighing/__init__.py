"""Importance weighed against cost: what channels are worth, what they save, and the search around such a plan."""
