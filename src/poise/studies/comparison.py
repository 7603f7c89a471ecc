"""``poise compare``: which of several settings is better, as far as their trainings show it."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise.checked import Place, as_path, as_paths
from poise.errors import PoiseError
from poise.runs.journal import RETURN
from poise.runs.records import Record, judged_by, read_record, scored_info
from poise.store.checkpoint import REPLACED
from poise.store.files import check_room, inside
from poise.store.places import instead_of_run
from poise.studies import tables
from poise.studies.figures import Line, draw_tasks
from poise.studies.pairs import Pair, compare_settings, pair_as_json, pair_lines
from poise.studies.results import evaluation
from poise.studies.settings import Setting, configuration_key, grouped, setting_lines
from poise.studies.statistics import interquartile_band
from poise.studies.unfinished import EXPERIMENT, SWEEP
from poise.system.notebook import preformatted
from poise.system.terminal import typed
from poise.wording import counted


class CompareError(PoiseError):
    """These runs cannot be compared."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Trainings, grouped by environment and configuration, and each group against the first.

    Attributes:
        settings: the groups. Each has an ``env``, a ``label``, the options in which it ``differs``,
            ``scores`` (one for each seed) and ``records`` (one for each run).
        pairs: by environment, each setting against the first: ``value``, ``low`` and ``high`` (the difference
            of the means and its 95% interval), ``p``, ``winner`` and ``sentence()``.
        left_out: the folders that cannot be compared, each with the reason.
    """

    settings: tuple[Setting, ...]
    pairs: dict[str, tuple[Pair, ...]]
    left_out: dict[str, str]

    @property
    def verdict(self) -> str:
        """The result in words: a sentence for each pair."""
        return "\n".join(pair.sentence() for pairs in self.pairs.values() for pair in pairs)

    def of(self, env: str) -> list[Setting]:
        return [setting for setting in self.settings if setting.env == env]

    def to_dict(self) -> dict[str, Any]:
        tasks = {}
        for env, pairs in self.pairs.items():
            rows = [
                {
                    "label": s.label,
                    "differs": s.differs,
                    "runs": [str(record.folder) for record in s.records],
                    "evaluation": evaluation(s.scores),
                }
                for s in self.of(env)
            ]
            tasks[env] = {"settings": rows, "pairs": [pair_as_json(pair) for pair in pairs]}
        return {"tasks": tasks, "by": self.settings[0].by, "left_out": self.left_out}

    def lines(self) -> list[str]:
        """The comparison as lines of text."""
        lines: list[str] = []
        for env, pairs in self.pairs.items():
            by = self.settings[0].by
            title = env if by == RETURN else f"{env}, judged by {by}: higher is better"
            lines += [title, *setting_lines(self.of(env)), *pair_lines(pairs), ""]
        lines += [f"left out: {folder}: {why}" for folder, why in self.left_out.items()]
        return lines if lines[-1] else lines[:-1]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        envs = ", ".join(f"{counted(len(self.of(env)), 'setting')} of {env}" for env in self.pairs)
        winners = {pair.winner for pairs in self.pairs.values() for pair in pairs} - {None}
        result = f"better: {', '.join(map(str, winners))}" if winners else "no winner"
        return f"Comparison({envs}: {result})"

    def _repr_html_(self) -> str:
        return preformatted(self.lines())


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The run folders in ``places``; an experiment or a sweep stands for all its runs.

    Raises:
        CompareError: ``places`` is empty, one is not such a folder, or a run is in it twice.
    """
    if not places:
        raise CompareError("RUN: must be one folder or more, of runs, of seeds or of experiments")
    runs: list[Path] = []
    for place in places:
        if (place / EXPERIMENT).exists():
            runs += [run for run in _below(place, "**/checkpoints") if not run.name.startswith(REPLACED)]
        elif (place / SWEEP).exists():  # without its trials, which had other seeds
            runs += [run for name in ("default", "winner") for run in _below(place, f"{name}/*/checkpoints")]
        elif (place / "checkpoints").is_dir():
            runs.append(place)
        else:
            why = instead_of_run(place) or "is not the folder of a run, an experiment or a sweep"
            raise CompareError(f"{place}: {why}")
    if len({path.resolve() for path in runs}) < len(runs):
        raise CompareError("a run is named twice")
    return runs


def _below(place: Path, pattern: str) -> list[Path]:
    """The run folders in an experiment or a sweep.

    Raises:
        FileError: a folder on the way to one is a link, which may lead to somebody else's files.
    """
    return sorted(inside(place, path.relative_to(place)).parent for path in place.glob(pattern))


