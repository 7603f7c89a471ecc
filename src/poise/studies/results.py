"""The results of several trainings: a record, the statistics in its summary, and its lines for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise.studies.statistics import Estimate, interquartile_estimate, mean_estimate
from poise.wording import aligned, figure, interval, share


@dataclass(frozen=True)
class Experiment:
    """A finished experiment: its folder, and the content of its ``summary.json``."""

    folder: Path
    summary: dict[str, Any]


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
