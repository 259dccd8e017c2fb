"""The page of a benchmark: what it holds, and what a real browser makes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES, Browser, browser, executable
from fabricated_records import CLASSES, LAYERS, benchmark, finished_job
from PIL import Image

from bench.leaderboard import board as board_module
from bench.leaderboard.board import board_of, cells_of
from bench.leaderboard.page_file import write_page
from bench.leaderboard.published import published_numbers
from bench.leaderboard.rebuilding import rebuild
from bench.leaderboard.summaries import read_summaries
from bench.report.disagreement_panels import data_address
from bench.system.files import write_json

METHODS = ("random", "l1", "taylor")
SEEDS = (0, 1, 2)


def picture() -> str:
    """A small picture as an address."""
    return data_address(Image.new("RGB", (16, 12), (213, 94, 0)), "JPEG", quality=70)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A benchmark of three methods, two targets and three seeds, one of them failed, and of one that always failed."""
    out = benchmark(tmp_path_factory.mktemp("board") / "out", METHODS, (0.25, 0.5), SEEDS)
    finished_job(out, "fpgm", 0.5, 0, 0.55)
    rebuild(out)
    failed = next(out.glob("taylor_macs0.25_s2_*"))
    (failed / "failed").write_text("no <b>memory</b>\n")
    (next(out.glob("fpgm_*")) / "report.html").write_text("images")
    write_json(
        next(out.glob("fpgm_*")) / "cell.json", {"command": "benchmark.py --only fpgm@macs0.5@0", "seconds": 9.0}
    )
    images = [{"image": name, "baseline": 0.9, "candidate": 0.75, "picture": picture()} for name in ("street", "lane")]
    write_json(next(out.glob("fpgm_*")) / "worst_images.json", {"images": images})
    record = json.loads((out / "benchmark_summary.json").read_text())
    lost = {"method": "fgp", "target": "macs", "ratio": 0.5, "seed": 0, "folder": "fgp_macs0.5_s0", "seconds": 1.0}
    record["rows"].append(lost | {"status": "failed", "error": "no channel is left"})
    write_json(out / "benchmark_summary.json", record)
    rebuild(out)
    return out


@pytest.fixture(scope="module")
def board(out) -> dict[str, Any]:
    return board_of(read_summaries([out]), published_numbers())


def line_of(board: dict[str, Any], name: str) -> dict[str, Any]:
    return next(line for line in board["lines"] if line["id"] == name)


def test_a_line_has_its_seeds_its_drop_and_its_gaps(out, board):
    rows = [row for row in read_summaries([out])[0].benchmark.rows if row["ratio"] == 0.5]
    found = line_of(board, "taylor/macs 0.5")["miou"]["miou_finetuned"]
    own, control = ([row["miou_finetuned"] for row in rows if row["method"] == name] for name in ("taylor", "random"))
    assert found["seeds"][0] == pytest.approx(100 * sum(own) / 3, abs=1e-3) and found["seeds"][3] == 3
    assert found["drop"] == pytest.approx(60 - found["seeds"][0], abs=1e-3)
    points, margin, seeds = found["gaps"]["random"]
    assert points == pytest.approx(100 * (sum(own) - sum(control)) / 3, abs=1e-3) and margin > 0 and seeds == 3
    assert "taylor" not in line_of(board, "l1/macs 0.5")["miou"]["miou_finetuned"]["gaps"]
    single = line_of(board, "fpgm/macs 0.5")["miou"]["miou_finetuned"]
    assert single["seeds"][1:] == [None, None, 1] and single["rank"] is None


def test_what_the_seeds_do_not_tell_apart_is_said(board):
    (note,) = (one for one in board["notes"] if one["stage"] == "miou_finetuned" and one["target"] == "macs 0.5")
    assert (note["methods"], note["seeds"], note["pairs"]) == (4, 3, 6)
    assert note["told"] + len(note["close"]) <= 6 and note["margin"] > 0
    # The one with a single seed has no interval with anybody.
    of_single = [pair for pair in note["close"] if "fpgm" in pair[:2]]
    assert of_single and all(pair[3:] == [None, 1, None] for pair in of_single)


def test_a_cell_has_what_its_folder_says(out):
    cells = cells_of(read_summaries([out]), out.absolute())
    job = cells["fpgm/macs 0.5"][0]
    assert (
        job["alone"]["command"] == "benchmark.py --only fpgm@macs0.5@0"
        and job["all_seconds"] == 9
        and job["page"].endswith("/report.html")
    )
    assert job["seconds"] == {"score": 2.5, "cut": 0.5, "finetune": 3.0}
    assert job["iou"]["finetuned"] == [55.0] * len(CLASSES) and job["widths"] == [32] * len(LAYERS)
    assert job["files"].keys() == {"pruned", "finetuned"}
    failed = [job["error"] for job in cells["taylor/macs 0.25"] if "error" in job]
    assert failed == ["no <b>memory</b>"]
    assert [image[:3] for image in job["worst"]] == [["street", 90.0, 75.0], ["lane", 90.0, 75.0]]
    # Of a summary alone there is less to say.
    (only,) = cells_of(read_summaries([out / "benchmark_summary.json"]), out)["fpgm/macs 0.5"]
    assert "iou" not in only and only["miou"]["miou_finetuned"] == 55.0


