"""Which of a benchmark's finished jobs are meant: those of the methods, targets and seeds that were named, exactly."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, DamagedFile
from bench.plan.target import Goal
from bench.pruners import check_method
from bench.system.console import say
from bench.system.files import read_json
from bench.system.run_folder import INFO, PRUNED, is_done

# What a share of the channels is to methods that remove none.
_ALIKE = {"sparsity": "channels"}


@dataclass(frozen=True)
class Selection:
    """What was named; of what was not, all is meant.

    Attributes:
        methods: names of methods.
        goals: targets; a share of the channels is also one of the weights, for methods that zero them.
        seeds: seeds of jobs.
        typed: which of these three the command line names, so that each must be there; a config file, which serves
            several commands, may name more than was done.

    Raises:
        UsageError: a method that there is not.
    """

    methods: Sequence[str] = ()
    goals: Sequence[Goal] = ()
    seeds: Sequence[int] = ()
    typed: Collection[str] = ("methods", "goals", "seeds")

    def __post_init__(self) -> None:
        for name in self.methods:
            check_method(name)

    @property
    def is_everything(self) -> bool:
        """Whether nothing was named."""
        return not (self.methods or self.goals or self.seeds)

    def has(self, info: Mapping[str, Any]) -> bool:
        """Whether the job of a `pruning_info.json` is meant."""
        found = _place(info)
        return all(not named or found[part] in named for part, named in self._named.items())

    def check(self, infos: Collection[Mapping[str, Any]], out: Path) -> None:
        """Makes sure that what was named is there.

        Args:
            infos: of all jobs; without any, nothing is checked.
            out: their folder.

        Raises:
            BenchError: no job is meant, or something that the command line names is in none.
        """
        for part, named in self._named.items() if infos else ():
            there = list(dict.fromkeys(_place(info)[part] for info in infos))
            missing = [str(item) for item in named if item not in there]
            if missing:
                line = f"no pruned network in {out} is of {part.rstrip('s')} {' or '.join(missing)}"
                if part in self.typed or len(missing) == len(named):
                    raise BenchError(f"{line}; there are {', '.join(map(str, there))}")
                say(line)
        if infos and not any(map(self.has, infos)):
            raise BenchError(f"no pruned network in {out} is all that was named at once; leave some of it out")

    @property
    def _named(self) -> dict[str, Sequence[Any]]:
        return {"methods": self.methods, "goals": self.goals, "seeds": self.seeds}


def _place(info: Mapping[str, Any]) -> dict[str, Any]:
    """Where in the grid a job is."""
    kind, value = info["target"]["kind"], info["target"]["value"]
    return {"methods": info["method"], "goals": Goal(_ALIKE.get(kind, kind), value), "seeds": info["seed"]}


EVERYTHING = Selection()
"""All jobs."""


def pruned_folders(out: Path) -> list[Path]:
    """The folders of a benchmark's finished jobs, in the order of their names."""
    return sorted(path.parent for path in out.glob(f"*/{INFO}") if is_done(path.parent, PRUNED, INFO))


def chosen_jobs(out: Path, selection: Selection) -> dict[Path, dict[str, Any] | None]:
    """Folder -> `pruning_info.json` of the finished jobs that are meant, and of those whose record does not say which
    they are; None where that is no JSON.

    Raises:
        BenchError: something that was named is not there.
    """
    infos = {folder: _readable(folder / INFO) for folder in pruned_folders(out)}
    jobs = {folder: info for folder, info in infos.items() if _is_of_a_job(info)}
    selection.check(jobs.values(), out)
    return {folder: info for folder, info in infos.items() if folder not in jobs or selection.has(info)}


def _readable(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except DamagedFile:
        return None


def _is_of_a_job(info: Any) -> bool:
    try:
        return bool(_place(info))
    except (BenchError, LookupError, AttributeError, TypeError):
        return False
