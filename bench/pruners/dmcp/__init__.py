"""DMCP: differentiable Markov channel pruning."""

METHODS = {
    "dmcp": (
        "bench.pruners.dmcp.pruner",
        "Dmcp",
        "widths learned by Markov gates under a MACs budget (Guo et al., CVPR 2020)",
    ),
}
