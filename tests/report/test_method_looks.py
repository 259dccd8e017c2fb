"""A method looks the same in every figure, and like no other."""

from __future__ import annotations

import itertools

from bench.pruners import methods
from bench.report.method_looks import BASELINE, BASELINE_ON_DARK, LOOKS, look_of


def lightness(colour: str) -> float:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def seen(colour: str, missing: str | None = None) -> tuple[float, ...]:
    """A colour as those see it who lack the cones for red or green (Viénot et al., 1999), in linear light."""
    linear = [(int(colour[start : start + 2], 16) / 255) ** 2.2 for start in (1, 3, 5)]
    red, green, blue = linear
    if missing == "red":
        red = green = 0.11238 * red + 0.88762 * green
    elif missing == "green":
        red = green = 0.29275 * red + 0.70725 * green
    return tuple(value ** (1 / 2.2) for value in (red, green, blue))


def test_every_method_of_the_project_has_a_look_of_its_own():
    assert methods().keys() <= LOOKS.keys()
    assert len(methods()) >= 13
    looks = list(LOOKS.values())
    assert len({look.colour for look in looks} | {BASELINE, BASELINE_ON_DARK}) == len(looks) + 2
    # Without colours, dash and marker tell them apart; no two have the same marker.
    assert len({look.marker for look in looks}) == len(looks)


def test_colours_are_told_apart_and_from_the_page():
    for one, other in itertools.combinations(LOOKS.values(), 2):
        assert sum((a - b) ** 2 for a, b in zip(seen(one.colour), seen(other.colour), strict=True)) ** 0.5 > 0.15
        for missing in ("red", "green"):
            pair = (seen(look.colour, missing) for look in (one, other))
            apart = sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) ** 0.5
            # Where the eye has little to go by, the dash differs too.
            assert apart > 0.1 or one.dash != other.dash
    for look in LOOKS.values():
        assert lightness(look.colour) < 0.75 and lightness(look.on_dark) > 0.5


def test_a_method_that_is_not_built_in_has_a_look_by_its_name():
    names = [f"method{number}" for number in range(30)]
    looks = {name: look_of(name) for name in names}
    assert looks == {name: look_of(name) for name in reversed(names)}
    for field in ("colour", "marker"):
        assert not {getattr(look, field) for look in looks.values()} & {getattr(look, field) for look in LOOKS.values()}
    assert len(set(looks.values())) >= 27
    # Names fix them: not what else is in a figure, nor the process.
    assert look_of("spread") == look_of("spread") != look_of("spreads")
