"""Scores on disk, found again by all that they depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.datasets.fingerprint import DataFiles
from bench.plan.pruning_plan import Scores
from bench.system.files import digest, make_folder, plain, whole_file


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
        """Scores and the name of the file they are in; they are computed only where there is no such file.

        Args:
            method: the method's name, the first part of the file's.
            identity: all that the scores depend on, as data that JSON knows once it is plain.
            compute: gives the scores.
            files: images and labels that they depend on, if there are any; scores of others are replaced.
        """
        identity = plain(identity)
        path = self.folder / f"scores_{method}_{digest(identity)}.pt"
        if path.is_file():
            kept = torch.load(path, weights_only=True)
            if files is None or files.fits(kept.get("data"), f"{path.name} was computed"):
                return kept["scores"], path.name
        scores = {name: score.detach().cpu() for name, score in compute().items()}
        make_folder(self.folder)
        with whole_file(path) as temporary:
            torch.save({"identity": identity, "scores": scores, "data": files and files.record()}, temporary)
        return scores, path.name
