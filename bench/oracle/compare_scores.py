"""Which channels really matter: the loss change when each one is removed, and how well methods' scores tell it.

The oracle removes one coupled channel at a time from the trained network, without fine-tuning, and notes by how much
the loss on fixed training images changes (Molchanov et al., ICLR 2017 and CVPR 2019). A method is judged by the scores
it gave, the ones its pruning used. Where a channel is one of two alike neither seems to matter by itself, so whole
sets are removed as well: what a method would cut of a group, what the oracle would, and random ones.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.channels.groups import ChannelGroup, prunable
from bench.config.options import OracleOptions
from bench.engine.session import Session
from bench.errors import BenchError, UsageError
from bench.oracle.ablation import Ablation, Removal
from bench.oracle.agreement import Importances, agreement, bottom, ceiling, gain, overlap_error
from bench.plan.target import Goal
from bench.pruners.base import Method
from bench.rounding import share_up
from bench.system.console import say
from bench.system.files import digest, make_folder, plain, write_json, write_text
from bench.system.provenance import provenance

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "oracle-agreement/1"
RECORD, CSV = "oracle_agreement.json", "oracle_agreement.csv"
# What is random in the statistics: halves of the images, resampled images, and random sets of channels.
SPLITS, RESAMPLES, RANDOM_SETS = 10, 100, 10


class Oracle:
    """The loss change of each sampled channel of a network.

    Attributes:
        sampled: group -> its channels that are removed in turn, ascending.
        ablation: the losses they were measured by.
    """

    def __init__(self, groups: Sequence[ChannelGroup], ablation: Ablation, most: int, seed: int):
        """Draws channels and measures the network without each.

        Args:
            groups: the prunable groups.
            ablation: measures losses.
            most: the most channels to draw of a group.
            seed: seed of the draw.
        """
        self.ablation = ablation
        self.sampled = sampled_channels(groups, most, seed)
        singles = [(group, (channel,)) for group, channels in self.sampled.items() for channel in channels]
        losses = ablation.losses(singles)
        parts = losses.split([len(channels) for channels in self.sampled.values()])
        self._differences = {group.name: part - ablation.whole for group, part in zip(self.sampled, parts, strict=True)}

    def changes(self, images: Tensor | None = None) -> dict[str, Tensor]:
        """Loss with a channel removed minus loss with it, per pixel that counts.

        Args:
            images: int64 [..., n], which images to look at; by default each once.

        Returns:
            Group name -> float64 [..., sampled channels]; negative where removing helps.
        """
        pixels = self.ablation.pixels
        images = torch.arange(len(pixels)) if images is None else images
        total = pixels[images].sum(-1)
        return {name: (found[:, images].sum(-1) / total).movedim(0, -1) for name, found in self._differences.items()}

    def magnitudes(self, images: Tensor | None = None) -> dict[str, Tensor]:
        """Absolute values of `changes`: how much a channel matters."""
        return {name: change.abs() for name, change in self.changes(images).items()}


def sampled_channels(groups: Sequence[ChannelGroup], most: int, seed: int) -> dict[ChannelGroup, list[int]]:
    """Group -> at most so many of its channels, drawn by seed, ascending."""
    generator = torch.Generator().manual_seed(seed)
    return {group: sorted(torch.randperm(group.channels, generator=generator)[:most].tolist()) for group in groups}


def measure_agreement(
    session: Session,
    pruners: Mapping[str, Method],
    goal: Goal,
    seeds: Sequence[int],
    options: OracleOptions,
    folder: Path,
) -> dict[str, Any]:
    """Compares methods' scores with the oracle.

    The folder receives `oracle_agreement.json` and `.csv`, and the losses, which are found again by content, whatever
    the methods.

    Args:
        session: the baseline, whose scores are judged.
        pruners: the methods by name.
        goal: what methods are to reach whose scores depend on that.
        seeds: seeds the methods run with.
        options: images, channels, ratios.
        folder: where the files go.

    Returns:
        What `oracle_agreement.json` says: `oracle` (images, channels), `ceiling`, `rows` one a (method, seed).

    Raises:
        UsageError: fewer than two images.
        BenchError: the network cannot be measured.
    """
    oracle = _measured(session, options, folder)
    groups = {group.name: group for group in oracle.sampled}
    rows = []
    for (name, pruner), seed in itertools.product(pruners.items(), dict.fromkeys(seeds)):
        try:
            scores, file = session.scores(pruner, seed, session.target(pruner, goal))
        except BenchError as error:
            rows.append({"method": name, "seed": seed, "status": "failed", "error": str(error)})
            continue
        # Only what the oracle looked at, and only groups that the method can tell about.
        seen = {group: scores[group][oracle.sampled[groups[group]]].double() for group in groups if group in scores}
        rows.append({"method": name, "seed": seed, "status": "done", "error": None, "scores": file, "seen": seen})
    _add_agreement(rows, oracle, options)
    _add_gains(rows, oracle, options)
    record = plain(
        {
            "format": FORMAT,
            "baseline": {"path": session.baseline.checkpoint, "sha256": session.baseline.digest},
            "model": session.baseline.saved.spec,
            "oracle": _describe(oracle, session, options),
            "ceiling": {kind: _ceiling(oracle, kind, options) for kind in _KINDS},
            "rows": [{key: value for key, value in row.items() if key != "seen"} for row in rows],
            "provenance": provenance(),
        }
    )
    make_folder(folder)
    write_json(folder / RECORD, record)
    write_text(folder / CSV, _csv(record))
    say(f"-> {folder / RECORD}, .csv")
    return record


# How the oracle's loss changes are read: a channel matters by how much the loss changes, or by how much it grows.
_KINDS = {"absolute": Oracle.magnitudes, "signed": Oracle.changes}


def _measured(session: Session, options: OracleOptions, folder: Path) -> Oracle:
    if options.oracle_images < 2:
        raise UsageError("--oracle-images must be at least 2, because two halves of them are compared")
    baseline, groups = session.baseline, prunable(session.groups)
    data = baseline.data
    batches = session.batches(options.oracle_images, options.oracle_seed)
    identity = plain(
        {
            "baseline": baseline.digest,
            "groups": {group.name: group.channels for group in groups},
            "data": [data.name, data.dataset.root.absolute(), data.input_size],
            "images": [options.oracle_images, options.oracle_seed],
        }
    )
    ablation = Ablation(
        baseline.saved.model,
        batches,
        ignore_index=data.classes.ignore_index,
        device=baseline.device,
        path=folder / f"oracle_losses_{digest(identity)}.json",
        identity=identity,
    )
    return Oracle(groups, ablation, options.oracle_units, options.oracle_seed)


def _ceiling(oracle: Oracle, kind: str, options: OracleOptions) -> dict[str, Any]:
    images = len(oracle.ablation.pixels)
    return ceiling(lambda half: _KINDS[kind](oracle, half), images, options.oracle_ratios, SPLITS)


def _add_agreement(rows: Sequence[dict[str, Any]], oracle: Oracle, options: OracleOptions) -> None:
    images = len(oracle.ablation.pixels)
    drawn = torch.randint(images, (RESAMPLES, images), generator=torch.Generator().manual_seed(options.oracle_seed))
    for kind, importance in _KINDS.items():
        truth, resampled = importance(oracle), importance(oracle, drawn)
        for row in (row for row in rows if row["status"] == "done"):
            row[kind] = agreement(row["seen"], truth, options.oracle_ratios)
            for ratio, found in row[kind]["overlap"].items():
                found["standard_error"] = overlap_error(row["seen"], resampled, ratio)


def _add_gains(rows: Sequence[dict[str, Any]], oracle: Oracle, options: OracleOptions) -> None:
    """Adds what removing each method's whole set of least important channels costs, ratio by ratio."""
    done = [row for row in rows if row["status"] == "done"]
    truth = oracle.magnitudes()
    generator = torch.Generator().manual_seed(options.oracle_seed)
    noise = [
        {name: torch.rand(len(values), generator=generator) for name, values in truth.items()}
        for _ in range(RANDOM_SETS)
    ]
    choices: list[tuple[float, Importances]] = [
        (ratio, choice) for ratio in options.oracle_ratios for choice in (truth, *noise, *(row["seen"] for row in done))
    ]
    removals: list[list[Removal]] = [_sets(oracle, choice, ratio) for ratio, choice in choices]
    losses = oracle.ablation.losses([removal for part in removals for removal in part]).sum(1)
    per_pixel = (losses / oracle.ablation.pixels.sum()).split([len(part) for part in removals])
    by_group = iter(
        [dict(zip((group.name for group, _ in part), found.tolist(), strict=True))
         for part, found in zip(removals, per_pixel, strict=True)]
    )  # fmt: skip
    for row in done:
        row["set_test"] = {}
    for ratio in options.oracle_ratios:
        best, *random = (next(by_group) for _ in range(1 + RANDOM_SETS))
        for row in done:
            found = next(by_group)
            chance = sum(sum(draw[name] for draw in random) / RANDOM_SETS for name in found)
            own, least = sum(found.values()), sum(best[name] for name in found)
            row["set_test"][ratio] = {
                "gain": gain(chance, own, least),
                **{who: total / len(found) for who, total in (("random", chance), ("method", own), ("oracle", least))},
            }


