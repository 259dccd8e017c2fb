"""The values a flag's text becomes, and the text that is refused."""

from __future__ import annotations

import pytest

from bench.config.values import above_zero, parse_path, parse_ratio, parse_settings, parse_size, positive, share, whole


@pytest.mark.parametrize("text", ["360,480", "360x480", "360X480", " 360 , 480 "])
def test_a_size_is_height_then_width(text):
    assert parse_size(text) == (360, 480)


@pytest.mark.parametrize("text", ["360", "360,480,3", "360;480", "360,", "-3,4", "3.5,4", "axb", "", "0,480", "360,0"])
def test_a_malformed_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "ratio"), [("0", 0.0), ("0.3", 0.3), ("1e-3", 0.001), ("0.999", 0.999)])
def test_a_ratio_is_a_share(text, ratio):
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize("text", ["1", "1.0", "-0.1", "nan", "inf", "30%", ""])
def test_a_ratio_outside_its_range_is_refused(text):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        parse_ratio(text)


@pytest.mark.parametrize(
    ("parse", "good", "value", "bad"),
    [
        (whole, "0", 0, ["-1", "1.5", "many", ""]),
        (positive, "1", 1, ["0", "-1", "1e3"]),
        (share, "0", 0.0, ["-0.1", "nan", "little"]),
        (above_zero, "1e-4", 0.0001, ["0", "-1", "nan"]),
    ],
)
def test_numbers_have_a_lower_bound(parse, good, value, bad):
    assert parse(good) == value
    for text in bad:
        with pytest.raises(ValueError, match=r"is not a|is too small"):
            parse(text)


def test_settings_are_typed():
    settings = parse_settings("term=gamma, alpha=0.3,beta=1e-3,steps=-4,exact=true,cap=null")
    expected = {"term": "gamma", "alpha": 0.3, "beta": 0.001, "steps": -4, "exact": True, "cap": None}
    assert settings == expected
    assert {name: type(value) for name, value in settings.items()} == {n: type(v) for n, v in expected.items()}


def test_a_setting_may_be_a_list():
    assert parse_settings("classes=[0, 3],alpha=0.3") == {"classes": [0, 3], "alpha": 0.3}
    assert parse_settings("a.words=[x,y],b.one=[1],c=2") == {"a.words": ["x", "y"], "b.one": [1], "c": 2}
    assert parse_settings("none=[]") == {"none": []}


@pytest.mark.parametrize("text", ["term", "=gamma", "a=1,,b=2", "", "a=[", "a=[1,2", "a={", "a='"])
def test_malformed_settings_are_refused(text):
    with pytest.raises(ValueError, match="is not KEY=VALUE"):
        parse_settings(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "/home/me"),
        ("~/runs/a", "/home/me/runs/a"),
        ("$DATA/camvid", "/mnt/data/camvid"),
        ("${DATA}x/~", "/mnt/datax/~"),
        ("~/$DATA", "/home/me//mnt/data"),
        ("./~/a", "./~/a"),
        ("imagenet", "imagenet"),
        ("cost$5/100%", "cost$5/100%"),
    ],
)
def test_a_path_is_what_a_shell_would_make_of_it(text, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/mnt/data")
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["$NOT_SET/a", "a/${NOT_SET}", "~nobody-of-that-name/a"])
def test_a_path_that_means_nothing_is_refused_unless_it_is_there(text, tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(ValueError, match=r"not set|somebody unknown"):
        parse_path(text)
    monkeypatch.chdir(tmp_path)
    (tmp_path / text).mkdir(parents=True)
    assert parse_path(text) == text
