"""Training: losses, optimizer, a step, the state of a run, distillation."""
