"""Processes that load images: what they need of the system."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from bench.datasets import loaders
from bench.errors import MachineError


class Two(loaders.Samples):
    """Two images whose pixels are their numbers."""

    def __len__(self):
        return 2

    def sample(self, key):
        return torch.full((3, 4, 4), float(key)), torch.full((4, 4), key)


@pytest.fixture
def limit(monkeypatch):
    """Sets how many files may be open, (soft, hard), and gives what is asked for instead."""
    asked = []

    def set_to(soft, hard):
        monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda what, limits: asked.append(limits))
        return asked

    return set_to


def test_too_few_open_files_are_told_before_a_process_waits_for_ever(limit):
    asked = limit(16, 20)
    with pytest.raises(MachineError, match=r"only 20 files may be open.*2 processes.*ulimit -n 80.*num_workers=0"):
        list(loaders.Loader(Two(), [[0, 1]], workers=2))
    assert asked == []


@pytest.mark.parametrize(("soft", "wanted"), [(16, [(64, 4096)]), (1024, []), (resource.RLIM_INFINITY, [])])
def test_open_files_that_the_system_allows_are_taken(limit, soft, wanted):
    asked = limit(soft, 4096)
    ((images, _),) = loaders.Loader(Two(), [[0, 1]], workers=1)
    assert images[:, 0, 0, 0].tolist() == [0, 1]
    assert asked == wanted


def test_no_process_needs_no_further_files(limit):
    limit(4, 4)
    assert len(list(loaders.Loader(Two(), [[0], [1]], workers=0))) == 2


def test_a_worker_leaves_failures_of_the_machine_to_the_other_process(capsys, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for error, shown in ((OSError(24, "Too many open files"), False), (KeyError("a defect"), True)):
        loaders._tell_of_defects(type(error), error, None)
        assert ("a defect" in capsys.readouterr().err) is shown
