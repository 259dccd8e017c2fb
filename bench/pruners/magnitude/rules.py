"""The rules of magnitude pruning: which category a layer is of, and which share of its weights becomes zero."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from torch import Tensor, nn

from bench.channels.layer_axes import is_depthwise
from bench.config.shipped import located
from bench.errors import UsageError, first_line

DEPTHWISE = "depthwise"
"""What a rule may ask for as a type besides class names: a convolution with one filter a channel."""

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        category: its name.
        ratio: share of the weights to zero, in [0, 1); 0 never touches them.
        name: patterns (`fnmatch`) of which the layer's name fits one; none asks for no name.
        type: patterns of which the type of the layer, or of a module around it, fits one; likewise.
    """

    category: str
    ratio: float
    name: tuple[str, ...] = ()
    type: tuple[str, ...] = ()

    def fits(self, name: str, types: Collection[str]) -> bool:
        """Whether a layer of that name and those types is of this category."""
        is_named = not self.name or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.name)
        is_typed = not self.type or any(fnmatch.fnmatchcase(kind, wish) for kind in types for wish in self.type)
        return is_named and is_typed


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight tensor of a layer, and the rule for it.

    Attributes:
        name: the parameter's name.
        layer: the layer's name.
        rule: the first that fits, or None.
        values: the parameter.
    """

    name: str
    layer: str
    rule: Rule | None
    values: Tensor


def weights_of(model: nn.Module, rules: Sequence[Rule]) -> Iterator[Weight]:
    """The weight tensors of convolutions, linear layers and attention, in the network's order, shared ones once.

    Biases, norms, embeddings and free parameters are not among them: no rule can touch those.
    """
    modules, seen = dict(model.named_modules()), set()
    for layer_name, layer in modules.items():
        if not isinstance(layer, _LAYERS):
            continue
        types = _types(modules, layer_name)
        rule = next((rule for rule in rules if rule.fits(layer_name, types)), None)
        for own_name, parameter in layer.named_parameters(recurse=False):
            if own_name.endswith("weight") and id(parameter) not in seen:
                seen.add(id(parameter))
                yield Weight(f"{layer_name}.{own_name}", layer_name, rule, parameter.detach())


def _types(modules: dict[str, nn.Module], name: str) -> set[str]:
    """Types of a layer and of all modules around it but the network itself."""
    parts = name.split(".")
    around = (modules[".".join(parts[: depth + 1])] for depth in range(len(parts)))
    return {type(module).__name__ for module in around} | ({DEPTHWISE} if is_depthwise(modules[name]) else set())


def read_rules(path: str) -> tuple[Rule, ...]:
    """Reads a table.

    Args:
        path: the YAML file; those in `configs/` are found from any folder.

    Raises:
        UsageError: not a file, not YAML, or not a table; the first thing wrong is named.
    """
    found = located(path)
    if not found.is_file():
        raise UsageError(f"rule table {path} does not exist; the project's are in configs/")
    try:
        content = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"rule table {path} is not YAML: {first_line(error)}") from error
    rows = content.get("rules") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"rule table {path} must hold a list named 'rules' with at least one rule")
    rules = tuple(_rule(row, f"rule table {path}, rule {number}") for number, row in enumerate(rows, start=1))
    categories = [rule.category for rule in rules]
    for category in categories:
        if categories.count(category) > 1:
            raise UsageError(f"rule table {path} has category '{category}' twice; give each rule its own")
    return rules


def _rule(row: Any, where: str) -> Rule:
    if not isinstance(row, dict):
        raise UsageError(f"{where} must be a mapping with category and ratio, not {row!r}")
    known = Rule.__dataclass_fields__
    for key in row:
        if key not in known:
            raise UsageError(f"{where} has the unknown key '{key}'; known: {', '.join(known)}")
    category, ratio = row.get("category"), row.get("ratio")
    if not isinstance(category, str) or not category:
        raise UsageError(f"{where} needs a category, a name of its own")
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 1:
        raise UsageError(f"{where} ({category}) needs a ratio in [0, 1), not {ratio!r}")
    patterns = {key: _patterns(row.get(key, ()), f"{where} ({category}): {key}") for key in ("name", "type")}
    return Rule(category, float(ratio), **patterns)


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    patterns = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else (None,)
    if not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise UsageError(f"{where} must be a pattern or a list of patterns, not {value!r}")
    return patterns
