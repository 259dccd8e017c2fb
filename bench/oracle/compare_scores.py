"""Measures how well methods' scores tell which channels really matter.

A method is judged by the scores it gave, the ones its pruning used: against the loss changes of single channels
(`loss_changes`), and against the losses without whole sets of channels (`set_removal`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.engine.session import Session
from bench.errors import as_flags
from bench.oracle.agreement import Importances, agreement, ceiling, overlap_error
from bench.oracle.agreement_record import FORMAT, RECORD, AgreementRecord, AgreementRow, write_agreement
from bench.oracle.loss_changes import Oracle, measure_oracle
from bench.oracle.options import OracleOptions
from bench.oracle.set_removal import RANDOM_SETS, set_tests
from bench.plan.pruning_plan import Scores
from bench.plan.target import Goal
from bench.pruners.base import Method
from bench.system.console import say
from bench.system.failures import explained, in_one_line
from bench.system.files import make_folder, plain
from bench.system.locks import lock_of, locked
from bench.system.provenance import provenance

# What is random in the statistics: halves of the images, and resampled images.
SPLITS, RESAMPLES = 10, 100

# How the oracle's loss changes are read: a channel matters by how much the loss changes, or by how much it grows.
_KINDS = {"absolute": Oracle.magnitudes, "signed": Oracle.changes}


def measure_agreement(
    session: Session,
    pruners: Mapping[str, Method],
    goal: Goal,
    seeds: Sequence[int],
    options: OracleOptions,
    folder: Path,
) -> AgreementRecord:
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
    # One process removes channels, and the others find what it measured.
    with locked(lock_of(make_folder(folder) / RECORD), "the oracle"):
        record = _measured(session, pruners, goal, seeds, options, folder)
        write_agreement(folder, record)
    say(f"-> {folder / RECORD}, .csv")
    return record


def _measured(
    session: Session,
    pruners: Mapping[str, Method],
    goal: Goal,
    seeds: Sequence[int],
    options: OracleOptions,
    folder: Path,
) -> AgreementRecord:
    oracle = measure_oracle(session, options, folder)
    rows: list[AgreementRow] = []
    judged: list[Importances] = []
    for (name, pruner), seed in itertools.product(pruners.items(), dict.fromkeys(seeds)):
        try:
            scores, file = session.scores(pruner, seed, session.target(pruner, goal))
        except Exception as error:
            if explained(error) is None:
                raise
            rows.append({"method": name, "seed": seed, "status": "failed", "error": as_flags(in_one_line(error))})
            continue
        rows.append({"method": name, "seed": seed, "status": "done", "error": None, "scores": file})
        judged.append(_seen(scores, oracle))
    done = [row for row in rows if row["status"] == "done"]
    found = zip(done, _agreements(judged, oracle, options), set_tests(oracle, judged, options), strict=True)
    for row, agreements, tests in found:
        row |= {**agreements, "set_test": tests}
    return plain(
        {
            "format": FORMAT,
            "baseline": {"path": session.baseline.checkpoint, "sha256": session.baseline.digest},
            "model": session.baseline.saved.spec,
            "oracle": _describe(oracle, session, options),
            "ceiling": {kind: _ceiling(oracle, kind, options) for kind in _KINDS},
            "rows": rows,
            "provenance": provenance(),
        }
    )


def _seen(scores: Scores, oracle: Oracle) -> Importances:
    """A method's scores of what the oracle looked at; groups that the method cannot tell about are left out."""
    return {
        group.name: scores[group.name][channels].double()
        for group, channels in oracle.sampled.items()
        if group.name in scores
    }


def _agreements(judged: Sequence[Importances], oracle: Oracle, options: OracleOptions) -> list[dict[str, Any]]:
    """For each method how far its scores agree with the oracle, by kind, with the error that the images leave."""
    images = len(oracle.ablation.pixels)
    drawn = torch.randint(images, (RESAMPLES, images), generator=torch.Generator().manual_seed(options.oracle_seed))
    rows: list[dict[str, Any]] = [{} for _ in judged]
    for kind, importance in _KINDS.items():
        truth, resampled = importance(oracle), importance(oracle, drawn)
        for row, seen in zip(rows, judged, strict=True):
            row[kind] = agreement(seen, truth, options.oracle_ratios)
            for ratio, found in row[kind]["overlap"].items():
                found["standard_error"] = overlap_error(seen, resampled, ratio)
    return rows


def _ceiling(oracle: Oracle, kind: str, options: OracleOptions) -> dict[str, Any]:
    images = len(oracle.ablation.pixels)
    return ceiling(lambda half: _KINDS[kind](oracle, half), images, options.oracle_ratios, SPLITS)


def _describe(oracle: Oracle, session: Session, options: OracleOptions) -> dict[str, Any]:
    """What the oracle looked at, and what it found."""
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
