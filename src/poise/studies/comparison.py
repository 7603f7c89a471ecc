"""``poise compare``: what several trainings say of the settings they had, and what they do not."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.checked import flat
from poise.errors import PoiseError
from poise.runs.journal import read_evaluation
from poise.runs.records import Record, read_record
from poise.store.checkpoint import REPLACED
from poise.store.files import check_room, inside
from poise.studies import tables
from poise.studies.experiment import evaluation, plain
from poise.studies.figures import Line, draw_tasks
from poise.studies.statistics import (
    Estimate,
    difference,
    holm,
    improvement,
    interquartile_band,
    p_value,
    runs_needed,
)
from poise.studies.unfinished import EXPERIMENT, SWEEP
from poise.system.terminal import typed
from poise.wording import aligned, between, figure, interval, share

ALPHA = 0.05
ABSENT = "not changed"
NOT_NOTHING = (  # a student would read "no effect"
    "; this judges the final scores alone, and does not show that they learn equally fast: see the curves"
)
LONGEST = 36  # characters of a label; a longer one is a number, and told below


class CompareError(PoiseError):
    """Runs of which nothing can be compared."""


@dataclass(frozen=True)
class Setting:
    """Trainings in one environment with one configuration, and other seeds.

    ``differs``: what sets it apart from the other settings, by dotted name.
    """

    env: str
    label: str
    differs: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def legend(self) -> str | None:
        """What the label stands for, where it is a number."""
        said = _in_words(self.differs)
        return None if said == self.label else f"{self.label}: {said}"

    def row(self) -> tuple[str, ...]:
        """Label, seeds, mean, its interval, interquartile mean."""
        score = evaluation(self.scores)
        iqm = figure(score["iqm"]["value"])
        return self.label, str(len(self.records)), figure(score["mean"]), interval(score), iqm

    @property
    def scores(self) -> Float[np.ndarray, " seeds"]:
        """The final greedy score of each."""
        return np.array([record.summary["evaluation"]["mean"] for record in self.records], float)


@dataclass(frozen=True)
class Pair:
    """Two settings, or two agents of one seed each, and what can be said of them.

    ``kind``: "settings": over seeds; "agents": over the episodes of their final scores. ``p`` is corrected
    for the number of pairs that are compared. ``no_interval``: why there is none. ``needed``: seeds of each
    setting with which a difference of this size would be found in four tries of five, where that is more than
    there are.
    """

    kind: str
    one: str
    other: str
    value: float
    low: float
    high: float
    no_interval: str | None
    improvement: Estimate | None
    p: float
    needed: int | None

    @property
    def winner(self) -> str | None:
        """None where chance can have done it."""
        if not self.p < ALPHA:
            return None
        return self.other if self.value > 0 else self.one

    def sentence(self) -> str:
        """What may be said."""
        over = "over seeds" if self.kind == "settings" else "as agents, over the episodes of their scores"
        if self.winner is not None:
            loser = self.one if self.winner == self.other else self.other
            near, far = sorted((abs(self.low), abs(self.high)))
            width = (
                f"95% interval {between(near, far)}"
                if self.no_interval is None
                else f"no interval: {self.no_interval}"
            )
            said = (
                f"{self.winner} is better than {loser} {over}, by {figure(abs(self.value))} "
                f"({width}, p = {self.p:.2g})"
            )
            return f"{said}, judged by the final scores alone" if self.kind == "settings" else said
        said = f"no winner between {self.one} and {self.other} {over}: {self._why_none()} (p = {self.p:.2g})"
        if self.needed is not None:
            said += f"; a difference of this size would show with about {self.needed:,} seeds of each"
        return said + (NOT_NOTHING if self.kind == "settings" else "")

    def _why_none(self) -> str:
        if self.no_interval is not None:
            return f"their means differ by {figure(abs(self.value))}, and {self.no_interval}"
        bounds = f"the 95% interval of the difference, {between(self.low, self.high)},"
        if self.low <= 0 <= self.high:
            return f"{bounds} holds 0"
        return f"{bounds} excludes 0, but with several comparisons this can happen by chance"


@dataclass(frozen=True)
class Comparison:
    """What is compared, task by task; ``left_out``: folders without a final score, and why."""

    settings: tuple[Setting, ...]
    pairs: dict[str, tuple[Pair, ...]]  # by environment
    left_out: dict[str, str]

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
        return {"tasks": tasks, "left_out": self.left_out}

    def lines(self) -> list[str]:
        """What a person reads."""
        said: list[str] = []
        for env, pairs in self.pairs.items():
            said += [env, *_settings_in_words(self.of(env)), *_pairs_in_words(pairs), ""]
        said += [f"left out: {folder}: {why}" for folder, why in self.left_out.items()]
        return said if said[-1] else said[:-1]


def _bounds(pair: Pair) -> tuple[float | None, float | None]:
    low, high = (bound if np.isfinite(bound) else None for bound in (pair.low, pair.high))
    return low, high


def pair_as_json(pair: Pair) -> dict[str, Any]:
    bounds = dict(zip(("low", "high"), _bounds(pair), strict=True))
    return {
        **pair.__dict__,
        **bounds,
        "improvement": None if pair.improvement is None else plain(pair.improvement),
        "winner": pair.winner,
        "sentence": pair.sentence(),
    }


def _settings_in_words(settings: Sequence[Setting]) -> list[str]:
    rows = [("setting", "seeds", "mean", "95% interval", "interquartile mean"), *(s.row() for s in settings)]
    return [f"  {line}" for line in [*aligned(rows), *(s.legend for s in settings if s.legend)]]


def _pairs_in_words(pairs: Sequence[Pair]) -> list[str]:
    if not pairs:
        return []
    rows: list[tuple[str, ...]] = [("  difference", "of means", "95% interval")]
    if pairs[0].improvement is not None:
        rows = [(*rows[0], "probability of improvement", "95% interval")]
    for pair in pairs:
        row: tuple[str, ...] = (
            f"  {pair.other} - {pair.one}",
            figure(pair.value),
            between(*_bounds(pair), pair.no_interval),
        )
        if pair.improvement:
            row = (*row, *share(plain(pair.improvement)))
        rows.append(row)
    said = ["", *aligned(rows), "", *(f"  {pair.sentence()}" for pair in pairs)]
    if len(pairs) > 1:
        said.append(f"  (p is corrected for {len(pairs)} comparisons, after Holm)")
    if pairs[0].kind == "agents":
        said.append("  (one training says nothing of its setting: --seeds 5 trains several)")
    return said


def find_runs(places: Sequence[Path]) -> list[Path]:
    """The run folders that are named, and those of the experiments that are.

    Raises:
        CompareError: there is none, one is neither, or one is named twice.
    """
    if not places:
        raise CompareError("RUN: must be one folder or more, of runs, of seeds or of experiments")
    found: list[Path] = []
    for place in places:
        if (place / EXPERIMENT).exists():
            found += [run for run in _below(place, "**/checkpoints") if not run.name.startswith(REPLACED)]
        elif (place / SWEEP).exists():  # the trials had other seeds than its judgement
            found += [run for name in ("default", "winner") for run in _below(place, f"{name}/*/checkpoints")]
        elif (place / "checkpoints").is_dir():
            found.append(place)
        else:
            raise CompareError(f"{place}: is no folder of a run, nor of an experiment")
    if len({path.resolve() for path in found}) < len(found):
        raise CompareError("a run is named twice")
    return found


def _below(place: Path, pattern: str) -> list[Path]:
    """The run folders in an experiment or a sweep.

    Raises:
        FileError: a folder on the way to one is a link, which may lead to what belongs to another.
    """
    return sorted(inside(place, path.relative_to(place)).parent for path in place.glob(pattern))


def compare_runs(places: Sequence[Path]) -> Comparison:
    """Groups runs by environment and configuration; compares each group with the first of its task.

    Where a group has one seed alone, or where there is one group alone, the agents are compared in its place.

    Raises:
        CompareError: there are fewer than two finished runs, or no two of one environment.
        RecordError, CheckpointError, JournalError: a folder holds no run, or is damaged.
    """
    return compare_records([read_record(path) for path in find_runs(places)])


def compare_records(records: Sequence[Record]) -> Comparison:
    """``compare_runs`` of records that were read already."""
    left_out = {str(r.folder): why for r in records if (why := _unusable(r, records))}
    scored = [record for record in records if str(record.folder) not in left_out]
    if len(scored) < 2:
        reasons = "".join(f"\n  {folder}: {why}" for folder, why in left_out.items())
        raise CompareError(
            f"of {len(records)} runs {len(scored)} can be compared, at least two are needed{reasons}"
        )
    settings = grouped(scored)
    envs = dict.fromkeys(setting.env for setting in settings)
    pairs = {env: compare_settings([s for s in settings if s.env == env]) for env in envs}
    if not any(pairs.values()):
        raise CompareError(f"each run has another environment: {', '.join(envs)}")
    return Comparison(tuple(settings), pairs, left_out)


def _unusable(record: Record, records: Sequence[Record]) -> str | None:
    """Why a run takes no part in a comparison with others; None where it does."""
    if (state := record.summary.get("status", "not finished")) != "finished":
        return f"is {state} ({typed('poise', 'resume', record.folder)})"
    if not record.summary.get("evaluation"):
        command = typed("poise", "evaluate", record.folder)
        return f"has no final score (--no-evaluate); {command} shows one, and keeps none"
    sameness = _identity(record)
    for other in itertools.takewhile(lambda r: r is not record, records):
        if sameness is not None and _identity(other) == sameness:
            return f"is bit for bit the training {other.folder}, and would count twice"
    return None


def _identity(record: Record) -> tuple[Any, ...] | None:
    """Two independent trainings never share it."""
    parameters = record.summary.get("parameters_sha256")
    return parameters and (record.env, record.config.seed, _key(record), parameters)


def grouped(records: Sequence[Record]) -> list[Setting]:
    """By environment and configuration, in the order given."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.env, _key(record)), []).append(record)
    settings = []
    for (env, _), mine in groups.items():
        others = [group[0] for (other, _), group in groups.items() if other == env]
        differs = _differs(mine[0], others)
        settings.append(Setting(env, "", differs, tuple(sorted(mine, key=lambda r: r.config.seed))))
    texts = list(dict.fromkeys(_in_words(setting.differs) for setting in settings))
    names = {text: text if len(text) <= LONGEST else f"setting {i + 1}" for i, text in enumerate(texts)}
    return [dataclasses.replace(s, label=names[_in_words(s.differs)]) for s in settings]


