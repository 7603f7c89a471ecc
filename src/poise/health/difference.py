"""Where two trainings part: the first iteration that differs, and in what."""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.checked import flat
from poise.errors import PoiseError
from poise.runs.journal import read_episodes, read_metrics
from poise.spec import Episode
from poise.store.files import FileError, read_json

Pair = tuple[Any, Any]


class DiffError(PoiseError):
    """A folder that holds no run."""


@dataclass(frozen=True)
class Difference:
    """Of two runs, each pair in their order. Empty, None and True where they are the same.

    Attributes:
        iterations: how many each has.
        iteration: the first that differs, of those that both have.
        steps: environment steps at its end.
        metrics: what differs in it, by name. Times and the memory of the machine do not count.
        episodes: the first rows of ``episodes.csv`` that differ, up to that iteration.
        parameters: the sums of the final parameters, where both ended at the same step and these differ.
        config: options that differ.
        machine: versions, processor and backend that differ.
    """

    iterations: tuple[int, int]
    iteration: int | None = None
    steps: int | None = None
    metrics: dict[str, Pair] = field(default_factory=dict)
    episodes: Pair | None = None
    parameters: Pair | None = None
    config: dict[str, Pair] = field(default_factory=dict)
    machine: dict[str, Pair] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether both learned the same, bit for bit as far as both went."""
        return self.iteration is None and self.episodes is None and self.parameters is None

    def to_dict(self) -> dict[str, Any]:
        return {"same": self.same, **self.__dict__}

    def lines(self) -> list[str]:
        """What a person reads."""
        shared, (one, other) = min(self.iterations), self.iterations
        said = []
        if self.same:
            said.append(f"the same in all of {shared} iterations")
        elif self.iteration is not None:
            said.append(
                f"the first difference is in iteration {self.iteration}, which ends at step {self.steps:,}:"
            )
        else:
            said.append(f"the metrics of {shared} iterations are the same, not so:")
        said += [f"  {name}: {_brief(a)} and {_brief(b)}" for name, (a, b) in self.metrics.items()]
        if self.episodes is not None:
            said.append(f"  episodes.csv: {self.episodes[0]} and {self.episodes[1]}")
        if self.parameters is not None:
            said.append(f"  parameters_sha256: {self.parameters[0]} and {self.parameters[1]}")
        if one != other:
            said.append(f"one has {one} iterations, the other {other}")
        for title, pairs in (("configuration", self.config), ("machine", self.machine)):
            said += [f"{title}: {name} {_brief(a)} and {_brief(b)}" for name, (a, b) in pairs.items()]
        return said


def compare(one: Path, other: Path) -> Difference:
    """What two run folders say of their trainings.

    Raises:
        DiffError: a folder holds no run.
        JournalError: its tables are missing or damaged.
    """
    runs = one, other
    rows = [read_metrics(run) for run in runs]
    configs = [flat(_json(run / "config.json")) for run in runs]
    summaries = [_json(run / "summary.json") if _is_there(run / "summary.json") else {} for run in runs]
    found: dict[str, Any] = {
        "iterations": (len(rows[0]), len(rows[1])),
        "config": {name: pair for name, pair in _pairs(*configs).items() if name != "backend"},
        "machine": _machine(configs, summaries),
    }
    until = min(rows[0][-1]["steps"], rows[1][-1]["steps"]) if all(rows) else 0
    for a, b in (map(_without_times, pair) for pair in zip(*rows, strict=False)):
        if pairs := _pairs(a, b):
            until = max(a["steps"], b["steps"])
            found |= {"iteration": a["iteration"], "steps": a["steps"], "metrics": pairs}
            break
    found["episodes"] = _episodes(runs, until)
    (one_sum, other_sum), (one_end, other_end) = (
        [summary.get(name) for summary in summaries] for name in ("parameters_sha256", "steps")
    )
    if one_end == other_end and None not in (one_sum, other_sum) and one_sum != other_sum:
        found["parameters"] = one_sum, other_sum
    return Difference(**found)


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except FileError as error:
        raise DiffError(str(error)) from error
    if not isinstance(found, dict):
        raise DiffError(f"{path}: is damaged: it is not an object")
    return found


def _episodes(runs: tuple[Path, Path], until: int) -> Pair | None:
    """The first that differ of those that ended by step ``until``."""
    tables = [(e for e in read_episodes(run) if e.step <= until) for run in runs]
    for a, b in itertools.zip_longest(*tables):
        if a != b:
            return _named(a), _named(b)
    return None


def _named(episode: Episode | None) -> str:
    if episode is None:
        return "none"
    return f"environment {episode.env}, episode {episode.index}, return {episode.episodic_return:g}"


def _machine(configs: list[dict[str, Any]], summaries: list[dict[str, Any]]) -> dict[str, Pair]:
    facts = []
    for config, summary in zip(configs, summaries, strict=True):
        versions = summary.get("versions")
        known = dict(versions) if isinstance(versions, dict) else {}
        facts.append({**known, **{k: summary[k] for k in ("processor", "fingerprint") if k in summary}})
        facts[-1]["backend"] = config.get("backend")
    if not all(len(f) > 1 for f in facts):  # one has no summary yet
        facts = [{"backend": f["backend"]} for f in facts]
    return _pairs(*facts)


def _pairs(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Pair]:
    """What differs, in the order of the first."""
    names = [*one, *(name for name in other if name not in one)]
    return {n: (one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)}


def _brief(value: Any) -> str:
    return "nothing" if value is None else f"{value}"
