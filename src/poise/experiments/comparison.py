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

from poise.config import flat
from poise.errors import PoiseError
from poise.experiments import tables
from poise.experiments.experiment import evaluation
from poise.experiments.figures import Line, draw_tasks
from poise.experiments.statistics import (
    Estimate,
    difference,
    holm,
    improvement,
    interquartile_band,
    p_value,
    runs_needed,
)
from poise.experiments.wording import aligned, between, figure
from poise.records import Record, read_record
from poise.run import EXPERIMENT

ALPHA = 0.05
ABSENT = "not changed"
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
    def scores(self) -> Float[np.ndarray, " seeds"]:
        """The final greedy score of each."""
        return np.array([record.summary["evaluation"]["mean"] for record in self.records], float)


@dataclass(frozen=True)
class Pair:
    """Two settings, or two agents of one seed each, and what can be said of them.

    ``kind``: "settings": over seeds; "agents": over the episodes of their final scores. ``p`` is corrected
    for the number of pairs that are compared.
    """

    kind: str
    one: str
    other: str
    value: float
    low: float
    high: float
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
            return f"{self.winner} is better than {loser} {over} (p = {self.p:.2g})"
        said = f"no winner between {self.one} and {self.other} {over}: it may be chance (p = {self.p:.2g})"
        if self.kind == "settings" and self.needed:
            said += f"; a difference of this size would show with about {self.needed} seeds of each"
        return said


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
            tasks[env] = {"settings": rows, "pairs": [_pair_as_json(pair) for pair in pairs]}
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


def _pair_as_json(pair: Pair) -> dict[str, Any]:
    bounds = dict(zip(("low", "high"), _bounds(pair), strict=True))
    share = None if pair.improvement is None else pair.improvement._asdict()
    return {
        **pair.__dict__,
        **bounds,
        "improvement": share,
        "winner": pair.winner,
        "sentence": pair.sentence(),
    }


def _settings_in_words(settings: Sequence[Setting]) -> list[str]:
    rows = [("  setting", "seeds", "mean", "95% interval", "interquartile mean")]
    for setting in settings:
        score = evaluation(setting.scores)
        rows.append(
            (
                f"  {setting.label}",
                str(len(setting.records)),
                figure(score["mean"]),
                between(score["low"], score["high"]),
                figure(score["iqm"]["value"]),
            )
        )
    named = [s for s in settings if s.label != _in_words(s.differs)]
    return [*aligned(rows), *(f"  {s.label}: {_in_words(s.differs)}" for s in named)]


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
            between(*_bounds(pair)),
        )
        if share := pair.improvement:
            row = (*row, f"{share.value:.2f}", f"{share.low:.2f} to {share.high:.2f}")
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
            found += sorted(path.parent for path in place.glob("**/checkpoints") if path.is_dir())
        elif (place / "checkpoints").is_dir():
            found.append(place)
        else:
            raise CompareError(f"{place}: is no folder of a run, nor of an experiment")
    if len({path.resolve() for path in found}) < len(found):
        raise CompareError("a run is named twice")
    return found


def compare_runs(places: Sequence[Path]) -> Comparison:
    """Groups runs by environment and configuration; compares each group with the first of its task.

    Where a group has one seed alone, or where there is one group alone, the agents are compared in its place.

    Raises:
        CompareError: there are fewer than two finished runs, or no two of one environment.
        RecordError, CheckpointError, JournalError: a folder holds no run, or is damaged.
    """
    records = [read_record(path) for path in find_runs(places)]
    scored = [record for record in records if record.summary.get("evaluation")]
    left_out = {
        str(record.folder): _why_left_out(record)
        for record in records
        if not record.summary.get("evaluation")
    }
    if len(scored) < 2:
        raise CompareError(f"there are {len(scored)} finished and scored runs, two are the least")
    settings = grouped(scored)
    envs = dict.fromkeys(setting.env for setting in settings)
    pairs = {env: _pairs([s for s in settings if s.env == env]) for env in envs}
    if not any(pairs.values()):
        raise CompareError(f"each run has another environment: {', '.join(envs)}")
    return Comparison(tuple(settings), pairs, left_out)


def _why_left_out(record: Record) -> str:
    state = record.summary.get("status", "not finished")
    return "was not scored" if state == "finished" else f"is {state} (poise resume {record.folder})"


def grouped(records: Sequence[Record]) -> list[Setting]:
    """By environment and configuration, in the order given."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.env, json.dumps(_options(record), sort_keys=True)), []).append(record)
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


def _differs(record: Record, others: Sequence[Record]) -> dict[str, Any]:
    """What sets it apart: of what is not the default, or, where that is nothing, of everything."""
    varied = {r.folder: {"total_steps": r.config.total_steps, **r.config.changes(r.spec)} for r in others}
    for told in (varied, {r.folder: _options(r) for r in others}):
        names = dict.fromkeys(itertools.chain.from_iterable(told.values()))
        apart = [name for name in names if len({json.dumps(t.get(name, ABSENT)) for t in told.values()}) > 1]
        if apart or len(others) == 1:
            mine = told[record.folder]
            if record.config.changes(record.spec):  # or it is the defaults, and named so
                mine = _options(record)
            return {name: mine[name] for name in apart if name in mine}
    return {}


def _pairs(settings: Sequence[Setting]) -> tuple[Pair, ...]:
    """Each against the first."""
    if len(settings) == 1 or any(len(setting.records) == 1 for setting in settings):
        records = [(s, r) for s in settings for r in s.records]
        alone = len(settings) == 1
        sides = [(_agent(r, None if alone else s), tables.greedy_returns(r.folder)) for s, r in records]
        kind = "agents"
    else:
        sides, kind = [(setting.label, setting.scores) for setting in settings], "settings"
    (one, base), *others = sides
    corrected = holm([p_value(scores, base) for _, scores in others])
    pairs = []
    for (other, scores), p in zip(others, corrected, strict=True):
        share = improvement([(scores, base)]) if kind == "settings" else None
        needed = runs_needed(scores, base)
        bounds = difference(scores, base)
        pairs.append(Pair(kind, one, other, *bounds, share, p, needed))
    return tuple(pairs)


def _agent(record: Record, setting: Setting | None) -> str:
    seed = f"seed {record.config.seed}"
    return seed if setting is None else f"{setting.label}, {seed}"


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """A PNG: a panel for each environment, a curve with its band for each setting."""
    panels: Mapping[str, list[Line]] = {env: curves(comparison.of(env)) for env in comparison.pairs}
    draw_tasks(path, panels, max(len(setting.records) for setting in comparison.settings))


def curves(settings: Sequence[Setting]) -> list[Line]:
    """Training returns of each setting: interquartile mean over its seeds, and its interval."""
    lines = []
    for setting in settings:
        count = min(len(record.rows) for record in setting.records)
        values = np.stack([record.column("episode/return")[:count] for record in setting.records])
        band = interquartile_band(tables.held(values))
        lines.append(Line(setting.label, setting.records[0].steps[:count], *band))
    return lines