def test_pictures_beyond_the_room_of_a_page_are_left_out(out, monkeypatch):
    monkeypatch.setattr(board_module, "_PICTURES", len(picture()) + 10)
    job = cells_of(read_summaries([out]), out.absolute())["fpgm/macs 0.5"][0]
    assert [image[0] for image in job["worst"]] == ["street", "lane"]
    assert [bool(image[-1]) for image in job["worst"]] == [True, False]


def test_new_weights_and_corruptions_are_shown_where_they_were_measured(out, board, tmp_path):
    assert board["corruptions"] == [] and not {"scratch", "scratch-full"} & set(board["controls"])
    record = json.loads((out / "benchmark_summary.json").read_text())
    for row in record["rows"]:
        if row["status"] == "done":
            # Each seed loses two points and a half to three and a half.
            row |= {"miou_scratch": row["miou_finetuned"] - 0.025 - 0.005 * row["seed"], "miou_corrupted": 0.3}
    record["baseline"] |= {"miou_corrupted": 0.4, "miou_fog": 0.5}
    write_json(tmp_path / "benchmark_summary.json", record)
    shown = board_of(read_summaries([tmp_path]), [])
    assert shown["controls"] == ["random", "l1", "scratch"] and shown["corruptions"] == ["corrupted"]
    line = line_of(shown, "taylor/macs 0.5")
    points, margin, seeds = line["miou"]["miou_finetuned"]["gaps"]["scratch"]
    assert (points, seeds) == (3.0, 3) and margin == pytest.approx(4.303 * 0.5 / 3**0.5, abs=1e-3)
    assert "scratch" not in line["miou"]["miou_cut"]["gaps"], "it is set against the end, not against the cut"
    assert line["corrupted"]["corrupted"][0] == 30 and shown["benchmarks"][0]["corrupted"] == {
        "corrupted": 40,
        "fog": 50,
    }


def test_published_numbers_are_shown_where_they_compare(board, out):
    assert {entry["network"] for entry in board["published"]} == {"SegNet"}
    assert board["published_elsewhere"] == 2
    record = json.loads((out / "benchmark_summary.json").read_text())
    record["baseline"]["split"] = "val"
    write_json(out.parent / "val.json", record)
    assert board_of(read_summaries([out.parent / "val.json"]), published_numbers())["published"] == []


def test_the_page_is_one_file_and_the_same_each_time(out, tmp_path):
    text = (out / "leaderboard.html").read_text(encoding="utf-8")
    assert len(text) < 2e6
    assert "src=" not in text and "@import" not in text and "</b>memory" not in text
    write_page(out / "leaderboard.html", read_summaries([out]))
    assert (out / "leaderboard.html").read_text(encoding="utf-8") == text


# --- in a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    program = executable()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with browser(program, tmp_path_factory.mktemp("browser")) as running:
        yield running


ROWS = "[...document.querySelectorAll('#table tbody tr:not(.dense)')]"
CELLS = f"{ROWS}.map(row => [...row.cells].map(e => e.innerText.trim()))"


def column(chromium: Browser, name: str) -> list[str]:
    heads = chromium.ask(
        "[...document.querySelectorAll('#table thead th')].map(e => e.innerText.replace(/[▲▼]/, '').trim())"
    )
    return [row[heads.index(name)] for row in chromium.ask(CELLS)]


