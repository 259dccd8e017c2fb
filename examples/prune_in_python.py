"""Prunes a torchvision network that is in no registry to half of its MACs, from any folder: python prune_in_python.py

The images are noise; put the batches of your own loader in their place.
"""

import torch

import bench
import bench.torch_utils.torchvision_compat  # for torchvision wheels that were built for another torch

# isort: split
from torchvision.models.segmentation import lraspp_mobilenet_v3_large


def main() -> None:
    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    batches = [(torch.randn(2, 3, 64, 96), torch.randint(5, (2, 64, 96))) for _ in range(2)]

    pruned = bench.prune(network, batches, method="taylor", target={"macs": 0.5}, round_to=8)
    print(pruned)

    with torch.inference_mode():
        logits = pruned.model(batches[0][0])["out"]
    print("logits", tuple(logits.shape), "of a network with", pruned.after.parameters, "weights")
    torch.save(pruned.model.state_dict(), "smaller.pt")


if __name__ == "__main__":
    main()
