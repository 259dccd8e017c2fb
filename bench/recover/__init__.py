"""RECOVER: repairing a network after a cut: BatchNorm statistics, biases, least squares, training between cuts."""
