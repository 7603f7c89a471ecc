"""``poise diff``: the first iteration in which two trainings differ, and in what."""

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poise.checked import Place, as_path, flat
from poise.config import Config
from poise.errors import PoiseError
from poise.runs.journal import read_episodes, read_metrics
from poise.spec import Episode
from poise.store.files import FileError, read_json
from poise.system.notebook import preformatted

Pair = tuple[Any, Any]
# options that are compared as parts of the machine; and what was done with options without effect
IGNORED = ("backend", "device", "matmul_precision", "unused")


class DiffError(PoiseError):
    """A folder that is not a run folder."""


@dataclass(frozen=True, repr=False)
class Difference:
    """What differs between two runs. Each pair has the value of the first run, then that of the second.

    Fields are empty or None if nothing differs.

    Attributes:
        iterations: the number of iterations of each run.
        iteration: the first iteration that differs, among those that both have.
        steps: environment steps at its end.
        metrics: what differs in that iteration, by name; times and machine memory are ignored.
        episodes: the first rows of ``episodes.csv`` that differ, up to that iteration.
        parameters: the hashes of the final parameters, if both runs ended at the same step and they differ.
        config: options that differ.
        machine: versions, processor, backend, device and precision that differ.
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
        """Whether both learned the same, bit for bit, in the iterations that both have."""
        return self.iteration is None and self.episodes is None and self.parameters is None

    def to_dict(self) -> dict[str, Any]:
        return {"same": self.same, **self.__dict__}

    def lines(self) -> list[str]:
        """As text for people."""
        shared, (first, second) = min(self.iterations), self.iterations
        lines = []
        if self.same:
            lines.append(f"the same in all {shared} iterations")
        elif self.iteration is not None:
            lines.append(
                f"the first difference is in iteration {self.iteration}, which ends at step {self.steps:,}:"
            )
        else:
            lines.append(f"the metrics are the same in all {shared} iterations, but these differ:")
        lines += [f"  {name}: {_brief(a)} and {_brief(b)}" for name, (a, b) in self.metrics.items()]
        if self.episodes is not None:
            lines.append(f"  episodes.csv: {self.episodes[0]} and {self.episodes[1]}")
        if self.parameters is not None:
            lines.append(f"  parameters_sha256: {self.parameters[0]} and {self.parameters[1]}")
        if first != second:
            lines.append(f"the first run has {first} iterations, the second {second}")
        for title, pairs in (("configuration", self.config), ("machine", self.machine)):
            lines += [f"{title}: {name} {_brief(a)} and {_brief(b)}" for name, (a, b) in pairs.items()]
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return f"Difference({self.lines()[0].rstrip(':')})"

    def _repr_html_(self) -> str:
        return preformatted(self.lines())


def diff(first: Place, second: Place) -> Difference:
    """Compares the tables, configurations and summaries of two runs.

        text = str(poise.diff(one, other))   # what the command prints

    Args:
        first, second: what ``train`` returned, or run folders.

    Returns:
        The first iteration that differs, and in what; its ``same`` is True if none does.

    Raises:
        DiffError: a folder is not a run folder, or one of its JSON files is damaged.
        JournalError: its tables are missing or damaged.
    """
    runs = as_path("first", first), as_path("second", second)
    rows = [read_metrics(run) for run in runs]
    # what earlier versions do not have is what they did: the default
    absent = {"together": 1, **flat(Config().to_dict())}
    configs = [{**absent, **flat(_json(run / "config.json"))} for run in runs]
    summaries = [_json(run / "summary.json") if _is_there(run / "summary.json") else {} for run in runs]
    fields: dict[str, Any] = {
        "iterations": (len(rows[0]), len(rows[1])),
        "config": {name: pair for name, pair in _pairs(*configs).items() if name not in IGNORED},
        "machine": _machine(configs, summaries),
    }
    until = min(rows[0][-1]["steps"], rows[1][-1]["steps"]) if all(rows) else 0
    for a, b in (map(_without_times, pair) for pair in zip(*rows, strict=False)):
        if pairs := _pairs(a, b):
            until = max(a["steps"], b["steps"])
            fields |= {"iteration": a["iteration"], "steps": a["steps"], "metrics": pairs}
            break
    fields["episodes"] = _compare_episodes(runs, until)
    hashes, ends = ([summary.get(name) for summary in summaries] for name in ("parameters_sha256", "steps"))
    if ends[0] == ends[1] and None not in hashes and hashes[0] != hashes[1]:
        fields["parameters"] = hashes[0], hashes[1]
    return Difference(**fields)


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except FileError as error:
        raise DiffError(str(error)) from error
    if not isinstance(content, dict):
        raise DiffError(f"{path}: is damaged: it is not an object")
    return content


def _compare_episodes(runs: tuple[Path, Path], until: int) -> Pair | None:
    """The first episodes that differ, among those that ended by step ``until``."""
    tables = [(e for e in read_episodes(run) if e.step <= until) for run in runs]
    for a, b in itertools.zip_longest(*tables):
        if a != b:
            return _describe(a), _describe(b)
    return None


def _describe(episode: Episode | None) -> str:
    if episode is None:
        return "none"
    return f"environment {episode.env}, episode {episode.index}, return {episode.episodic_return:g}"


def _machine(configs: list[dict[str, Any]], summaries: list[dict[str, Any]]) -> dict[str, Pair]:
    facts = []
    for config, summary in zip(configs, summaries, strict=True):
        versions = summary.get("versions")
        machine = dict(versions) if isinstance(versions, dict) else {}
        machine |= {k: summary[k] for k in ("processor", "fingerprint") if k in summary}
        # earlier versions computed on a CPU, in float32, and did not say so
        placed = {"backend": config.get("backend"), "device": summary.get("device", "cpu")}
        placed["matmul_precision"] = config.get("matmul_precision", "float32")
        facts.append({**machine, **placed})
    if not all(len(f) > 3 for f in facts):  # a run without a summary: only the backend can be compared
        facts = [{"backend": f["backend"]} for f in facts]
    return _pairs(*facts)


def _pairs(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Pair]:
    """The values that differ, in the order of ``first``."""
    names = [*first, *(name for name in second if name not in first)]
    return {n: (first.get(n), second.get(n)) for n in names if first.get(n) != second.get(n)}


def _brief(value: Any) -> str:
    return "nothing" if value is None else f"{value}"
