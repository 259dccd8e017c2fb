"""How the networks of a comparison were made besides method, goal and seed, and what tells rows apart by that.

Two runs of a benchmark in one folder may prune by the same method with other options, or fine-tune by another recipe:
such rows are no seeds of each other.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from bench.system.files import digest, plain

# What is measured besides, and changes no network.
_MEASURING = ("evaluate", "reconstruction_images", "reconstruction_layers")
# How it was done before there were such options, which records of that time do not have.
_BEFORE = {"iterations": 1, "objective": "channels", "sensitivity_curves": None, "refine": 0, "check": None}
# Of a recipe: what is a job's own.
_OWN = ("seed", "pruned", "shape")
# Of a recipe: what new weights have no use for.
_OF_A_BACKBONE = ("backbone_lr_factor", "freeze_backbone_epochs")


class Settings(TypedDict, total=False):
    """What a row says of it; summaries of the time before rows did say nothing."""

    method_options: dict[str, Any]
    pruning_options: dict[str, Any]
    finetune_epochs: int | None
    finetune_recipe: str | None


class Variant(NamedTuple):
    """What tells a row from others of its method.

    Attributes:
        options: of the method, `key=value`; empty where all rows of the method have the same.
        treatment: what all methods share: how they prune and fine-tune; empty where it is the same for all rows.
        unusual: the part of `treatment` that is not as in most rows (`usual_treatment`).
    """

    options: str
    treatment: str
    unusual: str

    def __str__(self) -> str:
        return " ".join(filter(None, (self.options, self.unusual)))


def settings_of(
    method_options: Mapping[str, Any],
    pruning_options: Mapping[str, Any],
    schedule: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
) -> Settings:
    """The settings of a row.

    Args:
        method_options: of the method.
        pruning_options: `Session.settings`, whatever fields there were when it was written.
        schedule: of several cuts; None for one.
        recipe: of fine-tuning, seed and pruned network included; None without.
    """
    made = {key: value for key, value in pruning_options.items() if key not in _MEASURING}
    # Both spellings are one kind of repair.
    absorbed = made.pop("absorb_bias", False)
    made.setdefault("repair", "bias" if absorbed else "none")
    if made["repair"] == "least-squares":
        made.setdefault("repair_balance", 0.0)
    shared = {key: value for key, value in (recipe or {}).items() if key not in _OWN}
    return plain(
        {
            "method_options": dict(method_options),
            "pruning_options": {**_BEFORE, **made, **(schedule or {})},
            "finetune_epochs": shared.get("epochs"),
            "finetune_recipe": digest(shared) if shared else None,
        }
    )


def is_same_training(finetune: Mapping[str, Any], control: Mapping[str, Any]) -> bool:
    """Whether a control was trained by the recipe of a fine-tuning, as far as that is one for new weights."""
    one, other = (
        {key: value for key, value in recipe.items() if key not in (*_OWN, *_OF_A_BACKBONE, "tensorboard")}
        for recipe in (finetune, control)
    )
    return one == other


def variants(rows: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """What tells each row from the others, `key=value` for the keys whose values differ."""
    treatments = _treatments(rows)
    shared = _differing(treatments)
    usual = _usual(treatments, shared)
    of_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        of_method.setdefault(row["method"], []).append(row.get("method_options") or {})
    own = {method: _differing(options) for method, options in of_method.items()}
    return [
        Variant(
            _told(row.get("method_options") or {}, own[row["method"]]),
            _told(treatment, shared),
            _told(treatment, [key for key in shared if _text(treatment.get(key)) != usual.get(key)]),
        )
        for row, treatment in zip(rows, treatments, strict=True)
    ]


def usual_treatment(rows: Sequence[Mapping[str, Any]]) -> str:
    """What rows whose name does not say otherwise have in common, of what others have not; empty where all say it."""
    treatments = _treatments(rows)
    return ", ".join(f"{key}={text}" for key, text in _usual(treatments, _differing(treatments)).items())


def _usual(treatments: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, str]:
    """The value that more than half of all rows have, of the keys for which there is one.

    Nothing where a row would be named like another that was treated differently, because it does not know a key.
    """
    usual = {}
    for key in keys:
        known = Counter(_text(treatment[key]) for treatment in treatments if key in treatment)
        text, count = known.most_common(1)[0]
        if 2 * count > len(treatments):
            usual[key] = text
    unsaid = {_told(each, [key for key in keys if _text(each.get(key)) != usual.get(key)]) for each in treatments}
    return usual if len(unsaid) == len({_told(each, keys) for each in treatments}) else {}


def _treatments(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How each network was pruned and fine-tuned."""
    recipes = {(row.get("finetune_epochs"), row.get("finetune_recipe")) for row in rows}
    twice = {epochs for epochs, count in Counter(epochs for epochs, _ in recipes).items() if count > 1}
    return [_treatment(row, twice) for row in rows]


def _treatment(row: Mapping[str, Any], twice: set[int | None]) -> dict[str, Any]:
    """How a row's network was pruned and fine-tuned, by name; nothing of what is not known or was not done."""
    treatment = dict(row.get("pruning_options") or {})
    epochs = row.get("finetune_epochs")
    if epochs is not None:
        # Recipes of the same length are told apart by their digest.
        treatment["epochs"] = f"{epochs} ({row['finetune_recipe'][:6]})" if epochs in twice else epochs
    return treatment


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that have more than one value among those who know them."""
    values: dict[str, set[str]] = {}
    for found in settings:
        for key, value in found.items():
            values.setdefault(key, set()).add(_text(value))
    return [key for key, texts in values.items() if len(texts) > 1]


def _told(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={_text(settings[key])}" for key in keys if key in settings)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
