"""A SLURM of one node, this machine, in a folder of its own: munged, slurmctld and slurmd of whoever asks for it."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
_PATIENCE_SECONDS = 60
CONFIG = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={other_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed() -> bool:
    """Whether the daemons are there."""
    return all(shutil.which(name, path=_PATH) for name in DAEMONS)


@contextlib.contextmanager
def one_node() -> Iterator[None]:
    """Runs it and names it to what this process starts, by SLURM_CONF."""
    # Not deeper: the name of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="slurm", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder, host = Path(name), socket.gethostname().partition(".")[0]
        folder.chmod(0o755)
        for part in ("state", "spool"):
            (folder / part).mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o400)
        settings = {"host": host, "folder": folder, "user": getpass.getuser(), "cpus": os.cpu_count()}
        config = folder / "slurm.conf"
        config.write_text(CONFIG.format(**settings, port=_free_port(), other_port=_free_port()))
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(config)
        stack.callback(lambda: os.environ.update(SLURM_CONF=before) if before else os.environ.pop("SLURM_CONF"))
        files = {
            "socket": "munge.socket",
            "key-file": "munge.key",
            "pid-file": "munged.pid",
            "seed-file": "munged.seed",
        }
        where = [f"--{option}={folder / file}" for option, file in files.items()]
        stack.enter_context(_daemon(folder, ["munged", "--foreground", "--force", *where]))
        _wait(lambda: (folder / "munge.socket").exists(), "munged", folder)
        stack.enter_context(_daemon(folder, ["slurmctld", "-D", "-f", str(config)]))
        stack.enter_context(_daemon(folder, ["slurmd", "-D", "-f", str(config), "-N", host]))
        _wait(lambda: "idle" in _said(["sinfo", "--noheader", "--format=%T"]), "slurmd", folder)
        stack.callback(_said, ["scancel", "--full", f"--user={getpass.getuser()}"])
        yield


def cancel_one() -> str:
    """Cancels a job that runs, and says which."""
    running = _said(["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i"]).split()
    if not running:
        return "nothing"
    subprocess.run(["scancel", running[-1]], check=True)
    return f"job {running[-1]}"


@contextlib.contextmanager
def _daemon(folder: Path, words: list[str]) -> Iterator[None]:
    with (folder / f"{words[0]}.txt").open("w") as log:
        program = [shutil.which(words[0], path=_PATH), *words[1:]]
        daemon = subprocess.Popen(program, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait()


def _wait(is_there: Callable[[], bool], name: str, folder: Path) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not is_there():
        if time.monotonic() > end:
            raise RuntimeError(f"{name} does not begin: {(folder / f'{name}.txt').read_text()[-2000:]}")
        time.sleep(0.2)


def _said(words: list[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