def compare(
    runs: Place | Iterable[Place],
    *,
    by: str = RETURN,
    plot: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Compares trainings with confidence intervals: settings if they have several seeds, otherwise agents.

        text = str(poise.compare([one, other]))   # what the command prints

    Args:
        runs: what ``train``, ``experiment`` or ``sweep`` returned, or their folders; one or several.
        by: what is compared, of the greedy episodes at the end: "return", "success_rate", or the name of a
            number in the infos.
        plot: a file (.png) into which the learning curves are drawn.

    Returns:
        The settings with their scores, and each against the first with a verdict.

    Raises:
        CompareError: there are fewer than two finished runs, or no two of one environment; or the file cannot
            be written.
        RecordError, CheckpointError, JournalError: a folder holds no run, or is damaged.
    """
    compared = compare_runs(as_paths("runs", runs), by)
    if plot is not None:
        draw_comparison(as_path("plot", plot), compared)
    return compared


def compare_runs(places: Sequence[Path], by: str = RETURN) -> Comparison:
    """Groups runs by environment and configuration; compares each group with the first of its environment.

    If a group has one seed, or if there is only one group, agents are compared instead. ``by``: the greedy
    return, or the success rate or another number in the infos of the greedy episodes.

    Raises:
        CompareError: there are fewer than two finished runs, or no two of one environment.
        RecordError, CheckpointError, JournalError: a folder holds no run, or is damaged.
    """
    return compare_records([read_record(path) for path in find_runs(places)], by)


def compare_records(records: Sequence[Record], by: str = RETURN) -> Comparison:
    """``compare_runs`` of records that have been read."""
    left_out = {str(r.folder): why for r in records if (why := _unusable(r, records, by))}
    scored = [record for record in records if str(record.folder) not in left_out]
    if len(scored) < 2:
        reasons = "".join(f"\n  {folder}: {why}" for folder, why in left_out.items())
        raise CompareError(
            f"at least 2 runs are needed, {len(scored)} of {len(records)} can be compared{reasons}"
        )
    settings = grouped(scored, by)
    envs = dict.fromkeys(setting.env for setting in settings)
    pairs = {env: compare_settings([s for s in settings if s.env == env]) for env in envs}
    if not any(pairs.values()):
        raise CompareError(f"no two runs have the same environment: {', '.join(envs)}")
    return Comparison(tuple(settings), pairs, left_out)


def _unusable(record: Record, records: Sequence[Record], by: str) -> str | None:
    """Why a run cannot be compared with the others; None if it can."""
    if (state := record.summary.get("status", "not finished")) != "finished":
        return f"is {state} ({typed('poise', 'resume', record.folder)})"
    if not record.summary.get("evaluation"):
        command = typed("poise", "evaluate", record.folder)
        return f"has no final score (--no-evaluate); {command} shows one but does not save it"
    if judged_by(record.summary, by) is None:
        known = ", ".join([RETURN, *scored_info(record.summary)])
        return f"its score has no {by!r:.60}; it has {known}"
    identity = _identity(record)
    for other in itertools.takewhile(lambda r: r is not record, records):
        if identity is not None and _identity(other) == identity:
            return f"is bit-identical to {other.folder}, and would count twice"
    return None


def _identity(record: Record) -> tuple[Any, ...] | None:
    """Environment, configuration and parameters: two independent trainings never share them."""
    parameters = record.summary.get("parameters_sha256")
    return parameters and (record.env, record.config.seed, configuration_key(record), parameters)


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """A PNG: a panel for each environment, a curve with its band for each setting.

    Raises:
        CompareError: the file cannot be written, or its name does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise CompareError(f"plot = {path}: the file name must end in .png")
    panels: Mapping[str, list[Line]] = {env: curves(comparison.of(env)) for env in comparison.pairs}
    try:
        draw_tasks(path, panels, max(len(setting.records) for setting in comparison.settings))
    except OSError as error:
        check_room(path, error)
        raise CompareError(f"plot = {path}: cannot be written: {error.strerror}") from error


def curves(settings: Sequence[Setting]) -> list[Line]:
    """Training returns of each setting: interquartile mean over its seeds, and its interval.

    If the seeds of a setting have not all run equally long, only the longest ones are averaged.
    """
    lines = []
    for setting in settings:
        count = max(len(record.rows) for record in setting.records)
        longest = [record for record in setting.records if len(record.rows) == count]
        values = np.stack([record.column("episode/return") for record in longest])
        band = interquartile_band(tables.held(values))
        lines.append(Line(setting.label, longest[0].steps, *band))
    return lines
