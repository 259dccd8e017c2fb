"""The draft of a `classes.yaml` for what was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import yaml

from bench.datasets.base import Size
from bench.datasets.description import COLOURS, FILE, IDS, Description, usual_colour
from bench.datasets.label_tables import LARGEST_ID, Value
from bench.datasets.layouts import UNDIVIDED
from bench.datasets.scan.counting import Scan
from bench.errors import BenchError, UsageError

_VOID = (255, LARGEST_ID)
"""What is not scored, by convention: the largest id of 8 and of 16 bits."""

_STEP = 32
"""Sizes that networks halve several times are best multiples of it."""


def drafted(scan: Scan, ignore: Sequence[int]) -> Description:
    """A description with a class for each id or colour but those that are ignored.

    Args:
        scan: what there is.
        ignore: ids, or colours as numbers in a row, that are not scored. Beside others than 0, the largest id of 8 and
            of 16 bits is one of them.

    Raises:
        UsageError: numbers that are no colours.
        BenchError: nothing but what is ignored.
    """
    ignored: list[Value] = list(ignore)
    if scan.labels == COLOURS:
        if len(ignore) % 3:
            raise UsageError(f"--ignore {','.join(map(str, ignore))} is no colour; write red,green,blue")
        ignored = [tuple(ignore[start : start + 3]) for start in range(0, len(ignore), 3)]
    else:
        # Beside 0 alone it may be the other class.
        usual = [value for value in _VOID if value in scan.pixels and not set(scan.pixels) <= {0, value}]
        ignored += [value for value in usual if value not in ignored]
    values = [value for value in scan.pixels if value not in ignored]
    if not values:
        raise BenchError(f"masks of {scan.root.absolute()} hold nothing but what is ignored; see to --ignore")
    if scan.labels == COLOURS:
        names, shown = ["class_" + "_".join(map(str, value)) for value in values], values
    else:
        names = [f"class_{value}" for value in values]
        given = [scan.palette[value][0] for value in values if value in scan.palette]
        shown = given if len(given) == len(values) else [usual_colour(n + 1) for n in range(len(values))]
    size = next(iter(scan.sizes)) if len(scan.sizes) == 1 else _usual_size(scan.sizes)
    return Description(
        FILE, tuple(names), tuple((v,) for v in values), scan.labels, tuple(ignored), tuple(shown), input_size=size
    )


def _usual_size(sizes: Mapping[Size, int]) -> Size:
    """The median height and width, as multiples of 32."""
    sides = np.repeat(np.array(list(sizes)), list(sizes.values()), axis=0)
    height, width = (max(_STEP, round(float(side) / _STEP) * _STEP) for side in np.median(sides, axis=0))
    return height, width


def draft_text(scan: Scan, draft: Description) -> str:
    """A `classes.yaml` with comments about what was counted."""
    whole, weights = sum(scan.pixels.values()), scan.weights(draft.values)
    lines = [
        f"# {scan.root.name}: {scan.layout.said}. A draft: give the classes their names; see docs/data.md.",
        "# Behind each class: its share of the pixels, and `weight:`, should the loss be weighted by median frequency.",
        "classes:",
    ]
    for number, entry in enumerate(draft.record["classes"]):
        (value,) = draft.values[number]
        entry = {**entry, "id": value} if draft.labels == IDS else {**entry, "colour": list(value)}
        text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1000).strip()
        lines.append(f"  - {text}  # {scan.pixels[value] / whole:.2%}, weight: {weights[number]:.4g}")
    lines += [f"labels: {draft.labels}", f"ignore: {_listed(draft.ignore)}"]
    height, width = draft.input_size
    differ = "  # sizes differ; the median, as multiples of 32" if len(scan.sizes) > 1 else ""
    lines.append(f"input-size: [{height}, {width}]{differ}")
    if UNDIVIDED in scan.layout.splits or "val" not in scan.layout.splits:
        what = "val: 0.15, test: 0.15" if UNDIVIDED in scan.layout.splits else "val: 0.15"
        lines.append(f"split: {{{what}, seed: 0}}  # no split is said: drawn by these shares and this seed")
    return "\n".join(lines) + "\n"


def _listed(values: Sequence[Value]) -> str:
    return str([list(value) if isinstance(value, tuple) else value for value in values])
