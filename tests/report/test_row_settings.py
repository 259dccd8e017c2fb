"""What tells rows of one method apart that were made in other ways."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from bench.config.declare import default_of
from bench.engine.options import PruneOptions
from bench.recover.options import RepairOptions
from bench.report.comparison_rows import entries
from bench.report.comparison_text import usual_note
from bench.report.row_settings import settings_of, usual_treatment, variants
from bench.report.versus_random import gaps_to_control

# What records of earlier versions do not say.
BEFORE = {"iterations": 1, "objective": "channels", "sensitivity_curves": None, "refine": 0, "check": None}


def row(method: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    done = {"method": method, "target": "channels", "ratio": 0.3, "seed": seed, "status": "done", "macs_kept": 0.5}
    return {**done, "miou_finetuned": 0.4, **changes}


def named(*rows: dict[str, Any]) -> list[str]:
    return [str(variant) for variant in variants(rows)]


def test_settings_leave_out_what_only_measures_and_what_is_a_jobs_own():
    options = {"min_keep": 0.1, "evaluate": True, "reconstruction_images": 8, "reconstruction_layers": []}
    recipe = {"epochs": 2, "lr": 0.1, "seed": 0, "pruned": "ab"}
    found = settings_of({"term": "gate"}, options, None, recipe)
    assert found["method_options"] == {"term": "gate"}
    assert found["pruning_options"] == {"min_keep": 0.1, "repair": "none", **BEFORE}
    assert found["finetune_epochs"] == 2
    assert (
        found["finetune_recipe"] == settings_of({}, {}, None, {**recipe, "seed": 1, "pruned": "c"})["finetune_recipe"]
    )
    assert found["finetune_recipe"] != settings_of({}, {}, None, {**recipe, "lr": 0.2})["finetune_recipe"]
    several = settings_of({}, options, {"iterations": 3, "ratio_schedule": "linear"}, None)
    schedule = {"iterations": 3, "ratio_schedule": "linear"}
    assert several["pruning_options"] == {"min_keep": 0.1, "repair": "none", **BEFORE, **schedule}
    assert (several["finetune_epochs"], several["finetune_recipe"]) == (None, None)


def test_what_came_later_tells_from_records_of_the_time_before():
    later = {spec.name: default_of(spec) for spec in fields(PruneOptions) if spec.metadata["later"]}
    assert later.items() <= BEFORE.items()
    old = {"min_keep": 0.1, "absorb_bias": False}
    ways = [old, {**old, **later, "objective": "macs"}, {**old, "absorb_bias": True}]
    ways += [{**old, **later, **asdict(RepairOptions("least-squares"))}, {**old, **later}]
    settings = [settings_of({}, way, None, None) for way in ways]
    assert settings[0] == settings[4]
    told = named(*(row("l1", **each) for each in settings[:4]))
    assert told == ["repair=none", "objective=macs, repair=none", "repair=bias", "repair=least-squares"]


def test_repairs_of_the_time_before_counted_all_positions_the_same():
    now = asdict(RepairOptions("least-squares"))
    before = {name: value for name, value in now.items() if name != "repair_balance"}
    settings = [settings_of({}, way, None, None) for way in (before, {**now, "repair_balance": 0.0}, now)]
    assert settings[0] == settings[1]
    told = named(row("l1", **settings[0]), row("l1", **settings[2]))
    assert told == ["repair_balance=0.0", "repair_balance=0.5"]


def test_what_all_have_and_what_is_not_known_tells_nothing():
    same = {"method_options": {"term": "gate"}, "pruning_options": {"min_keep": 0.1}}
    assert named(row("taylor", 0, **same), row("taylor", 1, **same), row("l1"), row("taylor")) == [""] * 4


def test_a_name_says_what_is_not_as_in_most_rows():
    ways = [{"repair": "yes", "objective": "channels"}] * 3 + [
        {"repair": "no", "objective": "channels"},
        {"repair": "yes", "objective": "macs"},
    ]
    rows = [row("l1", seed, pruning_options=way) for seed, way in enumerate(ways)]
    assert named(*rows) == ["", "", "", "repair=no", "objective=macs"]
    assert usual_treatment(rows) == "repair=yes, objective=channels"
    assert usual_note(rows) == ["Where a line does not say otherwise: repair=yes, objective=channels."]
    treatments = {variant.treatment for variant in variants(rows)}
    assert treatments == {
        "repair=yes, objective=channels", "repair=no, objective=channels", "repair=yes, objective=macs",
    }, "which what is set against each other goes by"  # fmt: skip
    assert usual_treatment(rows[:3]) == "" and usual_note(rows[:3]) == []


def test_half_of_the_rows_are_not_most():
    rows = [row("l1", pruning_options={"repair": repair}) for repair in ("yes", "no")]
    assert (named(*rows), usual_treatment(rows)) == (["repair=yes", "repair=no"], "")


def test_no_two_treatments_get_one_name():
    rows = [row("l1", pruning_options=way) for way in ({"a": 1}, {"a": 1}, {"a": 1}, {}, {"a": 2})]
    assert named(*rows) == ["a=1", "a=1", "a=1", "", "a=2"], "one does not know it"
    assert usual_treatment(rows) == ""


def test_options_of_a_method_are_compared_with_those_of_that_method():
    rows = [row("taylor", method_options={"term": term, "x": 1}) for term in ("gate", "gamma")]
    assert named(*rows, row("papm", method_options={"term": 3})) == ["term=gate", "term=gamma", ""]


def test_what_methods_share_tells_all_of_them_apart():
    rows = [row("l1", pruning_options={"min_keep": 0.1, "ignore": []}), row("l2", pruning_options={"min_keep": 0.2})]
    assert named(*rows) == ["min_keep=0.1", "min_keep=0.2"]


def test_fine_tuning_is_told_apart_by_its_epochs_or_else_its_recipe():
    one, two, other = (
        {"finetune_epochs": n, "finetune_recipe": f"{name}bcdefgh"} for n, name in ((1, "a"), (2, "b"), (1, "c"))
    )
    assert named(row("l1", **one), row("l1", **two), row("l1")) == ["epochs=1", "epochs=2", ""]
    assert named(row("l1", **one), row("l1", **other)) == ["epochs=1 (abcdef)", "epochs=1 (cbcdef)"]


def test_entries_take_no_other_way_for_a_seed():
    rows = [row("l1", seed, pruning_options={"min_keep": keep}) for keep in (0.1, 0.2) for seed in (0, 1)]
    rows.insert(1, row("taylor", pruning_options={"min_keep": 0.2}))
    found = [(entry.name, len(entry.done)) for entry in entries(rows)]
    assert found == [("l1", 2), ("l1 min_keep=0.1", 2), ("taylor", 1)], "what most rows have comes first"


def test_the_control_is_that_of_the_same_treatment():
    rows = [
        row(method, seed, pruning_options={"min_keep": keep}, miou_finetuned=miou + 0.01 * seed)
        for keep, method, miou in ((0.1, "random", 0.30), (0.1, "l1", 0.35), (0.2, "random", 0.50), (0.2, "l1", 0.45))
        for seed in (0, 1)
    ]
    gaps = {gap.method: (round(gap.points), gap.seeds) for gap in gaps_to_control(rows, "miou_finetuned")}
    assert gaps == {"l1 min_keep=0.1": (5, 2), "l1 min_keep=0.2": (-5, 2)}
