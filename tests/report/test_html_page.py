"""The page of a report: what it says, and what a real browser makes of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES, Browser, browser, executable
from records import SCHEMAS, faults, validator

from bench.datasets.camvid import CamVid
from bench.measure.evaluation_report import (
    Change,
    CostRecord,
    EvaluationReport,
    NetworkRecord,
    latency_of,
    layers_of,
)
from bench.report.disagreement_panels import ALONE, PAIR, Panel
from bench.report.html_page import html_page
from bench.report.method_looks import BASELINE, BASELINE_ON_DARK, look_of
from bench.system.files import plain

PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_camvid, tiny_baseline) -> Path:
    """A pruned network, reports on it beside the baseline and on the baseline alone, and their pages."""
    folder = tmp_path_factory.mktemp("pages")
    from bench.commands import eval as evaluation
    from bench.commands import prune

    data = ["--dataset", "camvid", "--data-root", str(tiny_camvid), "--num-workers", "0", "--threads", "1"]
    quick = ["--latency-warmup", "1", "--latency-runs", "10"]
    files = ["--ckpt", str(tiny_baseline), "--save", str(folder)]
    little = ["--no-latency", "--no-evaluate", "--reconstruction-images", "2"]
    prune.main([*data, *files, *little, "--method", "l1", "--global-ratio", "0.5"])
    pair = ["--baseline", str(tiny_baseline), "--candidate", str(folder / "pruned_model.pt")]
    pair += ["--report", str(folder / "pair.json"), "--html-images", "3", "--per-layer", "--latency-batch", "2"]
    evaluation.main([*data, *quick, *pair])
    alone = ["--baseline", str(tiny_baseline), "--report", str(folder / "alone.json"), "--no-latency"]
    evaluation.main([*data, *alone, "--boundary-width", "2"])
    return folder


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


class Reader(HTMLParser):
    """Text of a page, its tags, and the attributes of each."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        assert self.open == [], "a tag is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open and data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_records_are_as_documented(folder):
    for name in ("pair.json", "alone.json", "report.json", "pruning_info.json"):
        assert faults(read(folder / name)) == []


def test_the_types_name_every_field_in_its_order(folder):
    report = read(folder / "pair.json")
    for record, kind in (
        (report, EvaluationReport),
        (report["baseline"], NetworkRecord),
        (report["candidate"], NetworkRecord),
        (report["candidate"]["cost"], CostRecord),
        (report["change"], Change),
    ):
        required = [name for name in kind.__annotations__ if name in kind.__required_keys__]
        # What is there where it is wanted stands behind.
        assert [*record][: len(required)] == required and record.keys() <= kind.__annotations__.keys()
    assert plain(latency_of(report)) == report["latency"]
    assert plain(layers_of(report)) == report["layers"]
    alone = read(folder / "alone.json")
    assert (latency_of(alone), layers_of(alone)) == (None, [])


def test_the_schemas_refuse_what_they_do_not_name(folder):
    report = read(folder / "pair.json")
    report["baseline"]["cost"]["watts"] = 3
    report["candidate"]["quality"]["miou"] = 51.2
    report["latency"]["networks"]["candidate"]["speedup"] = "twice"
    del report["change"]["miou_points_interval"]
    found = " ".join(faults(report))
    for part in ("'watts' was unexpected", "51.2", "'twice'", "'miou_points_interval' is a required"):
        assert part in found


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_the_schemas_are_schemas(path):
    validator("evaluation-report").check_schema(read(path))


def test_the_page_says_what_the_report_says(folder):
    report = read(folder / "pair.json")
    page = Reader((folder / "pair.html").read_text(encoding="utf-8"))
    shown = page.texts
    for name in ("baseline", "candidate"):
        side = report[name]
        assert f"{100 * side['quality']['miou']:.2f}" in shown
        assert f"{side['cost']['macs'] / 1e9:.3f}" in shown
        assert side["sha256"] in shown
        assert side["quality"]["iou"].keys() == set(CamVid.classes.names)
        for share in side["quality"]["iou"].values():
            assert (f"{100 * share:.1f}" if share is not None else "-") in shown
        assert len(report["latency"]["networks"][name]["times_ms"]) == 10
        assert f"MACs: {side['cost']['thop_note']} ({name})" in shown
    for row in report["layers"]:
        assert row["layer"] in shown and f"{row['macs_before'] / 1e6:.2f} -> {row['macs_after'] / 1e6:.2f}" in shown
    assert "images/s, 2 at once" in shown and "Convolutions and linear layers, baseline -> candidate" in shown
    assert "l1" in shown and report["candidate"]["pruning"][0]["method"] == "l1"
    assert report["provenance"]["command"] in shown
    for layer, width in report["candidate"]["widths"].items():
        assert layer in shown and str(width) in shown and width <= report["baseline"]["widths"][layer]
    narrower = sum(report["candidate"]["widths"][name] < width for name, width in report["baseline"]["widths"].items())
    assert narrower > 0
    assert f"{narrower} of {len(report['baseline']['widths'])} layers are narrower in the candidate." in shown
    captions = ("input", "label", "baseline", "candidate", "difference")
    alts = [image["alt"] for image in page.all("img")]
    assert len(alts) == 15 and [alt.partition(" of ")[0] for alt in alts] == [*captions] * 3
    assert [image["aria-label"] for image in page.all("svg")] == [
        "IoU of each class", "Channels that each layer gives", "Time of each pass, the first round on top",
        "Time of a pass of 2 images, the first round on top",
    ]  # fmt: skip