def _in_words(differs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in differs.items()) or "defaults"


def _options(record: Record) -> dict[str, Any]:
    options = flat(record.config.to_dict())
    del options["seed"]
    return options


def _key(record: Record) -> str:
    """The configuration but for the seed."""
    return json.dumps(_options(record), sort_keys=True)


def _differs(record: Record, others: Sequence[Record]) -> dict[str, Any]:
    """What sets it apart: of what is not the default, or, where that is nothing, of everything.

    Of a setting that is alone, from the defaults.
    """
    if len(others) == 1:
        return record.config.changes(record.spec)
    varied = {r.folder: {"total_steps": r.config.total_steps, **r.config.changes(r.spec)} for r in others}
    for told in (varied, {r.folder: _options(r) for r in others}):
        names = dict.fromkeys(itertools.chain.from_iterable(told.values()))
        apart = [name for name in names if len({json.dumps(t.get(name, ABSENT)) for t in told.values()}) > 1]
        if apart:
            mine = told[record.folder]
            if record.config.changes(record.spec):  # or it is the defaults, and named so
                mine = _options(record)
            return {name: mine[name] for name in apart if name in mine}
    return {}


def compare_settings(settings: Sequence[Setting]) -> tuple[Pair, ...]:
    """Of one environment, each against the first."""
    if len(settings) == 1 or any(len(setting.records) == 1 for setting in settings):
        records = [(s, r) for s in settings for r in s.records]
        alone = len(settings) == 1
        sides = [(_agent(r, None if alone else s), read_evaluation(r.folder)) for s, r in records]
        kind = "agents"
    else:
        sides, kind = [(setting.label, setting.scores) for setting in settings], "settings"
    (one, base), *others = sides
    corrected = holm([p_value(scores, base) for _, scores in others])
    pairs = []
    for (other, scores), p in zip(others, corrected, strict=True):
        better = improvement([(scores, base)]) if kind == "settings" else None
        needed = runs_needed(scores, base) if kind == "settings" else None
        if needed is not None and needed <= max(len(scores), len(base)):  # only Holm's correction says no
            needed = None
        bounds = difference(scores, base)
        pairs.append(Pair(kind, one, other, *bounds, better, p, needed))
    return tuple(pairs)


def _agent(record: Record, setting: Setting | None) -> str:
    seed = f"seed {record.config.seed}"
    return seed if setting is None else f"{setting.label}, {seed}"


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """A PNG: a panel for each environment, a curve with its band for each setting.

    Raises:
        CompareError: it cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise CompareError(f"plot = {path}: the name of a picture has to end in .png")
    panels: Mapping[str, list[Line]] = {env: curves(comparison.of(env)) for env in comparison.pairs}
    try:
        draw_tasks(path, panels, max(len(setting.records) for setting in comparison.settings))
    except OSError as error:
        check_room(path, error)
        raise CompareError(f"plot = {path}: cannot be written: {error.strerror}") from error


def curves(settings: Sequence[Setting]) -> list[Line]:
    """Training returns of each setting: interquartile mean over its seeds, and its interval.

    Of a setting whose seeds did not all come equally far, over those that came farthest.
    """
    lines = []
    for setting in settings:
        count = max(len(record.rows) for record in setting.records)
        farthest = [record for record in setting.records if len(record.rows) == count]
        values = np.stack([record.column("episode/return") for record in farthest])
        band = interquartile_band(tables.held(values))
        lines.append(Line(setting.label, farthest[0].steps, *band))
    return lines
