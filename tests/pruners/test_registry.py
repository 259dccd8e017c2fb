"""The registry of methods: listing, options, and errors that say what exists."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.pruners import MethodEntry, check_method, make_pruner, make_pruners, methods
from bench.pruners.base import Method, Pruner


def test_the_methods_are_listed_in_order() -> None:
    listed = methods()
    assert list(listed) == sorted(listed)
    assert {"l1", "l2", "random", "slimming", "taylor"} <= set(listed)
    assert all(isinstance(entry, MethodEntry) and entry.summary for entry in listed.values())


def test_listing_is_light(project_root: Path) -> None:
    program = (
        "import sys; from bench.pruners import methods, check_method; check_method('l1');"
        "print(len(methods()), sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"{len(methods())} []"


@pytest.mark.parametrize("name", methods())
def test_every_method_says_what_it_is(name: str) -> None:
    pruner = make_pruner(name)
    assert isinstance(pruner, Method)
    assert pruner.name == name
    assert pruner.paper
    assert not isinstance(pruner, Pruner) or pruner.scope in ("global", "local")
    assert dataclasses.is_dataclass(pruner)
    assert make_pruner(name) == pruner
    with pytest.raises(dataclasses.FrozenInstanceError):
        pruner.name = "other"


def test_every_method_has_a_readme(project_root: Path) -> None:
    folders = {project_root.joinpath(*entry.module.split(".")).parent for entry in methods().values()}
    assert all((folder / "README.md").read_text(encoding="utf-8").startswith("# ") for folder in folders)


@pytest.mark.parametrize(
    ("name", "near"), [("tailor", "taylor"), ("slim", "slimming"), ("L1", "l1"), ("rand", "random")]
)
def test_an_unknown_method_names_the_nearest(name: str, near: str) -> None:
    for refuse in (check_method, make_pruner, lambda name: make_pruners(["l1", name], {})):
        with pytest.raises(UsageError, match=f"unknown method '{name}'; did you mean .*{near}"):
            refuse(name)


def test_a_name_like_nothing_lists_all() -> None:
    with pytest.raises(UsageError, match=", ".join(methods())):
        make_pruner("zzzzzz")


def test_options_reach_the_method() -> None:
    assert make_pruner("taylor").term == "gate"
    assert make_pruner("taylor", {"term": "gamma"}).term == "gamma"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"term": 3}, "option term of taylor must be str, not 3"),
        ({"term": True}, "option term of taylor must be str, not True"),
        ({"term": None}, "option term of taylor must be str, not None"),
        ({"term": "both"}, "option term of taylor must be gate or gamma, not 'both'"),
        ({"terms": "gate"}, "unknown option of taylor 'terms'; did you mean term?"),
        ({"zz": 1}, "unknown option of taylor 'zz'; known: term"),
    ],
)
def test_wrong_options_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_pruner("taylor", settings)
    assert str(caught.value) == message


def test_options_of_a_method_without_any_are_refused() -> None:
    with pytest.raises(UsageError, match="l1 has no options; 'term' is not one"):
        make_pruner("l1", {"term": "gate"})


@dataclasses.dataclass(frozen=True)
class Optioned(Pruner):
    name = "optioned"
    share: float = 0.5
    count: int = 1
    strict: bool = False
    sizes: tuple[float, ...] = (1.0,)

    def score(self, *_: object) -> dict:
        return {}


def test_types_of_options() -> None:
    chosen = Optioned.configured({"share": 1, "count": 3, "strict": True})
    assert (chosen.share, chosen.count, chosen.strict) == (1, 3, True)
    for key, value in (("share", "0.5"), ("share", True), ("count", 1.5), ("count", True), ("strict", 1)):
        with pytest.raises(UsageError, match=f"option {key} of optioned must be"):
            Optioned.configured({key: value})


def test_an_option_may_be_a_list() -> None:
    assert Optioned.configured({"sizes": [1, 0.5]}).sizes == (1, 0.5)
    assert Optioned.configured({"sizes": []}).sizes == ()
    assert hash(Optioned.configured({"sizes": [2]})) == hash(Optioned.configured({"sizes": (2,)}))
    for value in (1, "12", ["1"], [None], [True], [[1]]):
        with pytest.raises(UsageError, match=r"option sizes of optioned must be a list of float such as \[0,3\]"):
            Optioned.configured({"sizes": value})


def test_several_methods() -> None:
    pruners = make_pruners(["taylor", "l1"], {"taylor.term": "gamma"})
    assert list(pruners) == ["taylor", "l1"]
    assert pruners["taylor"].term == "gamma"
    assert make_pruners(["taylor"], {})["taylor"].term == "gate"


@pytest.mark.parametrize("key", ["term", "l2.term", "l.term", ".term"])
def test_an_option_of_no_method_is_refused(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_pruners(["taylor", "l1"], {key: "gate"})
    assert str(caught.value) == f"'{key}' is not METHOD.KEY with one of the methods taylor, l1"
