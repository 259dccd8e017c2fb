"""RECOVER: repairing a network after a cut, by its BatchNorm statistics, its biases, or training between cuts."""
