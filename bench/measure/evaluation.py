"""Scores a network over a split, or several in one pass, and yields what it predicts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.measure.boundary_score import BoundaryCounts
from bench.measure.inference import PLAIN, Scoring, predict
from bench.metrics import BoundaryScore, ConfusionMatrix, Quality
from bench.system import processes
from bench.system.console import progress
from bench.system.failures import memory_of
from bench.system.files import plain
from bench.torch_utils.batches import Batch, moved, to_device
from bench.torch_utils.contexts import autocast, flags_kept

# Images that a report names.
_WORST = 3


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation of a network on a split found.

    Attributes:
        quality: the metrics.
        per_image: the counts of each image they are read off, int64 [N, K, outputs], in the order of the data set.
    """

    quality: Quality
    per_image: Tensor

    @property
    def wrong(self) -> Tensor:
        """How many scored pixels of each image have another class than was predicted, int64 [N]."""
        return self.per_image.sum(dim=(1, 2)) - self.per_image.diagonal(dim1=1, dim2=2).sum(dim=1)

    def record(self) -> dict[str, Any]:
        """The metrics as plain data."""
        return plain(asdict(self.quality))

    def content(self) -> dict[str, Any]:
        """All of it as a file of tensors holds it, nan as nan."""
        return {"quality": asdict(self.quality), "per_image": self.per_image}

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> Evaluation:
        """What `content` made, read from a file.

        Raises:
            LookupError: the file holds something else.
        """
        quality = dict(content["quality"])
        outlines = quality["boundary"] and BoundaryScore(**quality["boundary"])
        return cls(Quality(**{**quality, "boundary": outlines}), content["per_image"])


