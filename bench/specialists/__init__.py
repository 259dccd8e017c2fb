"""Specialists: one small pruned network a group of classes, and a head that fuses them (the system around PAPM).

`group` -> `prune` -> `fuse` -> `infer`, the steps of `python -m bench.specialists`; docs/specialists.md tells of them.
"""
