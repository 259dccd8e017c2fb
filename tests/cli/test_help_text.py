"""Help and listings: what they show, and that they answer at once."""

from __future__ import annotations

import dataclasses
import importlib
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from option_groups import GROUPS, SCRIPTS, parser_of, script_parser
from scripts import Outcome

from bench.cli.help_text import examples_in
from bench.cli.parser import Parser
from bench.config.values import parse_settings
from bench.models import MODELS
from bench.pruners import make_pruner, method_class, methods

Call = Callable[..., Outcome]


def flags_in(text: str) -> list[str]:
    """The first spelling of each option that a help text lists."""
    return [line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  -")]


def flags_of(parser: Parser) -> list[str]:
    return [action.option_strings[0] for group in parser._action_groups for action in group._group_actions]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_what_most_people_use(call: Call, script: str) -> None:
    done = call(script, "--help")
    assert (done.code, done.err) == (0, "")
    shown, parser = flags_in(done.out), script_parser(script)
    common = importlib.import_module(f"bench.commands.{script.removesuffix('.py')}").COMMON.split()
    assert sorted(shown) == sorted(["-h", "--help-all", "--config", *common])
    assert set(common) <= set(flags_of(parser))
    assert len(shown) <= 27 < len(flags_of(parser))
    assert "--help-all shows every one" in done.out
    assert "(default: 0)" in done.out and "\ndata:\n" in done.out
    assert call(script, "-h") == done


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_all_shows_every_option(call: Call, script: str) -> None:
    done = call(script, "--help-all")
    assert (done.code, done.err) == (0, "")
    assert f"usage: {script} [-h]" in done.out
    assert flags_in(done.out) == flags_of(script_parser(script))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_examples_of_help_are_commands_to_copy(call: Call, script: str) -> None:
    text = call(script, "--help").out
    lines = text[text.index("\nexample") :].split(":\n", 1)[1].replace("\\\n", "").splitlines()
    commands = [shlex.split(line) for line in lines]
    assert commands
    module = importlib.import_module(f"bench.commands.{script.removesuffix('.py')}")
    assert commands == [command.split() for command in examples_in(module.__doc__)]
    for python, name, *words in commands:
        assert (python, name) == ("python", script)
        script_parser(script).parse(words)


def test_examples_are_what_a_docstring_indents() -> None:
    docstring = "What it does.\n\n    python x.py --a 1 \
        --b 2\n    python y.py\n\nAnd more.\n"
    assert examples_in(docstring) == ["python x.py --a 1 --b 2", "python y.py"]
    # As under python -OO.
    assert examples_in(None) == []
    assert "example" not in Parser("x.py", "", common="--debug").format_help()


def test_a_parser_that_calls_nothing_common_shows_all() -> None:
    parser = parser_of()
    assert flags_in(parser.format_help()) == flags_of(parser)
    assert flags_in(Parser("x.py", "", common="--debug").format_help()) == ["-h", "--help-all", "--config", "--debug"]


def test_a_switch_says_its_default_once() -> None:
    for group in GROUPS:
        for line in parser_of(group).format_help().splitlines():
            assert line.count("(default: ") <= 1
    pairs = [
        action
        for script in SCRIPTS
        for action in script_parser(script)._actions
        if any(flag.startswith("--no-") for flag in action.option_strings)
    ]
    assert len(pairs) > 50
    others = {pair.dest for pair in pairs if not pair.help.endswith(("(default: on)", "(default: off)"))}
    # Neither: what it is by default is measured.
    # Nor this one, which is also what to do.
    assert others == {"latency_channels_last", "check"}
    text = " ".join(parser_of().format_help().split())
    assert "--latency, --no-latency measure latency (default: on)" in text
    assert "--flip, --no-flip average the logits with those of the mirrored image (default: off)" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_at_once(script, project_root):
    # Processor time, because other work on the machine must not count.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, project_root / script, "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    assert f"usage: {script}" in shown.stdout
    assert "--num-workers" in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    ("script", "flag", "names"),
    [
        *((script, "--list-models", sorted(MODELS)) for script in SCRIPTS),
        *((script, "--list-methods", sorted(methods())) for script in ("prune.py", "benchmark.py")),
        ("prune.py", "--help", []),
    ],
)
def test_listings_name_everything_and_load_nothing_heavy(script, flag, names, project_root):
    command = [sys.executable, "-X", "importtime", project_root / script, flag]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0
    if names:
        assert sorted(line.split()[0] for line in shown.stdout.splitlines()) == names
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in shown.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "torchvision", "torch_pruning", "numpy", "matplotlib", "PIL"}


def test_only_commands_that_prune_list_methods(call: Call) -> None:
    for script in ("train.py", "eval.py", "finetune_batch.py"):
        assert "unrecognized arguments: --list-methods" in call(script, "--list-methods").err


def test_methods_are_listed_with_their_options(call: Call) -> None:
    done = call("prune.py", "--list-methods", "-v")
    assert (done.code, done.err) == (0, "")
    paragraphs = re.split(r"\n(?! )", done.out.strip())
    assert [paragraph.partition(":")[0] for paragraph in paragraphs] == list(methods())
    for name, paragraph in zip(methods(), paragraphs, strict=True):
        kind = method_class(name)
        assert kind.paper in paragraph
        for spec in dataclasses.fields(kind):
            if spec.init:
                (line,) = (line for line in paragraph.splitlines() if line.startswith(f"    --opt {spec.name}="))
                assert spec.metadata["help"] and line.endswith(spec.metadata["help"])
    assert "--opt term=gate  gate, or gamma, which" in done.out
    assert "--opt classes=[]      count activations" in done.out
    assert "--opt fresh=false   " in done.out


def test_the_defaults_that_are_shown_may_be_typed() -> None:
    for name in methods():
        for line in method_class(name).option_lines():
            settings = parse_settings(line.split()[0])
            assert make_pruner(name, settings) == make_pruner(name)


def test_more_of_no_listing_is_a_usage_error(call: Call) -> None:
    done = call("benchmark.py", "-v")
    assert done.code == 2 and "-v shows more of --list-methods; pass that too" in done.err
