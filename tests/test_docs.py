"""What README.md and docs/ say: links lead somewhere, commands and flags exist, name patterns fit their network."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from option_groups import GROUPS, SCRIPTS, script_parser
from scripts import ROOT

from bench import compare
from bench.channels.groups import find_groups
from bench.commands import export, predict, scan, specialists
from bench.datasets import DATASETS
from bench.models import MODELS, ModelSpec, build_model
from bench.pruners import methods
from bench.pruners.magnitude.rules import read_rules
from docs import write_results
from tests.device_day import __main__ as device_day

FOLDER = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(FOLDER.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
# Of programs that are not ours.
FOREIGN = {"--nproc_per_node", "--runs", "--shm-size"}
# A quoted word with a star in it.
PATTERN = re.compile(r"'([\w.*?\[\]=,-]*\*[\w.*?\[\]=,-]*)'")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page)))
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_names_every_page() -> None:
    index = FOLDER / "README.md"
    linked = {(FOLDER / link).resolve() for link in re.findall(r"\]\(([^)#]+)", text_of(index))}
    assert [name_of(page) for page in PAGES if page.is_relative_to(FOLDER) and page not in {index, *linked}] == []
    # And the first page leads to what a user does.
    first = text_of(ROOT / "README.md")
    tasks = ("train", "prune", "compare", "finetune", "evaluate", "data", "network", "method", "python", "files")
    assert [task for task in tasks if f"](docs/{task}.md)" not in first] == []


def test_the_first_screen_sells_and_runs() -> None:
    lines = text_of(ROOT / "README.md").splitlines()
    screen = "\n".join(lines[:45])
    assert "python benchmark.py --config configs/quick.yaml" in screen
    assert "| baseline |" in screen and "](docs/results/quick.png)" in screen
    assert len(" ".join(lines).split()) < 1600


# --- commands


class Command(NamedTuple):
    """A command that a page shows: the words behind `python`."""

    page: str
    words: tuple[str, ...]


def shell_lines(page: Path) -> Iterator[str]:
    text = text_of(page)
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`((?:python|torchrun|pip) [^`\n]+)`", FENCE.sub("", text))


def commands() -> Iterator[Command]:
    for page in PAGES:
        for line in shell_lines(page):
            for part in re.split(r"&&|;", line):
                program, *words = shlex.split(part, comments=True) or [""]
                if program == "torchrun":
                    words = [*itertools.dropwhile(lambda word: not word.endswith(".py"), words)]
                if program in ("python", "torchrun"):
                    yield Command(name_of(page), tuple(words))


COMMANDS = sorted(set(commands()))


def test_the_five_commands_are_shown() -> None:
    assert {command.words[0] for command in COMMANDS if command.page == "README.md"} >= set(SCRIPTS)
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {' '.join(command.words)[:60]}")
def test_a_command_is_one_that_parses(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *words = command.words
    if first == "-m":
        module, *words = words
        if module == "pytest":
            assert [word for word in words if word.startswith("tests/") and not word.endswith("FILE.py")
                    and not (ROOT / word).exists()] == []  # fmt: skip
        elif not module.endswith("NAME"):
            assert importlib.util.find_spec(module)
        return
    if first.startswith("examples/") or first.endswith("prune_in_python.py"):
        assert (ROOT / "examples" / Path(first).name).is_file()
        return
    assert first in SCRIPTS
    # What an earlier command of the page would have written.
    monkeypatch.chdir(tmp_path)
    found = Path("runs/sensitivity/sensitivity_ratios.yaml")
    found.parent.mkdir(parents=True)
    found.write_text("ratio-of: {downs.0.conv.0: 0.5}\n")
    arguments = script_parser(first).parse(words)
    model = getattr(arguments, "model", None)
    assert model in (None, *MODELS) or (ROOT / model.partition(":")[0]).is_file()
    assert getattr(arguments, "dataset", None) in (None, *DATASETS)
    chosen = {getattr(arguments, "method", None), *(getattr(arguments, "methods", None) or ())}
    assert chosen <= {None, "spread", *methods()}


@every_page
def test_a_flag_is_one_that_exists(page: Path) -> None:
    parsers = [*map(script_parser, SCRIPTS), *(command.build_parser() for command in (compare, scan, predict, export))]
    parsers += map(specialists.build_parser, specialists.STEPS)
    parsers += [write_results.build_parser(), device_day.build_parser()]
    known = {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    shown = set(FLAG.findall(text_of(page)))
    assert shown - known - FOREIGN == set()


# --- names


@cache
def layers_that_make_channels(network: str) -> list[str]:
    # Which layers there are does not depend on their weights, which take long to draw.
    with torch.device("meta"):
        model = build_model(ModelSpec(network, 12))
    model.to_empty(device="cpu").load_state_dict({name: torch.zeros(t.shape) for name, t in model.state_dict().items()})
    return [producer.layer.layer for group in find_groups(model) for producer in group.producers]


def network_beside(text: str, start: int, end: int) -> str | None:
    """The registered network that is named next after a pattern, or else last before it."""
    names = sorted(MODELS, key=len, reverse=True)
    found = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, names))})(?!\w)")
    after, before = found.search(text, end), [match[1] for match in found.finditer(text, 0, start)]
    return after[1] if after else before[-1] if before else None


def shown_patterns(text: str) -> Iterator[tuple[str, str | None]]:
    """Each name pattern of a text and the network it is shown with, in the same paragraph or row."""
    for part in re.split(r"\n\n|\n(?=\|)", text):
        for match in PATTERN.finditer(part):
            for pattern in match[1].split(","):
                yield pattern.partition("=")[0], network_beside(part, *match.span())


PLACES = {name_of(page): text_of(page) for page in PAGES} | {
    f"--{spec.name.replace('_', '-')}": spec.metadata["help"] for group in GROUPS for spec in fields(group)
}
WITH_PATTERNS = {place: found for place, text in PLACES.items() if (found := sorted(set(shown_patterns(text))))}


def test_patterns_are_shown_where_they_are_taken() -> None:
    assert {"--ignore", "--ratio-of", "--reconstruction-layers", "docs/prune.md", "docs/network.md"} <= set(
        WITH_PATTERNS
    )


@pytest.mark.parametrize("place", WITH_PATTERNS)
def test_a_pattern_fits_the_network_shown_beside_it(place: str) -> None:
    for pattern, network in WITH_PATTERNS[place]:
        assert network, f"'{pattern}' is shown with no network"
        assert fnmatch.filter(layers_that_make_channels(network), pattern), f"'{pattern}' fits no layer of {network}"


def test_every_pattern_of_the_rule_table_fits_a_network() -> None:
    names = set()
    for network in MODELS:
        with torch.device("meta"):
            names |= {name for name, _ in build_model(ModelSpec(network, 12)).named_modules()}
    patterns = {pattern for rule in read_rules("configs/magnitude_segmentation.yaml") for pattern in rule.name}
    assert [pattern for pattern in sorted(patterns) if not fnmatch.filter(names, pattern)] == []


def test_nothing_is_left_out() -> None:
    def named(page: str) -> set[str]:
        return set(re.findall(r"`([\w]+)`", text_of(ROOT / page)))

    assert set(methods()) <= named("docs/prune.md")
    assert set(MODELS) <= named("docs/network.md")
    assert set(DATASETS) <= named("docs/data.md")
    chinese = text_of(ROOT / "README.md").rpartition("## ")[2]
    assert [method for method in methods() if not re.search(rf"(?<!\w){method}(?![a-z_0-9])", chinese)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "architecture.md"], ids=name_of)
def test_python_blocks_are_python(page: Path) -> None:
    # Those of the page about the code are sketches; a line that begins with a name in quotes is an entry of a registry.
    for language, block in FENCE.findall(text_of(page)):
        if language == "python" and not re.match('"[^"]', block):
            ast.parse(block)