def test_the_page_needs_nothing_else(folder):
    for name in ("pair.html", "alone.html"):
        page = Reader((folder / name).read_text(encoding="utf-8"))
        assert page.all("script") == []
        addresses = [
            value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")
        ]
        assert addresses and all(address.startswith("data:") for address in addresses)
        style = re.search(r"<style>(.*)</style>", (folder / name).read_text(encoding="utf-8"), re.DOTALL)[1]
        assert "url(" not in style and "@import" not in style


def test_a_baseline_alone_has_a_page_of_where_it_is_wrong(folder):
    page = Reader((folder / "alone.html").read_text(encoding="utf-8"))
    assert "Where it is wrong most" in page.texts and "boundary F-score %" in page.texts
    assert not {"candidate", "Latency", "Pruning"} & set(page.texts)
    assert len(page.all("img")) == 16 and len(page.all("svg")) == 2
    assert any(re.fullmatch(r"[\d,]+ of [\d,]+ labelled pixels are wrong \([\d.]+ %\)\.", text) for text in page.texts)


def test_the_images_have_one_legend_and_the_pruning_stands_beside_a_chart(folder):
    for name, judged in (("pair", PAIR), ("alone", ALONE)):
        text = (folder / f"{name}.html").read_text(encoding="utf-8")
        (images,) = text.split("<h2>Where")[1:]
        (legend,) = re.findall('<ul class="legend">(.*?)</ul>', images)
        shown = Reader(f"<ul>{legend}</ul>").texts
        kind = "difference" if name == "pair" else "errors"
        assert shown == ["classes", *CamVid.classes.names, kind, *list(judged)[:-1], "all maps", "not scored"]
    pair = (folder / "pair.html").read_text(encoding="utf-8")
    beside = [part.partition("<h2>")[0] for part in pair.split('<div class="beside">')[1:]]
    assert [("<h3>Pruning</h3>" in part, "<svg" in part) for part in beside] == [
        (False, True), (True, True), (False, True),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["l1", "taylor", "one of my own"])
def test_the_candidate_has_the_colour_of_its_method(folder, method):
    report = read(folder / "pair.json")
    report["candidate"]["pruning"][-1]["method"] = method
    page, look = html_page(report, None, CamVid.classes), look_of(method)
    assert f":root {{ --series0: {BASELINE}; --series1: {look.colour}; }}" in page
    dark = f":root {{ --series0: {BASELINE_ON_DARK}; --series1: {look.on_dark}; }}"
    assert f"(prefers-color-scheme: dark) {{ {dark} }}" in page
    report["candidate"]["pruning"] = []
    assert f"--series1: {look.colour}" not in html_page(report, None, CamVid.classes)


def test_names_are_no_markup_and_the_same_report_is_the_same_page(folder):
    report, evil = read(folder / "pair.json"), "<script>alert('&')</script>"
    changed = copy.deepcopy(report)
    changed["candidate"]["path"] = changed["provenance"]["command"] = changed["model"]["name"] = evil
    for side in ("baseline", "candidate"):
        changed[side]["widths"] = {evil: 3}
        changed[side]["quality"]["iou"][evil] = None
    changed["candidate"]["pruning"][0]["method_options"] = {evil: evil}
    counts = dict(zip(PAIR, (60, 10, 20, 6, 4, 50), strict=True))
    panels = [Panel(evil, {"input": PIXEL, "label": PIXEL}, counts)]
    page = html_page(changed, panels, CamVid.classes)
    assert page == html_page(changed, panels, CamVid.classes)
    read_back = Reader(page)
    assert read_back.all("script") == [] and "<script" not in page
    assert read_back.texts.count(evil) >= 4 and f"{evil}={evil}" in read_back.texts
    assert (
        "30 of 100 labelled pixels differ (30.0 %): only the baseline right 20.0 %; only the candidate right 6.0 %; "
        "both wrong, differently 4.0 %."
    ) in read_back.texts


def test_where_nothing_differs_the_page_says_so(folder):
    report = read(folder / "pair.json")
    assert "The two agree on every labelled pixel." in html_page(report, [], CamVid.classes)
    assert "disagree" not in html_page(report, None, CamVid.classes)


