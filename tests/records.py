"""Checks records against the schemas that document them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from referencing import Registry, Resource

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schemas"


@cache
def _schemas() -> dict[str, Any]:
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(SCHEMAS.glob("*.json"))}


def validator(kind: str) -> Draft202012Validator:
    """Validates records whose `format` is `kind/...`."""
    resources = [(name, Resource.from_contents(schema)) for name, schema in _schemas().items()]
    return Draft202012Validator(_schemas()[f"{kind}.json"], registry=Registry().with_resources(resources))


def faults(record: dict[str, Any]) -> list[str]:
    """What a record has that its schema does not allow, or lacks: one line each, and where."""
    errors = validator(record["format"].partition("/")[0]).iter_errors(record)
    # Where a record may also be null, the error is inside the other choice.
    return [f"{error.json_path}: {error.message[:300]}" for error in (best_match([outer]) for outer in errors)]