def _sets(oracle: Oracle, choice: Importances, ratio: float) -> list[Removal]:
    """Each group's least important sampled channels."""
    found = []
    for group, channels in oracle.sampled.items():
        if group.name in choice:
            marked = bottom(choice[group.name], share_up(ratio, len(channels)), seed=0)
            found.append((group, tuple(itertools.compress(channels, marked.tolist()))))
    return found


def _describe(oracle: Oracle, session: Session, options: OracleOptions) -> dict[str, Any]:
    data, ablation = session.baseline.data, oracle.ablation
    return {
        "dataset": [data.name, data.dataset.root],
        "input_size": data.input_size,
        "images": len(ablation.pixels),
        "pixels": int(ablation.pixels.sum()),
        "chosen": f"at random from the training split, seed {options.oracle_seed}",
        "most_channels_of_a_group": options.oracle_units,
        "loss": float(ablation.whole.sum() / ablation.pixels.sum()),
        "ceiling": f"mean of {SPLITS} random splits of the images into halves",
        "standard_error": f"of the overlap, from {RESAMPLES} resamples of the images",
        "random_sets": RANDOM_SETS,
        "groups": {
            group.name: {"of": group.channels, "channels": channels, "loss_change": oracle.changes()[group.name]}
            for group, channels in oracle.sampled.items()
        },
    }