def test_the_page_can_be_left_out_and_takes_no_other_name(call, folder, tiny_camvid, tiny_baseline, tmp_path):
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--baseline", tiny_baseline]
    flags += ["--candidate", tiny_baseline, "--no-latency"]
    ended = call("eval.py", *flags, "--report", tmp_path / "report.html")
    assert ended.code == 2 and f"pass {tmp_path / 'report.json'}" in ended.err
    assert not list(tmp_path.iterdir())
    assert call("eval.py", *flags, "--report", tmp_path / "report.json", "--no-html").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    # A network beside itself.
    assert read(tmp_path / "report.json")["change"]["miou_points"] == 0
    assert read(tmp_path / "report.json")["baseline"] == read(tmp_path / "report.json")["candidate"]


# --- a real browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    program = executable()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with browser(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


def test_the_browser_sees_requests_and_errors(chromium, tmp_path):
    """Or its silence about a page would mean nothing."""
    page = tmp_path / "page.html"
    page.write_text(
        "<img src='http://elsewhere.invalid/x.png'><script>console.log('said'); undefined.call()</script>",
        encoding="utf-8",
    )
    visit = chromium.visit(page)
    assert visit.requests == [page.as_uri(), "http://elsewhere.invalid/x.png"]
    for part in ("said", "TypeError", "net::ERR_NAME_NOT_RESOLVED"):
        assert any(part in complaint for complaint in visit.complaints), part
    # Named in the page's own words, such an image is not even asked for.
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:\">"
    page.write_text(policy + "<img src='http://elsewhere.invalid/x.png'>", encoding="utf-8")
    assert any("Content Security Policy" in complaint for complaint in chromium.visit(page).complaints)


@pytest.mark.parametrize(("name", "charts", "images"), [("pair.html", 4, 15), ("alone.html", 2, 16)])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (375, True)])
def test_a_browser_shows_the_page(chromium, folder, name, charts, images, width, dark):
    visit = chromium.visit(folder / name, width=width, dark=dark)
    assert visit.complaints == []
    assert visit.requests[0] == (folder / name).as_uri()
    assert len(visit.requests) > 1 and all(address.startswith("data:") for address in visit.requests[1:])
    sizes = chromium.ask("[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().height)")
    assert len(sizes) == charts and min(sizes) > 50
    assert chromium.ask("document.querySelectorAll('svg rect').length") > 20
    drawn = chromium.ask("[...document.images].filter(e => e.complete && e.naturalWidth == 64).length")
    assert drawn == chromium.ask("document.images.length") == images
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    assert chromium.ask("matchMedia('(prefers-color-scheme: dark)').matches") is dark
    colours = chromium.ask("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    ink, ground = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert ground < 150 < 600 < ink if dark else ink < 150 < 600 < ground


PLACES = """[...document.querySelectorAll('.pictures')].map(row => Object.fromEntries(
    [...row.querySelectorAll('figure')].map(e => [e.innerText.trim(), e.getBoundingClientRect()])
    .map(([name, box]) => [name, [box.left, box.top, box.width]])))"""


def test_baseline_and_candidate_are_side_by_side_at_any_width(chromium, folder):
    for width in (1600, 1280, 800, 420):
        chromium.visit(folder / "pair.html", width=width)
        panels = chromium.ask(PLACES)
        assert len(panels) == 3
        for places in panels:
            baseline, candidate = places["baseline"], places["candidate"]
            assert baseline[1:] == pytest.approx(candidate[1:]) and baseline[0] < candidate[0]
            rows = {round(top) for _, top, _ in places.values()}
            assert len(rows) == (1 if width > 1024 else 3)
            # No row of images is half empty.
            lines = {row: [w for _, top, w in places.values() if round(top) == row] for row in rows}
            assert len({round(sum(widths) + 12 * (len(widths) - 1)) for widths in lines.values()}) == 1


@pytest.mark.parametrize("width", [1600, 420])
def test_labels_of_classes_can_be_read(chromium, folder, width):
    chromium.visit(folder / "pair.html", width=width)
    chart = "document.querySelector('svg')"
    assert chromium.ask(f"{chart}.ariaLabel") == "IoU of each class"
    labels = f"[...{chart}.querySelectorAll('.label[text-anchor=end]')]"
    boxes = chromium.ask(f"{labels}.map(e => e.getBoundingClientRect()).map(b => [b.left, b.right, b.height])")
    assert len(boxes) == 11 + 1
    frame = chromium.ask(f"(b => [b.left, b.right])({chart}.getBoundingClientRect())")
    # The first is the unit.
    for left, right, height in boxes[1:]:
        assert height >= 11 and frame[0] <= left and right <= frame[1] <= width
