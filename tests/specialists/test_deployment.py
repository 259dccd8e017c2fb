"""How groups are spelt, and `deploy_inf.csv`, as it is written and as a hand may change it."""

from __future__ import annotations

import pytest

from bench.errors import BenchError, UsageError
from bench.specialists.deployment import (
    DEPLOYMENT,
    Grouping,
    chosen_groupings,
    read_deployment,
    read_group,
    specialist_file,
    spelt,
    write_deployment,
)

NAMES = ["sky", "road", "car", "tree"]
GROUPINGS = [Grouping(((0, 3), (1, 2)), 0.25, True), Grouping(((0,), (1, 2), (3,)), 0.125)]
HEAD = "devices,best,quality,groups,names\n"


@pytest.mark.parametrize(
    ("group", "text"),
    [((0, 1, 2, 3), "0-3"), ((4,), "4"), ((0, 1, 2, 5, 7, 8), "0-2+5+7-8"), ((1, 11), "1+11"), ((10, 11), "10-11")],
)
def test_a_group_has_one_spelling(group, text):
    assert spelt(group) == text and read_group(text) == group


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,2", "1+", "-1"])
def test_what_is_no_group_is_refused(text):
    with pytest.raises(ValueError, match="is no group of classes"):
        read_group(text)


def test_file_names_tell_groups_and_percents_apart():
    assert specialist_file(tuple(range(9)), 77.0) == "pruned_class0-8_th77.pt"
    assert specialist_file((0, 2, 3), 77.5) == "pruned_class0+2-3_th77.5.pt"
    many = [tuple(range(start, 200, 2)) for start in (0, 1)]
    names = {specialist_file(group, 77.0) for group in many}
    assert len(names) == 2 and all(len(name) < 60 for name in names)


def test_what_is_written_is_read(tmp_path):
    write_deployment(tmp_path, GROUPINGS, NAMES)
    text = (tmp_path / DEPLOYMENT).read_text()
    assert text == HEAD + "2,*,0.2500,0+3|1-2,sky tree|road car\n3,,0.1250,0|1-2|3,sky|road car|tree\n"
    assert read_deployment(tmp_path, range(4)) == {2: GROUPINGS[0], 3: GROUPINGS[1]}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("2,*,,0-1|1-3,", "line 2: class 1 is in two groups"),
        ("2,*,,0-1|3,", "line 2: class 2 is in no group"),
        ("2,*,,0-1|2-4,", "line 2: 4 is no class that"),
        ("3,*,,0-1|2-3,", "line 2: devices is '3', but there are 2 groups"),
        ("1,*,,0-3,", "line 2: a grouping has at least two groups"),
        ("2,*,,0-1 2-3,", "is no group of classes"),
        ("2,*,,0-1|2-3,\n2,,,0|1-3,", "line 3: there are two groupings for 2 devices"),
        ("2,*,good,0-1|2-3,", "line 2"),
        ("", "holds no grouping"),
    ],
)
def test_a_grouping_that_cannot_be_names_its_line(tmp_path, row, fault):
    (tmp_path / DEPLOYMENT).write_text(HEAD + row + "\n")
    with pytest.raises(BenchError, match=fault) as error:
        read_deployment(tmp_path, range(4))
    assert "\n" not in str(error.value) and DEPLOYMENT in str(error.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(BenchError, match="is missing; run"):
        read_deployment(tmp_path, range(4))
    (tmp_path / DEPLOYMENT).write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="has no columns devices and groups"):
        read_deployment(tmp_path, range(4))


def test_the_best_one_is_chosen_where_no_number_is_asked_for(tmp_path):
    found = {grouping.devices: grouping for grouping in GROUPINGS}
    assert chosen_groupings(found, [], tmp_path) == GROUPINGS[:1]
    assert chosen_groupings(found, [3, 2, 3], tmp_path) == [GROUPINGS[1], GROUPINGS[0]]
    with pytest.raises(UsageError, match="no grouping for 5 devices; it has 2, 3"):
        chosen_groupings(found, [5], tmp_path)
    with pytest.raises(BenchError, match="marks 0 groupings as best"):
        chosen_groupings({3: GROUPINGS[1]}, [], tmp_path)
