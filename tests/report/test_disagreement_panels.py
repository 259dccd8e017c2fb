"""Panels: who is right where, which images are shown, in which colours."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import nn

from bench.datasets.base import Classes
from bench.datasets.options import DataOptions
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.report.disagreement_panels import (
    ALONE,
    PAIR,
    Panel,
    loss_picture,
    make_panel,
    panels_of,
    segment,
    verdicts,
)

TWO = Classes(names=("sky", "road"), palette=((10, 20, 200), (200, 100, 50)), outputs=3, ignore_index=2)

# Label, baseline and candidate; 2 is void as a label and no scored class as a prediction.
LABEL = np.array([[0, 0, 0, 0, 0, 0, 2]], np.uint8)
BEFORE = np.array([[0, 1, 0, 1, 1, 2, 0]])
AFTER = np.array([[0, 1, 1, 0, 2, 2, 1]])
JUDGED = [
    "both right",
    "both wrong, alike",
    "only the baseline right",
    "only the candidate right",
    "both wrong, differently",
    "both wrong, alike",
    "not scored",
]


def pixels(panel: Panel, caption: str) -> np.ndarray:
    kind, _, data = panel.pictures[caption].partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_who_is_right_where():
    found = verdicts(LABEL, [BEFORE, AFTER], scored=2)
    assert [list(PAIR)[place] for place in found[0]] == JUDGED
    alone = verdicts(LABEL, [BEFORE], scored=2)
    assert [list(ALONE)[place] for place in alone[0]] == [
        "right", "wrong", "right", "wrong", "wrong", "wrong", "not scored",
    ]  # fmt: skip


def test_what_is_lost_is_orange_on_the_pale_image():
    image, (label, before, after) = torch.zeros(3, 8, 56), (np.kron(part, np.ones((8, 8), int)) for part in
                                                            (LABEL.astype(int), BEFORE, AFTER))  # fmt: skip
    maps = [torch.from_numpy(before), torch.from_numpy(after)]
    address = loss_picture(image.byte(), torch.from_numpy(label), maps, TWO, width=28)
    shown = pixels(Panel("", {"": address}, {}), "").astype(int)
    assert shown.shape == (4, 28, 3)
    # Eight by eight pixels of each kind became four by four, of which the inner ones are spared by the compression.
    by_kind = [shown[1:3, 4 * place + 1 : 4 * place + 3].mean(axis=(0, 1)) for place in range(7)]
    orange = [abs(colour - PAIR["only the baseline right"]).max() < 60 for colour in by_kind]
    assert orange == [name == "only the baseline right" for name in JUDGED]


def test_a_panel_has_all_pictures_in_their_colours():
    image = torch.full((3, 1, 7), 128, dtype=torch.uint8)
    maps = {"baseline": torch.from_numpy(BEFORE), "candidate": torch.from_numpy(AFTER)}
    panel = make_panel("street", image, torch.from_numpy(LABEL), maps, TWO)
    assert list(panel.pictures) == ["input", "label", "baseline", "candidate", "difference"]
    colours = np.array([*TWO.palette, (0, 0, 0)])
    for caption, ids in {"label": LABEL, "baseline": BEFORE, "candidate": AFTER}.items():
        assert (pixels(panel, caption) == colours[ids]).all()
    assert (abs(pixels(panel, "input").astype(int) - 128) < 4).all()
    assert pixels(panel, "difference")[0].tolist() == [list(PAIR[verdict]) for verdict in JUDGED]
    assert panel.verdicts == {verdict: JUDGED.count(verdict) for verdict in PAIR}
    alone = make_panel("street", image, torch.from_numpy(LABEL), {"baseline": torch.from_numpy(BEFORE)}, TWO)
    assert list(alone.pictures) == ["input", "label", "baseline", "errors"]
    assert alone.verdicts == {"right": 2, "wrong": 4, "not scored": 1}


def test_large_pictures_are_made_smaller_without_new_colours():
    label = (torch.arange(1300) % 2).to(torch.uint8).repeat(650, 1)
    panel = make_panel("wide", torch.zeros(3, 650, 1300, dtype=torch.uint8), label, {"baseline": label.long()}, TWO)
    assert pixels(panel, "input").shape == pixels(panel, "label").shape == (320, 640, 3)
    assert {tuple(colour) for colour in pixels(panel, "label").reshape(-1, 3).tolist()} <= set(TWO.palette)
    # What is counted is the map, not the picture.
    assert panel.verdicts["right"] == 650 * 1300


class Fixed(nn.Module):
    """Predicts class 0, or class 1 where an image is brighter than a level."""

    def __init__(self, level: float):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = (images.mean(dim=1) > self.level).float()
        return nn.functional.pad(torch.stack((1 - bright, bright), dim=1), (0, 0, 0, 0, 0, 10))


def opened(tiny_camvid, tiny_baseline) -> Baseline:
    data = DataOptions("camvid", str(tiny_camvid), num_workers=0)
    return Baseline(tiny_baseline, data, ScoringOptions(), TimingOptions(latency=False), device=torch.device("cpu"))


def test_the_images_that_differ_most_are_found_in_one_pass(monkeypatch, tiny_camvid, tiny_baseline):
    reference = opened(tiny_camvid, tiny_baseline)
    reference.saved.model, candidate = Fixed(0.0), Fixed(0.6)
    evaluation, differing = reference.evaluate_beside(candidate)
    networks = {"baseline": reference.saved.model, "candidate": candidate}
    counted, wrong = [], []
    for index in range(4):
        _, label, maps = segment(reference, networks, index)
        valid = label != 11
        counted.append(int(((maps["baseline"] != maps["candidate"]) & valid).sum()))
        wrong.append(int(((maps["candidate"] != label) & valid).sum()))
    assert differing.tolist() == counted and len(set(counted)) > 1 and min(counted) > 0
    assert evaluation.wrong.tolist() == wrong
    # The same as one after the other, and the baseline is not scored again.
    alone = [reference.evaluate(model, name).record() for name, model in networks.items()]
    with monkeypatch.context() as patch:
        patch.setattr(Baseline, "evaluate", None)
        assert [reference.quality, evaluation.record()] == alone

    found = panels_of(reference, networks, differing, 3)
    names = reference.data.names("test")
    assert [panel.name for panel in found] == [names[index] for index in np.argsort(counted)[::-1][:3]]
    first = found[0].verdicts
    apart = ("only the baseline right", "only the candidate right", "both wrong, differently")
    assert sum(first[verdict] for verdict in apart) == max(counted)
    assert panels_of(reference, networks, torch.tensor([0, 5, 0, 5]), 3)[0].name == names[1]
    assert len(panels_of(reference, networks, torch.tensor([0, 5, 0, 5]), 3)) == 2
    assert panels_of(reference, networks, torch.zeros(4, dtype=torch.int64), 3) == []