def _csv(record: Mapping[str, Any]) -> str:
    """One line for the ceiling and one a (method, seed)."""
    lines = [_flat({"method": "(ceiling)", "status": "done", **record["ceiling"]})]
    lines += [_flat(row) for row in record["rows"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def agreement_table(record: Mapping[str, Any]) -> Table:
    """The table for the console: the ceiling, then a line for each (method, seed)."""
    from rich import box
    from rich.table import Table

    oracle, ceiling = record["oracle"], record["ceiling"]["absolute"]
    table = Table(
        title=f"Agreement with the oracle: {oracle['images']} images, at most "
        f"{oracle['most_channels_of_a_group']} channels of each of {len(oracle['groups'])} groups",
        caption="overlap: share of the least important channels that is found, in percent; gain: of removing them\n"
        "together, 0 for random ones, 1 for the oracle's. Standard errors and more are in the files",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    ratios = list(ceiling["overlap"])
    heads = [f"overlap\n{ratio}" for ratio in ratios] + ["Spearman"] + [f"gain\n{ratio}" for ratio in ratios]
    table.add_column("method", no_wrap=True, vertical="bottom")
    table.add_column("seed", justify="right", no_wrap=True, vertical="bottom")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True, vertical="bottom")
    chance = [_percent(ceiling["overlap"][ratio]["chance"]) for ratio in ratios]
    table.add_row("chance", "-", *chance, "0.00", *["0.00"] * len(ratios))
    table.add_row("ceiling", "-", *_cells(ceiling), *["-"] * len(ratios), end_section=True)
    for row in record["rows"]:
        if row["status"] == "done":
            gains = [_number(row["set_test"][ratio]["gain"]) for ratio in ratios]
            table.add_row(row["method"], str(row["seed"]), *_cells(row["absolute"]), *gains)
        else:
            table.add_row(row["method"], str(row["seed"]), "failed", *["-"] * (len(heads) - 1))
    return table


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [*(_percent(cell["mean"]) for cell in found["overlap"].values()), _number(found["spearman"])]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
