"""Builds the console table of how well methods' scores agree with the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.oracle.agreement_record import AgreementRecord
from bench.report.console_tables import framed

if TYPE_CHECKING:
    from rich.table import Table

_CAPTION = (
    "overlap: share of the least important channels that is found, in percent; gain: of removing them\n"
    "together, 0 for random ones, 1 for the oracle's. Standard errors and more are in the files"
)


def agreement_table(record: AgreementRecord) -> Table:
    """The table of one `oracle_agreement.json`: chance, the ceiling, then a line for each (method, seed).

    Example:
        console().print(agreement_table(read_json("oracle_agreement.json")))

    Args:
        record: what the file holds.
    """
    oracle, ceiling = record["oracle"], record["ceiling"]["absolute"]
    ratios = list(ceiling["overlap"])
    title = (
        f"Agreement with the oracle: {oracle['images']} images, at most "
        f"{oracle['most_channels_of_a_group']} channels of each of {len(oracle['groups'])} groups"
    )
    heads = [f"overlap\n{ratio}" for ratio in ratios] + ["Spearman"] + [f"gain\n{ratio}" for ratio in ratios]
    table = framed(title, ["method", "seed", *heads], _CAPTION, show_edge=True, caption_justify="center")
    chance = [_percent(ceiling["overlap"][ratio]["chance"]) for ratio in ratios]
    table.add_row("chance", "-", *chance, "0.00", *["0.00"] * len(ratios))
    table.add_row("ceiling", "-", *_overlaps(ceiling), *["-"] * len(ratios), end_section=True)
    for row in record["rows"]:
        if row["status"] == "done":
            gains = [_number(row["set_test"][ratio]["gain"]) for ratio in ratios]
            table.add_row(row["method"], str(row["seed"]), *_overlaps(row["absolute"]), *gains)
        else:
            table.add_row(row["method"], str(row["seed"]), "failed", *["-"] * (len(heads) - 1))
    return table


def _overlaps(found: Mapping[str, Any]) -> list[str]:
    """Overlap at each ratio, and the rank correlation."""
    return [*(_percent(overlap["mean"]) for overlap in found["overlap"].values()), _number(found["spearman"])]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
