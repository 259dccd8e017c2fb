"""Numbers of papers: the file that comes along, what it may hold, and beside which benchmarks they stand."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.leaderboard.published import compares_with, published_numbers

WHOLE = "{method: a, network: b, dataset: camvid, split: test, input_size: 360x480, miou: 57.1, source: a paper}"


def test_the_numbers_that_come_along_are_whole():
    found = published_numbers()
    assert {"method": "CAP", "miou": 57.12, "macs_kept": 50, "input_size": [360, 480]}.items() <= found[2].items()
    assert all(entry["source"] and entry["split"] == "test" for entry in found)


def test_a_number_stands_beside_its_own_data_split_and_size():
    (entry, *_) = published_numbers()
    baseline = {"dataset": "camvid", "split": "test", "input_size": [360, 480]}
    assert compares_with(entry, baseline)
    for change in ({"dataset": "cityscapes"}, {"split": "val"}, {"input_size": [240, 320]}):
        assert not compares_with(entry, baseline | change)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("published: {", "is not a YAML file"),
        ("numbers: []", "has no list `published`"),
        ("published: [7]", "entry 1 is not a mapping"),
        ("published: [{method: a, miou: 1}]", "entry 1 lacks dataset, input_size, network, source, split"),
        (f"published: [{WHOLE[:-1]}, flops: 3}}]", "has unknown keys ['flops']"),
        (f"published: [{WHOLE.replace('57.1', '571')}]", "miou cannot be 571"),
        (f"published: [{WHOLE.replace('57.1', 'yes')}]", "miou cannot be True"),
        (f"published: [{WHOLE.replace('a paper', '7')}]", "source cannot be 7"),
        (f"published: [{WHOLE.replace('360x480', 'large')}]", "'large' is not a size"),
    ],
)
def test_an_entry_that_is_not_whole_is_one_line(tmp_path, content, says):
    path = tmp_path / "published.yaml"
    path.write_text(content)
    with pytest.raises(BenchError) as caught:
        published_numbers(path)
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(BenchError, match="cannot read"):
        published_numbers(tmp_path / "gone.yaml")
