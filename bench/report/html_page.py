"""Makes one HTML page of a `report.json`: style, charts and pictures are inside, scripts are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.datasets.base import Classes
from bench.measure.evaluation_report import EvaluationReport, NetworkRecord, latency_of, layers_of
from bench.measure.latency_report import LatencyReport
from bench.plan.target import Goal
from bench.report.disagreement_panels import ALONE, APART, PAIR, Panel
from bench.report.label_pictures import NOT_SCORED
from bench.report.latency_text import latency_texts, layers_conditions
from bench.report.method_looks import BASELINE, BASELINE_ON_DARK, look_of
from bench.report.svg_charts import bar_chart, strip_chart
from bench.report.text import LAYERS_NOTE, change_text, layer_lines, layers_title, pair_lines, pair_title

# Should anything ever ask for what is not in the page, the browser is to refuse.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(report: EvaluationReport, panels: Sequence[Panel] | None, classes: Classes) -> str:
    """The page as text.

    Example:
        report = read_json("report.json")
        write_text("report.html", html_page(report, None, CamVid.classes))

    Args:
        report: what `report.json` holds.
        panels: images to show; None shows no such part.
        classes: the label set.
    """
    header, numbers = pair_lines(report)
    sides = {name: report[name] for name in ("baseline", "candidate") if report[name]}
    parts = [_tiles(report, sides)]
    parts += ["<h2>Quality</h2>", *_beside(_table(header, numbers["quality"]), _iou_chart(sides))]
    if "robustness" in numbers:
        parts += ["<h2>Under corruptions</h2>", _table(header, numbers["robustness"])]
    notes = [_note(f"MACs: {side['cost']['thop_note']} ({name})") for name, side in sides.items()]
    costs = "\n".join([_table(header, numbers["cost"]), *notes, *_pruning(sides)])
    parts += ["<h2>Cost</h2>", *_beside(costs, _width_chart(sides))]
    if latency := latency_of(report):
        table = _table(header, numbers["latency"]) + _latency_conditions(latency)
        parts += ["<h2>Latency</h2>", *_beside(table, _latency_charts(latency))]
    if layers := layers_of(report):
        title = f"<h2>{escape(layers_title(layers))}</h2>"
        parts += [
            title,
            _table(*layer_lines(layers)),
            _note(LAYERS_NOTE + layers_conditions(report.get("layers_timed"))),
        ]
    if panels is not None:
        parts += _panels(panels, classes, is_pair=len(sides) == 2)
    parts += _origin(report, sides)
    title = escape(pair_title(report))
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{title}</title>",
        f"<style>\n{_series_colours(sides)}\n{style}</style>",
    ]
    body = [f"<h1>{title}</h1>", "<main>", *parts, "</main>"]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body, "</body>", "</html>"]
    return "\n".join(lines) + "\n"


def _series_colours(sides: Mapping[str, NetworkRecord]) -> str:
    """The colours of baseline and candidate: that of its method, as in every other figure."""
    how = sides["candidate"]["pruning"] if "candidate" in sides else []
    look = look_of(how[-1]["method"] if how else "")
    light = f":root {{ --series0: {BASELINE}; --series1: {look.colour}; }}"
    dark = f":root {{ --series0: {BASELINE_ON_DARK}; --series1: {look.on_dark}; }}"
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}"


def _tiles(report: EvaluationReport, sides: Mapping[str, NetworkRecord]) -> str:
    """The few numbers a reader looks for first."""
    change = report["change"]

    def tile(name: str, values: Sequence[str], unit: str, note: str) -> str:
        arrow = " → ".join(values)
        return f'<div class="tile">{name}<b>{escape(arrow)} {unit}</b><span class="faint">{escape(note)}</span></div>'

    def cost(name: str, key: str, scale: float, unit: str) -> str:
        note = f"{change[f'{key}_percent']:+.1f} %" if change else ""
        return tile(name, [f"{side['cost'][key] / scale:.3f}" for side in sides.values()], unit, note)

    note = ""
    if change:
        note = f"{change['miou_points']:+.2f} points; 95 % interval: {change_text(change['miou_points_interval'])}"
    tiles = [tile("mIoU", [_percent(side["quality"]["miou"]) for side in sides.values()], "%", note)]
    tiles += [cost("parameters", "parameters", 1e6, "M"), cost("MACs", "macs", 1e9, "G")]
    if latency := latency_of(report):
        note = latency.networks["candidate"].speedup_text() if change else ""
        tiles.append(tile("latency", latency_texts(latency), "ms", note))
    return '<div class="tiles">' + "".join(tiles) + "</div>"


def _pruning(sides: Mapping[str, NetworkRecord]) -> list[str]:
    """How the networks were pruned, where their files say so: a column each time."""
    found = [(name, how) for name, side in sides.items() for how in side["pruning"]]
    if not found:
        return []
    columns = [
        {
            "method": how["method"],
            "options": ", ".join(f"{key}={value}" for key, value in how["method_options"].items()) or "-",
            "target": str(Goal(how["target"]["kind"], how["target"]["value"])),
            "ranked": how["target"].get("scope", "-"),
            "cuts": how.get("schedule", {"iterations": 1})["iterations"],
            "seed": how["seed"],
        }
        for _, how in found
    ]
    lines = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return ["<h3>Pruning</h3>", _table(["", *(name for name, _ in found)], lines, kind="words")]


def _iou_chart(sides: Mapping[str, NetworkRecord]) -> list[str]:
    title, names = "IoU of each class", list(sides["baseline"]["quality"]["iou"])
    found = {name: side["quality"]["iou"].values() for name, side in sides.items()}
    values = {name: [None if share is None else 100 * share for share in shares] for name, shares in found.items()}
    return _figure(title, bar_chart(title, names, values, unit="%", digits=1), sides)


def _width_chart(sides: Mapping[str, NetworkRecord]) -> list[str]:
    title, names = "Channels that each layer gives", list(sides["baseline"]["widths"])
    values = {name: list(side["widths"].values()) for name, side in sides.items()}
    chart = bar_chart(title, names, values, unit="", digits=0)
    if len(sides) == 1:
        return _figure(title, chart, sides)
    narrower = sum(after < before for before, after in zip(*values.values(), strict=True))
    return _figure(title, chart, sides, f"{narrower} of {len(names)} layers are narrower in the candidate.")


def _latency_charts(latency: LatencyReport) -> list[str]:
    """The single times; those of larger batches too, where they were measured."""
    number = f"a pass of {latency.batch} images" if latency.batch > 1 else "each pass"
    title = f"Time of {number}, the first round on top"
    times = {name: network.times_ms for name, network in latency.networks.items()}
    note = "The line is the median, the box reaches from the 10th to the 90th percentile; passes that took far longer "
    note += (
        "are beyond the axis. The speed-up comes from the ratios within the rounds, with its 95 % interval, and the "
    )
    note += "candidate's latency in the table is the baseline's over the speed-up."
    further = _latency_charts(latency.throughput) if latency.throughput else []
    return [*_figure(title, strip_chart(title, times, unit="ms"), times, note), *further]


def _latency_conditions(latency: LatencyReport) -> str:
    how = {name: getattr(latency, name) for name in ("input_size", "batch", "rounds", "warmup", "device", "threads")}
    how |= {"precision": " and ".join(latency.precisions), "memory_format": " and ".join(latency.memory_formats)}
    how |= {"compiled": latency.mode.compiled}
    return _table([], _described(how), kind="words")


def _panels(panels: Sequence[Panel], classes: Classes, *, is_pair: bool) -> list[str]:
    parts = [f"<h2>{'Where the two disagree most' if is_pair else 'Where it is wrong most'}</h2>"]
    if not panels:
        said = "The two agree on every labelled pixel." if is_pair else "It is right on every labelled pixel."
        return [*parts, f"<p>{said}</p>"]
    judged = {name: colour for name, colour in (PAIR if is_pair else ALONE).items() if name != "not scored"}
    names = {"classes": dict(zip(classes.names, classes.palette, strict=True))}
    names |= {"difference" if is_pair else "errors": judged, "all maps": {"not scored": NOT_SCORED}}
    parts.append(_swatches(names))
    for panel in panels:
        name = escape(panel.name)
        parts += [f"<h3>{name}</h3>", f"<p>{escape(_verdict(panel))}</p>", '<div class="pictures">']
        for caption, address in panel.pictures.items():
            kind = "" if caption == "input" else ' class="map"'
            alt = f"{escape(caption)} of {name}"
            parts.append(f'<figure><img{kind} alt="{alt}" src="{address}">')
            parts.append(f"<figcaption>{escape(caption)}</figcaption></figure>")
        parts.append("</div>")
    return parts


def _verdict(panel: Panel) -> str:
    """How much differs, and to whose favour."""
    scored = {name: pixels for name, pixels in panel.verdicts.items() if name != "not scored"}
    total = sum(scored.values())
    apart = {name: pixels for name, pixels in scored.items() if name in APART}
    shares = "; ".join(f"{name} {100 * pixels / total:.1f} %" for name, pixels in apart.items())
    count = sum(apart.values())
    if len(apart) == 1:
        return f"{count:,} of {total:,} labelled pixels are wrong ({100 * count / total:.1f} %)."
    return f"{count:,} of {total:,} labelled pixels differ ({100 * count / total:.1f} %): {shares}."


def _origin(report: EvaluationReport, sides: Mapping[str, NetworkRecord]) -> list[str]:
    """The files, how they were scored, and on which machine."""
    lines = []
    for name, side in sides.items():
        lines += [[name, side["path"]], [f"{name}, SHA-256", side["sha256"]]]
    scoring = ", ".join(f"{name} {value}" for name, value in _described(report["scoring"]))
    lines += [["scoring", scoring], *_described(report["provenance"]), ["format", report["format"]]]
    return ["<h2>Provenance</h2>", _table([], lines, kind="words")]


def _described(record: Mapping[str, Any]) -> list[list[str]]:
    """Names and values of what a record says, without what it leaves open."""

    def text(value: Any) -> str:
        if not isinstance(value, (list, tuple)):
            return str(value)
        is_size = all(isinstance(part, int) for part in value)
        return ("x" if is_size else ", ").join(map(str, value))

    return [[key.replace("_", " "), text(value)] for key, value in record.items() if value is not None]


def _table(header: Sequence[str], lines: Sequence[Sequence[object]], kind: str = "numbers") -> str:
    """A table; the first cell of a line is its name, set in where it starts with blanks."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    rows = []
    for name, *cells in lines:
        side = ' class="sub"' if name.startswith(" ") else ""
        cells += [""] * (len(header) - 1 - len(cells))
        filled = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row"{side}>{escape(name.strip())}</th>{filled}</tr>')
    head = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table class="{kind}">{head}<tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"


def _note(text: str) -> str:
    return f'<p class="faint">{escape(text)}</p>'


def _beside(table: str, figure: Sequence[str]) -> list[str]:
    return ['<div class="beside">', f"<div>{table}</div>", "<div>", *figure, "</div>", "</div>"]


def _figure(title: str, chart: str, series: Mapping[str, Any], note: str = "") -> list[str]:
    keys = "".join(f'<li><i class="series{number}"></i>{escape(name)}</li>' for number, name in enumerate(series))
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return [
        f"<figure><h3>{escape(title)}</h3>",
        f'<ul class="legend">{keys}</ul>',
        f'<div class="scroll">{chart}</div>{caption}</figure>',
    ]


def _swatches(parts: Mapping[str, Mapping[str, tuple[int, int, int]]]) -> str:
    """One legend: the colours of each kind of map, behind the kind's name."""
    entries = []
    for kind, colours in parts.items():
        entries.append(f"<li><b>{escape(kind)}</b></li>")
        entries += [
            f'<li><i style="background:rgb{colour}"></i>{escape(name)}</li>' for name, colour in colours.items()
        ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
