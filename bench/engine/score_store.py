"""Scores on disk, found again by all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.datasets.fingerprint import DataFiles
from bench.models.state_dict_file import read_file, write_file
from bench.plan.pruning_plan import Scores
from bench.system.files import digest, plain
from bench.system.kept_files import made_once


class ScoreStore:
    """A folder of scores, each file named by its content's identity.

    Attributes:
        folder: where they are; made when the first are kept.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def get(
        self, method: str, identity: Any, compute: Callable[[], Scores], files: DataFiles | None = None
    ) -> tuple[Scores, str]:
        """Scores and the name of the file they are in; computed only where there is no such file or a damaged one.

        Args:
            method: the method's name, the first part of the file's.
            identity: all that the scores depend on, as data that JSON knows once it is plain.
            compute: gives the scores.
            files: images and labels that they depend on, if there are any; scores of others are replaced.
        """
        identity = plain(identity)
        path = self.folder / f"scores_{method}_{digest(identity)}.pt"

        def read(path: Path) -> Scores | None:
            kept = _read(path)
            fits = files is None or files.fits(kept["data"], f"{path.name} was computed")
            return kept["scores"] if fits else None

        def make() -> Scores:
            scores = {name: score.detach().cpu() for name, score in compute().items()}
            write_file(path, {"identity": identity, "scores": scores, "data": files and files.record()})
            return scores

        return made_once(path, read, make, f"the scores of {method}"), path.name


def _read(path: Path) -> dict[str, Any]:
    kept = read_file(path)
    # A file without scores is damaged, whatever else it holds.
    return {"scores": kept["scores"], "data": kept.get("data")}
