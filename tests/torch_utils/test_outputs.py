from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from bench.errors import BenchError, as_flags
from bench.torch_utils.outputs import auxiliary_in, logits_in, tensors_in

FINE, COARSE, POOLED = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 2, 2), torch.zeros(1, 3)


@dataclass
class Found:
    logits: torch.Tensor
    features: torch.Tensor


class Pair(NamedTuple):
    main: torch.Tensor
    pooled: torch.Tensor


@pytest.mark.parametrize(
    ("output", "key"),
    [
        (FINE, None),
        (FINE, "whatever it has no parts"),
        ({"out": FINE, "aux": COARSE}, None),
        (Found(FINE, COARSE), None),
        (Pair(FINE, POOLED), None),
        ((POOLED, FINE, None), None),
        ([COARSE, FINE], 1),
        ([COARSE, FINE], "1"),
        (Pair(FINE, COARSE), "main"),
        (Pair(COARSE, FINE), 1),
        ({"seg": {"out": FINE, "aux": COARSE}, "depth": COARSE}, "seg"),
    ],
)
def test_logits_are_found_in_any_output(output, key):
    assert logits_in(output, key) is FINE


@pytest.mark.parametrize(
    ("output", "key", "said"),
    [
        ([COARSE, FINE], None, "several maps: 0 [1, 3, 2, 2], 1 [1, 3, 8, 8]; say with --output-key"),
        ({"classes": POOLED}, None, "no maps [N, C, H, W]: classes [1, 3]; say with --output-key"),
        ({"seg": FINE}, "mask", "no part 'mask', only seg [1, 3, 8, 8]; pass another --output-key"),
        ([FINE], 1, "no part '1'"),
        (Pair(FINE, POOLED), "pooled", "part pooled of the output is [1, 3], not logits"),
        (POOLED, None, "the output is [1, 3], not logits"),
        (None, None, "gives a NoneType"),
    ],
)
def test_what_could_be_several_things_is_never_guessed(output, key, said):
    with pytest.raises(BenchError) as caught:
        logits_in(output, key)
    assert said in as_flags(str(caught.value))
    assert "\n" not in str(caught.value)


def test_auxiliary_logits_are_what_is_called_so():
    assert auxiliary_in({"out": FINE, "aux": COARSE}) is COARSE
    assert auxiliary_in({"out": FINE, "aux": None}) is None
    assert auxiliary_in((FINE, COARSE)) is None
    assert auxiliary_in(FINE) is None


def test_tensors_of_nested_outputs_come_in_their_order():
    found = tensors_in({"a": [FINE, None], "b": Found(COARSE, POOLED), "c": 3})
    assert [tensor is wanted for tensor, wanted in zip(found, (FINE, COARSE, POOLED), strict=True)] == [True] * 3
