"""What `--help` shows: the options most people use, and an example of each command."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Collection

_WIDTH = 100


def short_help(parser: argparse.ArgumentParser, flags: Collection[str], examples: list[str]) -> str:
    """Help that can be read at a glance.

    Args:
        parser: what it is about.
        flags: those it shows, under the headings they have in the parser.
        examples: commands to copy.
    """
    formatter = parser._get_formatter()
    formatter.add_usage("%(prog)s [options]", [], [])
    formatter.add_text(parser.description)
    for group in parser._action_groups:
        formatter.start_section(group.title)
        formatter.add_arguments(
            [action for action in group._group_actions if not flags.isdisjoint(action.option_strings)]
        )
        formatter.end_section()
    lines = [formatter.format_help(), "These are the options most people use; --help-all shows every one."]
    if examples:
        lines += ["", "example:" if len(examples) == 1 else "examples:"]
        lines += [textwrap.indent(_in_lines(command), "  ") for command in examples]
    return "\n".join(lines) + "\n"


def examples_in(docstring: str | None) -> list[str]:
    """The commands a docstring shows, one a line: what it indents. Python has joined lines that end in a backslash."""
    lines = (docstring or "").splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("    ")]


def _in_lines(command: str) -> str:
    """A command on as many lines as it needs, a flag and its value on the same one."""
    whole = re.sub(r"(--\S+) (?!--)", "\\1\0", command)
    lines = textwrap.wrap(whole, _WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines).replace("\0", " ")
