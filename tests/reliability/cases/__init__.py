"""The bad inputs, by their kinds."""

from __future__ import annotations

from tests.reliability.cases.checkpoint import checkpoint
from tests.reliability.cases.command_line import config, flags
from tests.reliability.cases.data import data
from tests.reliability.cases.surroundings import environment, folder

KINDS = (flags, config, data, checkpoint, folder, environment)
CASES = [case for kind in KINDS for case in kind()]
