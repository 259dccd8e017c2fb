"""Which network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.config.declare import option
from bench.config.values import parse_arguments, parse_renames, parse_size, positive
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.models import ModelSpec

_FORM = ("output_key", "input_channels", "pad_to", "trace_size")


@dataclass
class ModelOptions:
    """Which network, and which weights it starts from."""

    model: str | None = option(
        None,
        "network; --list-models names them; or your own, package.module:factory or path/file.py:factory "
        "(default: the checkpoint's, else resnet50_seg)",
        parse=str,
    )
    model_args: dict[str, Any] = option(
        {}, "further arguments of what builds the network", parse=parse_arguments, metavar="KEY=VALUE,..."
    )
    output_key: str | None = option(
        None, "of your own network: which part of its output are the logits, a name or a number from 0", parse=str
    )
    input_channels: int | None = option(
        None, "of your own network: channels of the images it takes (default: 3)", parse=positive
    )
    pad_to: int | None = option(
        None, "of your own network: pad images to multiples of N pixels (default: found out)", parse=positive
    )
    trace_size: tuple[int, int] | None = option(
        None, "of your own network: a size it runs at (default: found out)", parse=parse_size, metavar="H,W"
    )
    key_map: dict[str, str] = option(
        {}, "how names of tensors in a plain state dict begin, and how here", parse=parse_renames, metavar="OLD=NEW,..."
    )
    pretrained_backbone: str | None = option(
        None,
        "ImageNet weights for the backbone: a file, 'efficientnet-lite0' for those of the installed package, or "
        "'imagenet' to download torchvision's",
        parse=str,
        metavar="FILE",
    )

    @property
    def kwargs(self) -> dict[str, Any]:
        """What was said of the network beside its name, as `ModelSpec.kwargs` holds it.

        Raises:
            UsageError: something that only a network of the user's own can be told.
        """
        form = {name: getattr(self, name) for name in _FORM if getattr(self, name) is not None}
        if self.model is not None and ":" in self.model:
            args = {"args": dict(self.model_args)} if self.model_args else {}
            return {**args, **{name: list(v) if isinstance(v, tuple) else v for name, v in form.items()}}
        if form:
            flag = next(iter(form))
            raise UsageError(f"`{flag}` is for a network of your own; leave it out, or pass `model=MODULE:FACTORY`")
        return dict(self.model_args)

    @property
    def in_file(self) -> dict[str, Any]:
        """The name and all that was said of it, as `load_model` takes it."""
        return {"name": self.model, "kwargs": self.kwargs, "key_map": self.key_map}

    def spec(self, outputs: int) -> ModelSpec:
        """How the network is built that no file holds yet."""
        from bench.models import DEFAULT_MODEL, ModelSpec

        return ModelSpec(self.model or DEFAULT_MODEL, outputs, self.kwargs)
