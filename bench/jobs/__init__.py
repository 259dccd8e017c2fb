"""Pieces of work from options to files: training, pruning, fine-tuning, evaluating, sweeping."""
