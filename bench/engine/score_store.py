"""Scores on disk, found again by all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.models.state_dict_file import read_file, write_file
from bench.plan.pruning_plan import Scores
from bench.system.files import digest, make_folder, plain
from bench.system.kept_files import read_kept


class ScoreStore:
    """A folder of scores, each file named by its content's identity.

    Attributes:
        folder: where they are; made when the first are kept.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, method: str, identity: Any, compute: Callable[[], Scores]) -> tuple[Scores, str]:
        """Scores and the name of the file they are in; computed only where there is no such file or a damaged one.

        Args:
            method: the method's name, the first part of the file's.
            identity: all that the scores depend on, as data that JSON knows once it is plain.
            compute: gives the scores.
        """
        identity = plain(identity)
        path = self.folder / f"scores_{method}_{digest(identity)}.pt"
        scores = read_kept(path, lambda kept: read_file(kept)["scores"])
        if scores is None:
            scores = {name: score.detach().cpu() for name, score in compute().items()}
            make_folder(self.folder)
            write_file(path, {"identity": identity, "scores": scores})
        return scores, path.name
