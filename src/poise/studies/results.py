"""The results of several trainings: a record, the statistics in its summary, and its lines for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.runs.curve import read_curve
from poise.studies.statistics import Estimate, interquartile_estimate, mean_estimate
from poise.system.notebook import card
from poise.wording import aligned, between, counted, figure, interval, share


@dataclass(frozen=True)
class Scores:
    """The final scores of one task over its seeds. That of a seed is the mean of its greedy episodes.

    Attributes:
        seeds: the seed of each training.
        each: their scores, in that order.
        mean, iqm: the mean and the interquartile mean over the seeds, each as ``value``, with the bounds
            ``low`` and ``high`` of its 95% interval. Without an interval they are infinite, and
            ``no_interval`` says why.
    """

    seeds: tuple[int, ...]
    each: tuple[float, ...]
    mean: Estimate
    iqm: Estimate

    @classmethod
    def of(cls, seeds: Sequence[int], score: Mapping[str, Any]) -> "Scores":
        """The scores that ``evaluation`` describes."""
        mean = {name: score[name] for name in ("low", "high", "no_interval")}
        each = tuple(score["each"])
        return cls(tuple(seeds), each, _estimate({"value": score["mean"], **mean}), _estimate(score["iqm"]))

    def __str__(self) -> str:
        return _in_words(self.mean)


def _in_words(estimate: Estimate) -> str:
    """The value, and its interval if there is one."""
    bounds = f" ({between(estimate.low, estimate.high)})" if estimate.no_interval is None else ""
    return f"{figure(estimate.value)}{bounds}"


def _estimate(data: Mapping[str, Any]) -> Estimate:
    """What ``plain`` made JSON of."""
    low, high = data["low"], data["high"]
    return Estimate(
        data["value"],
        -math.inf if low is None else low,
        math.inf if high is None else high,
        data["no_interval"],
    )


@dataclass(frozen=True, repr=False)
class Experiment:
    """A finished experiment.

        text = str(experiment)                 # the table that the command prints
        experiment.scores["Reacher-v4"].mean   # its value, low and high

    Attributes:
        folder: with the run folders, ``results.csv`` and ``curve.png``.
        summary: the content of ``summary.json``.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores of each task, by its id; empty without ``evaluate``."""
        tasks = self.summary["tasks"].items()
        return {
            env: Scores.of(self.summary["seeds"], task["evaluation"])
            for env, task in tasks
            if task["evaluation"]
        }

    @property
    def differences(self) -> dict[str, Estimate]:
        """With ``against``: for each task of both, the mean minus that of the other experiment."""
        return self._pairs("difference")

    @property
    def improvements(self) -> dict[str, Estimate]:
        """With ``against``: for each task of both, the probability that a seed scores higher than there."""
        return self._pairs("improvement")

    def _pairs(self, name: str) -> dict[str, Estimate]:
        against = self.summary["against"]
        tasks = against["tasks"].items() if against else ()
        return {env: _estimate(pair[name]) for env, pair in tasks}

    def lines(self) -> list[str]:
        """The tables that the command prints, and how long it took."""
        count = len(self.summary["seeds"]) * len(self.summary["tasks"])
        steps, seconds = counted(self.summary["steps"], "step"), self.summary["seconds"]["total"]
        return [*report_lines(self.summary), f"{count} x {steps} in {seconds:.1f} s"]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        tasks = [f"{env} {self.scores.get(env, 'not scored')}" for env in self.summary["tasks"]]
        seeds = counted(len(self.summary["seeds"]), "seed")
        return f"Experiment({self.folder}: {', '.join(tasks)}, {seeds}, {self.summary['status']})"

    def _repr_html_(self) -> str:
        lines = [f"against {self.summary['against']['folder']}:"] if self.summary["against"] else []
        lines += [f"{env}: difference of means {_in_words(pair)}" for env, pair in self.differences.items()]
        rows = [("task", "mean", "95% interval", "interquartile mean", "95% interval")]
        rows += [
            (env, *(cell for estimate in (task.mean, task.iqm) for cell in _cells(estimate)))
            for env, task in self.scores.items()
        ]
        title = f"{', '.join(self.summary['tasks'])}: {counted(len(self.summary['seeds']), 'seed')}"
        table = rows if len(rows) > 1 else ()
        return card(title, [*lines, f"folder: {self.folder}"], table, read_curve(self.folder))


def _cells(estimate: Estimate) -> tuple[str, str]:
    low, high = (bound if math.isfinite(bound) else None for bound in (estimate.low, estimate.high))
    return figure(estimate.value), between(low, high, estimate.no_interval)


def evaluation(each: Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    """Mean and interquartile mean of the scores ``each``, with their intervals, as JSON."""
    mean = plain(mean_estimate(each))
    return {
        "mean": mean.pop("value"),
        **mean,
        "iqm": plain(interquartile_estimate(each)),
        "seeds": len(each),
        "each": each.tolist(),
    }


def plain(estimate: Estimate) -> dict[str, Any]:
    """An estimate as JSON: without an interval the bounds are None, and ``no_interval`` says why."""
    low, high = (bound if np.isfinite(bound) else None for bound in (estimate.low, estimate.high))
    return {**estimate._asdict(), "low": low, "high": high}


def report_lines(summary: Mapping[str, Any]) -> list[str]:
    """``summary.json`` as lines for a terminal."""
    table: list[tuple[str, ...]] = [
        ("task", "seeds", "mean", "95% interval", "interquartile mean", "95% interval")
    ]
    for env, task in summary["tasks"].items():
        if score := task["evaluation"]:
            mean, iqm = figure(score["mean"]), figure(score["iqm"]["value"])
            table.append((env, str(score["seeds"]), mean, interval(score), iqm, interval(score["iqm"])))
    lines = aligned(table) if len(table) > 1 else []
    if against := summary["against"]:
        rows = [("task", "difference of means", "95% interval", "probability of improvement", "95% interval")]
        for env, pair in against["tasks"].items():
            means = pair["difference"]
            rows.append((env, figure(means["value"]), interval(means), *share(pair["improvement"])))
        if len(against["tasks"]) > 1:
            rows.append(("all", "", "", *share(against["improvement"])))
        lines += ["", f"against {against['folder']}:", *aligned(rows)]
    return lines