def lost_images(before: Evaluation, after: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """The images that lost the most pixels from one network to another, worst first; of equals the first.

    Args:
        before: of the one.
        after: of the other, on the same images.
        names: of the images.

    Returns:
        For each, as in `bench.measure.evaluation_report.LostImage`: its place, its name, and the shares that both
        label rightly.
    """
    lost = after.wrong - before.wrong
    chosen = [index for index in lost.argsort(descending=True, stable=True).tolist() if lost[index] > 0][:_WORST]

    def right(found: Evaluation, index: int) -> float:
        return 1 - found.wrong[index].item() / found.per_image[index].sum().item()

    return [
        {"index": index, "image": names[index], "baseline": right(before, index), "candidate": right(after, index)}
        for index in chosen
    ]


class _Judge:
    """Counts what one network predicts over a split."""

    def __init__(self, classes: Classes, device: torch.device, scoring: Scoring):
        self._confusion = ConfusionMatrix(classes, device)
        self._outlines = BoundaryCounts(classes, scoring.boundary_width, device) if scoring.boundary_width else None

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        self._confusion.update(prediction, labels)
        if self._outlines:
            self._outlines.update(prediction, labels)

    def evaluation(self) -> Evaluation:
        self._confusion.gather()
        quality = self._confusion.quality()
        if self._outlines:
            quality = replace(quality, boundary=self._outlines.score())
        return Evaluation(quality, self._confusion.per_image.cpu())


def evaluate_images(
    model: nn.Module,
    loader: Iterable[Batch],
    classes: Classes,
    *,
    device: torch.device,
    amp: str = "none",
    channels_last: bool = False,
    label: str = "val",
    scoring: Scoring = PLAIN,
) -> Evaluation:
    """Scores a network over a whole split, at the size of the labels.

    Under torchrun each process scores its share (`eval_loader(rank=, world=)`) and all get the whole result.

    Args:
        model: maps [N, 3, h, w] to logits [N, C, h, w]; its training flags are left as they were.
        loader: batches of images [N, 3, h, w] and labels int64 [N, H, W].
        classes: the label set.
        device: where to run; the network is moved there, in place.
        amp: `none`, `bf16` or `fp16`.
        channels_last: memory format that images and network are brought to; contiguous otherwise.
        label: what the progress bar says.
        scoring: how often and how large the network sees an image, and whether outlines are scored too.

    Raises:
        BenchError: the network's output is not finite.
    """
    judge = _Judge(classes, device, scoring)
    found = predictions(
        model, loader, device=device, amp=amp, channels_last=channels_last, label=label, scoring=scoring
    )
    with _enough_memory():
        for prediction, labels in found:
            judge.update(prediction, labels)
        return judge.evaluation()


def evaluate_both(
    before: nn.Module,
    after: nn.Module,
    loader: Iterable[Batch],
    classes: Classes,
    **settings: Any,
) -> tuple[Evaluation, Evaluation, Tensor]:
    """Scores two networks in one pass over a split; the other arguments are as for `evaluate_images`.

    Returns:
        The evaluations, and how many scored pixels of each image the two label differently, int64 [N] on the CPU.
    """
    judges = [_Judge(classes, settings["device"], settings.get("scoring", PLAIN)) for _ in range(2)]
    differing = [torch.zeros(0, dtype=torch.int64, device=settings["device"])]
    with _enough_memory():
        for pair, labels in _predictions((before, after), loader, **settings):
            for judge, prediction in zip(judges, pair, strict=True):
                judge.update(prediction, labels)
            differs = (pair[0] != pair[1]) & (labels != classes.ignore_index)
            differing.append(differs.flatten(1).sum(1))
        first, second = (judge.evaluation() for judge in judges)
    return first, second, processes.in_order(torch.cat(differing)).cpu()


def evaluate_each(
    models: Sequence[nn.Module], loader: Iterable[Batch], classes: Classes, **settings: Any
) -> list[Evaluation]:
    """Scores several networks in one pass over a split; the other arguments are as for `evaluate_images`."""
    judges = [_Judge(classes, settings["device"], settings.get("scoring", PLAIN)) for _ in models]
    with _enough_memory():
        for found, labels in _predictions(models, loader, **settings):
            for judge, prediction in zip(judges, found, strict=True):
                judge.update(prediction, labels)
        return [judge.evaluation() for judge in judges]


def evaluate(model: nn.Module, loader: Iterable[Batch], classes: Classes, **settings: Any) -> Quality:
    """The metrics of a network over a whole split; everything is as for `evaluate_images`.

    >>> quality = evaluate(model, data.eval_loader("val", 4), data.classes, device=torch.device("cpu"))
    >>> 0 <= quality.miou <= 1, len(quality.iou)
    (True, 11)
    """
    return evaluate_images(model, loader, classes, **settings).quality


def predictions(model: nn.Module, loader: Iterable[Batch], **settings: Any) -> Iterator[Batch]:
    """Yields what a network predicts for each batch, int64 [N, H, W], and the labels of the same size.

    The arguments are those of `evaluate_images`.
    """
    for (prediction,), labels in _predictions((model,), loader, **settings):
        yield prediction, labels


def _enough_memory() -> contextlib.AbstractContextManager[None]:
    return memory_of("scoring", "use a smaller `eval_batch_size` or `input_size`, or a `sliding_window`")


def _predictions(
    models: Sequence[nn.Module],
    loader: Iterable[Batch],
    *,
    device: torch.device,
    amp: str = "none",
    channels_last: bool = False,
    label: str,
    scoring: Scoring = PLAIN,
) -> Iterator[tuple[list[Tensor], Tensor]]:
    # Outside inference mode, where moving would make the weights unfit for training.
    for model in models:
        to_device(model, device, channels_last)

    def through(model: nn.Module) -> Callable[[Tensor], Tensor]:
        def network(images: Tensor) -> Tensor:
            with autocast(device, amp):
                return model(images)

        return network

    are_finite: list[Tensor] = []

    def watch(logits: Tensor) -> None:
        # Where a logit is nan, it is the one that is chosen.
        are_finite.append(logits.isfinite().all())

    networks, everything = [through(model) for model in models], nn.ModuleList(models)
    with flags_kept(everything), _enough_memory():
        everything.eval()
        for number, (images, labels) in enumerate(progress(loader, label)):
            images, labels = moved(images, labels, device, channels_last)
            # Closed before the batch is handed out: the mode would hold for the caller as well.
            with torch.inference_mode():
                found = [predict(network, images, labels.shape[-2:], scoring, watch) for network in networks]
            if number == 0:
                _check_finite(are_finite, label, amp)
            yield found, labels
    # Not batch by batch: each look makes the host wait for the device.
    _check_finite(are_finite, label, amp)


def _check_finite(are_finite: Sequence[Tensor], label: str, amp: str) -> None:
    """Refuses outputs that are not numbers, of which the largest is still found and scored."""
    if are_finite and not torch.stack(list(are_finite)).all():
        how = "its weights are not usable" if amp == "none" else "pass `amp=none`"
        raise BenchError(f"{label}: the network's output is nan or inf, so it cannot be scored; {how}")
