"""What is no number is not scored: the largest of several nan is found all the same."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from toy_training import CLASSES, ToyData

from bench.errors import BenchError
from bench.measure.evaluation import Evaluation, evaluate, evaluate_both, lost_images, predictions

CPU = torch.device("cpu")


class Strongest(nn.Module):
    """Calls each pixel by its strongest colour; `value` replaces a logit of one pixel in one batch."""

    def __init__(self, value: float | None = None, batch: int = 0):
        super().__init__()
        self.value, self.batch, self.seen = value, batch, 0

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.cat((images, images[:, :1] - 99), dim=1)
        if self.value is not None and self.seen == self.batch:
            logits[0, 1, 3, 4] = self.value
        self.seen += 1
        return logits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("batch", [0, 2])
def test_outputs_that_are_no_numbers_have_no_score(value, batch):
    loader = ToyData().eval_loader("val", 2)
    assert len(loader) == 3
    with pytest.raises(BenchError, match="val: the network's output is nan or inf"):
        evaluate(Strongest(value, batch), loader, CLASSES, device=CPU)
    with pytest.raises(BenchError, match="both: the network's output is nan or inf"):
        evaluate_both(Strongest(), Strongest(value, batch), loader, CLASSES, device=CPU, label="both")


def test_the_images_that_lost_the_most_come_first():
    def found(*wrong: int) -> Evaluation:
        # Of ten pixels each.
        counts = torch.tensor([[[10 - count, count], [0, 0]] for count in wrong])
        return Evaluation(SimpleNamespace(), counts)

    lost = lost_images(found(1, 5, 2, 0, 3, 0), found(3, 4, 2, 5, 5, 1), list("abcdef"))
    assert [(one["image"], one["index"]) for one in lost] == [("d", 3), ("a", 0), ("e", 4)]
    assert (lost[0]["baseline"], lost[0]["candidate"]) == (1, 0.5)


def test_no_prediction_is_given_where_the_first_is_none():
    found = predictions(Strongest(math.nan), ToyData().eval_loader("val", 2), device=CPU, label="val")
    with pytest.raises(BenchError, match="nan or inf"):
        next(found)


def test_a_class_that_is_ruled_out_is_no_fault():
    assert evaluate(Strongest(-math.inf), ToyData().eval_loader("val", 5), CLASSES, device=CPU).miou > 0.9


def test_mixed_precision_is_named_where_it_may_be_the_reason():
    with pytest.raises(BenchError, match="pass `amp=none`"):
        evaluate(Strongest(math.inf), ToyData().eval_loader("val", 5), CLASSES, device=CPU, amp="bf16")