def wait_for(chromium: Browser, expression: str) -> Any:
    deadline = time.monotonic() + 30
    while not (found := chromium.ask(expression)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_a_reader_sorts_filters_and_comes_back_by_the_address(chromium, out):
    page = out / "leaderboard.html"
    visit = chromium.visit(page)
    assert len(chromium.ask(CELLS)) == 8
    assert column(chromium, "target") == ["macs 0.25"] * 3 + ["macs 0.5"] * 5
    chromium.ask("document.querySelector('[data-sort=miou]').click()")
    *mious, last = [text.split()[0] for text in column(chromium, "mIoU %")]
    assert mious == sorted(mious, key=float, reverse=True) and last == "failed"
    chromium.ask("document.querySelector('[data-sort=miou]').click()")
    assert [text.split()[0] for text in column(chromium, "mIoU %")] == [*mious[::-1], "failed"]
    choose = "(e => { e.value = 'macs 0.5'; e.dispatchEvent(new Event('change')); })(document.getElementById('target'))"
    chromium.ask(choose)
    chromium.ask("document.querySelector('[data-method=random]').click()")
    chosen = column(chromium, "method")
    assert set(chosen) == {"l1", "taylor", "fpgm", "fgp"}
    assert chromium.ask("document.querySelectorAll('#cost svg.chart').length") == 3
    assert chromium.ask("document.querySelectorAll('#cost svg.chart')[0].querySelectorAll('.mark').length") == 3
    address = chromium.ask("location.hash")
    chromium.visit(page)
    chromium.ask(f"location.hash = {address!r}")
    assert wait_for(chromium, "document.getElementById('target').value") == "macs 0.5"
    assert column(chromium, "method") == chosen
    assert visit.complaints == [] and visit.requests == [page.as_uri()]


def test_a_link_leads_to_a_cell(chromium, out):
    visit = chromium.visit(out / "leaderboard.html")
    chromium.ask("document.querySelector(\"[data-cell='fpgm/macs 0.5']\").click()")
    text = wait_for(chromium, "document.querySelector('#cells article')?.textContent")
    for part in (
        "fpgm at macs 0.5",
        "benchmark.py --only fpgm@macs0.5@0",
        "bicyclist",
        LAYERS[0],
        "SHA-256, finetuned",
    ):
        assert part in text
    assert "one shared seed: no interval" in text
    assert "street, seed 0: 90.0 to 75.0 % of the pixels right" in text
    chromium.ask("document.querySelector('.images').scrollIntoView()")
    wide = "[...document.querySelectorAll('.images img')].every(e => e.complete && e.naturalWidth === 16)"
    assert wait_for(chromium, wide)
    # What is pointed at says seeds, data, split and size.
    hint = "(e => { e.dispatchEvent(new Event('mouseover', {bubbles: true})); return e.title; })"
    told = chromium.ask(f"{hint}(document.querySelector(\"[data-cell='l1/macs 0.5']\").closest('tr').cells[3])")
    assert "over 3 seeds" in told and "camvid, test, 360x480" in told
    timed = chromium.ask(f"{hint}(document.querySelector(\"[data-cell='l1/macs 0.5']\").closest('tr').cells[9])")
    assert "speed-up 2.00x" in timed and "a processor" in timed
    chromium.ask("history.back()")
    assert wait_for(chromium, "!document.querySelector('#cells article')")
    chromium.ask("document.getElementById('all-cells').click()")
    assert wait_for(chromium, "document.querySelectorAll('#cells article').length") == 8
    told = chromium.ask("document.getElementById('cells').textContent")
    assert "no <b>memory</b>" in told and "no channel is left" in told
    # Pictures are in the page itself.
    outside = [address for address in visit.requests if not address.startswith("data:")]
    assert visit.complaints == [] and len(outside) == 1


def test_the_files_are_to_be_had_from_the_page(chromium, out, tmp_path):
    visit = chromium.visit(out / "leaderboard.html")
    chromium.save_downloads(tmp_path)
    for ending in ("csv", "json"):
        chromium.ask(f"document.getElementById('download-{ending}').click()")
        file, deadline = tmp_path / f"benchmark_summary.{ending}", time.monotonic() + 30
        while not (file.is_file() and file.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        if ending == "csv":
            assert file.read_bytes() == (out / file.name).read_bytes()
        else:
            assert json.loads(file.read_text()) == json.loads((out / file.name).read_text())
    assert visit.complaints == [] and all(address.startswith(("file:", "blob:")) for address in visit.requests)


def test_what_another_network_beats_is_grey(chromium, out):
    chromium.visit(out / "leaderboard.html")
    # Few values, so that many points share a cost, a mIoU, or both.
    beaten = "q => q.x <= p.x && q.y >= p.y && (q.x < p.x || q.y > p.y)"
    script = f"""[...Array(50).keys()].every(draw => {{
        const points = [...Array(30).keys()].map(n => ({{x: (n * n + draw * 7) % 9, y: (n * 5 + draw * n) % 11}}));
        const found = dominatedOf(points);
        return points.every(p => found.has(p) === points.some({beaten})) && found.size > 0 && found.size < 30;
    }})"""
    assert chromium.ask(script)
    marks = "[...document.querySelectorAll('#cost svg.chart')[0].querySelectorAll('.mark')]"
    grey = chromium.ask(f"{marks}.filter(e => e.classList.contains('dominated')).length")
    assert 0 < grey < chromium.ask(f"{marks}.length")


@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_fits_its_screen_and_is_dark_on_white(chromium, out, width):
    visit = chromium.visit(out / "leaderboard.html", width=width, dark=True)
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    sizes = chromium.ask("[...document.querySelectorAll('svg.chart')].map(e => e.getBoundingClientRect().width)")
    assert len(sizes) == 4 and min(sizes) > 300
    assert chromium.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.complaints == []
