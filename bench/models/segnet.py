"""SegNet (https://arxiv.org/abs/1511.00561): the decoder unpools with the encoder's max-pooling indices.

`segnet` is the published network: the 13 convolutions of VGG16 with batch normalisation, mirrored, the 13th
of the decoder being the classifier. `simple_segnet` is the four-stage one of
https://github.com/Undefinedx-Zhang/vss, with its tensor names.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bench.models.parts import conv_bn_relu, initialise

Widths = Sequence[Sequence[int]]

_VGG16: Widths = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MIRRORED: Widths = ((64,), (128, 64), (256, 256, 128), (512, 512, 256), (512, 512, 512))


class SegNet(nn.Module):
    """Encoder and decoder of equally many stages, tied by pooling indices.

    Args:
        outputs: channels of the logits.
        encoder: output channels of each convolution, stage by stage, from the image inwards.
        decoder: the same for the decoder, also from the image inwards; the last convolution of stage i + 1
            has as many channels as the encoder's stage i, whose indices it is unpooled with.
        classifier_kernel: side of the classifier's kernel, in pixels.
    """

    backbone_prefixes = ("enc",)

    def __init__(self, outputs: int, encoder: Widths, decoder: Widths, classifier_kernel: int):
        super().__init__()
        self.stages = len(encoder)
        channels = 3
        for stage in range(self.stages):
            self.add_module(f"enc{stage + 1}", _convolutions(channels, encoder[stage]))
            channels = encoder[stage][-1]
        for stage in reversed(range(self.stages)):
            self.add_module(f"dec{stage + 1}", _convolutions(channels, decoder[stage]))
            channels = decoder[stage][-1]
        self.classifier = nn.Conv2d(channels, outputs, classifier_kernel, padding=classifier_kernel // 2)
        # One module each, so that whoever hooks them knows which pair belongs together.
        self.pools = nn.ModuleList(nn.MaxPool2d(2, 2, return_indices=True) for _ in encoder)
        self.unpools = nn.ModuleList(nn.MaxUnpool2d(2, 2) for _ in encoder)
        initialise(self, self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        indices, sizes = [], []
        for stage, pool in enumerate(self.pools):
            features = self.get_submodule(f"enc{stage + 1}")(features)
            sizes.append(features.shape[-2:])
            features, positions = pool(features)
            indices.append(positions)
        for stage in reversed(range(self.stages)):
            # An odd side is lost in pooling; the size given brings it back.
            features = self.unpools[stage](features, indices[stage], output_size=sizes[stage])
            features = self.get_submodule(f"dec{stage + 1}")(features)
        return self.classifier(features)


class VggSegNet(SegNet):
    """The published SegNet, whose encoder takes VGG16's weights.

    Attributes:
        architecture: torchvision's name of the backbone.
    """

    architecture = "vgg16_bn"

    def __init__(self, outputs: int):
        super().__init__(outputs, _VGG16, _MIRRORED, classifier_kernel=3)

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in torchvision's ImageNet file -> layer here."""
        layers: dict[str, nn.Module] = {}
        position = 0
        for stage in range(self.stages):
            for layer in self.get_submodule(f"enc{stage + 1}"):
                layers[f"features.{position}"] = layer
                position += 1
            position += 1  # VGG counts its pooling layer.
        return layers


def segnet(outputs: int) -> SegNet:
    """SegNet as published: the 13 convolutions of VGG-16 and their mirror image."""
    return VggSegNet(outputs)


def simple_segnet(outputs: int) -> SegNet:
    """SegNet of four stages, two convolutions each."""
    encoder = [(width, width) for width in (64, 128, 256, 512)]
    decoder = [(width, width) for width in (64, 64, 128, 256)]
    return SegNet(outputs, encoder, decoder, classifier_kernel=1)


def _convolutions(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += conv_bn_relu(inputs, width, bias=True)
        inputs = width
    return nn.Sequential(*layers)
