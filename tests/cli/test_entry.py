"""How a script begins and ends, by whatever name it is called."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from option_groups import SCRIPTS

from bench.cli.entry import run
from bench.commands import eval as eval_command
from bench.errors import BenchError, UsageError


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BenchError("disk full"), 1, "x.py: error: disk full\n"),
        (UsageError("no such flag"), 2, "x.py: error: no such flag (see x.py --help)\n"),
        (KeyboardInterrupt(), 130, "x.py: interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_end_in_one_line_and_a_status(monkeypatch, capsys, error, code, text):
    def main(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["some/where/x.py"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == code
    assert capsys.readouterr() == ("", text)


def test_a_defect_is_not_dressed_up(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(ZeroDivisionError):
        run(lambda argv: 1 // 0)


def test_debug_lets_the_error_through(monkeypatch):
    def main(argv: list[str]) -> None:
        raise BenchError("disk full")

    monkeypatch.setattr(sys, "argv", ["x.py", "--debug"])
    with pytest.raises(BenchError, match="disk full"):
        run(main)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_is_a_module_to_run_too(script: str, project_root: Path) -> None:
    module = [sys.executable, "-m", f"bench.commands.{script.removesuffix('.py')}"]

    def outcome(command: list[object]) -> tuple[int, str, str]:
        done = subprocess.run(command, capture_output=True, text=True, cwd=project_root)
        return done.returncode, done.stdout, done.stderr

    code, out, err = outcome([*module, "--list-models"])
    assert (code, err) == (0, "")
    assert "unet_small" in out
    refused = outcome([*module, "--threads", "0"])
    assert refused == outcome([sys.executable, script, "--threads", "0"])
    message = "argument --threads: 0 is too small; at least 1"
    assert refused == (2, "", f"{script}: error: {message} (see {script} --help)\n")


def test_options_of_a_message_are_shown_as_flags(monkeypatch, capsys):
    def fails(argv: list[str]) -> None:
        raise BenchError("lower `min_keep` or pass `amp=none`, `target_latency=12ms`; `x.pt` stays")

    monkeypatch.setattr(sys, "argv", ["some/where/x.py"])
    with pytest.raises(SystemExit):
        run(fails)
    says = "lower --min-keep or pass --amp none, --target-latency 12ms; `x.pt` stays"
    assert capsys.readouterr().err == f"x.py: error: {says}\n"


def test_a_working_folder_that_is_gone_is_told(project_root, tmp_path):
    program = (
        "import os, runpy, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone');"
        f"sys.path.insert(0, {str(project_root)!r}); sys.argv = ['eval.py', '--report', 'r.json'];"
        f"runpy.run_path({str(project_root / 'eval.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        "eval.py: error: the working folder is gone; change to one that exists\n",
    )


@pytest.mark.parametrize("flag", ["--help", "--help-all", "--list-models"])
def test_an_output_that_cannot_take_the_text_is_told(flag, monkeypatch, capsys):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    monkeypatch.setattr(sys, "argv", ["eval.py", flag])
    with contextlib.suppress(OSError), full.open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as end:
            run(eval_command.main)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("eval.py: error: cannot write") and said.count("\n") == 1
