"""Two settings or two agents against each other: the difference, its interval, and the sentence about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from poise.runs.journal import read_evaluation
from poise.runs.records import Record
from poise.studies.results import plain
from poise.studies.settings import Setting
from poise.studies.statistics import Estimate, difference, holm, improvement, p_value, runs_needed
from poise.wording import aligned, between, figure, share

ALPHA = 0.05
FINAL_ONLY = (  # or "no winner" reads like "no effect"
    "; this compares the final scores alone, and does not show that both learn equally fast: see the curves"
)


@dataclass(frozen=True)
class Pair:
    """A comparison of two settings, or of two agents of one seed each.

    Attributes:
        kind: "settings": over seeds; "agents": over the episodes of their final scores.
        one, other: their labels.
        value, low, high: the mean of ``other`` minus that of ``one``, and its 95% interval.
        no_interval: the reason if there is no interval.
        improvement: the probability that a seed of ``other`` scores higher than one of ``one``.
        p: the p-value, corrected for the number of pairs that are compared.
        needed: seeds of each setting with which a difference of this size would be detected in four of five
            experiments, if that is more than there are.
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
        """The better one; None if the difference can be chance."""
        if not self.p < ALPHA:
            return None
        return self.other if self.value > 0 else self.one

    def sentence(self) -> str:
        """The result in words."""
        over = "over seeds" if self.kind == "settings" else "as agents, over the episodes of their scores"
        if self.winner is not None:
            loser = self.one if self.winner == self.other else self.other
            near, far = sorted((abs(self.low), abs(self.high)))
            width = (
                f"95% interval {between(near, far)}"
                if self.no_interval is None
                else f"no interval: {self.no_interval}"
            )
            result = (
                f"{self.winner} is better than {loser} {over}, by {figure(abs(self.value))} "
                f"({width}, p = {self.p:.2g})"
            )
            return f"{result}, judged by the final scores alone" if self.kind == "settings" else result
        reason = self._why_no_winner()
        result = f"no winner between {self.one} and {self.other} {over}: {reason} (p = {self.p:.2g})"
        if self.needed is not None:
            result += f"; to detect a difference of this size takes about {self.needed:,} seeds of each"
        return result + (FINAL_ONLY if self.kind == "settings" else "")

    def _why_no_winner(self) -> str:
        if self.no_interval is not None:
            return f"their means differ by {figure(abs(self.value))}, and {self.no_interval}"
        bounds = f"the 95% interval of the difference, {between(self.low, self.high)},"
        if self.low <= 0 <= self.high:
            return f"{bounds} includes 0"
        return f"{bounds} excludes 0, but with several comparisons this can happen by chance"


def _bounds(pair: Pair) -> tuple[float | None, float | None]:
    """The interval; None for a bound that is infinite."""
    low, high = (bound if np.isfinite(bound) else None for bound in (pair.low, pair.high))
    return low, high


def pair_as_json(pair: Pair) -> dict[str, Any]:
    """The pair as ``summary.json`` and ``--json`` have it; an infinite bound is None."""
    bounds = dict(zip(("low", "high"), _bounds(pair), strict=True))
    return {
        **pair.__dict__,
        **bounds,
        "improvement": None if pair.improvement is None else plain(pair.improvement),
        "winner": pair.winner,
        "sentence": pair.sentence(),
    }


def pair_lines(pairs: Sequence[Pair]) -> list[str]:
    """A table of the pairs of one environment and their sentences, as lines of text."""
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
    lines = ["", *aligned(rows), "", *(f"  {pair.sentence()}" for pair in pairs)]
    if len(pairs) > 1:
        lines.append(f"  ({correction(pairs)})")
    if pairs[0].kind == "agents":
        lines.append("  (this compares single trainings, not their settings: --seeds 5 trains several)")
    return lines


def correction(pairs: Sequence[Pair]) -> str:
    """What is done about several comparisons."""
    return f"p is corrected for {len(pairs)} comparisons by Holm's method"


def compare_settings(settings: Sequence[Setting]) -> tuple[Pair, ...]:
    """Compares each setting of one environment with the first.

    If a setting has one seed, or if there is only one setting, the agents of all seeds are compared instead.
    """
    if len(settings) == 1 or any(len(setting.records) == 1 for setting in settings):
        records = [(s, r) for s in settings for r in s.records]
        several = len(settings) > 1
        sides = [
            (_agent_label(r, s if several else None), read_evaluation(r.folder, s.by)) for s, r in records
        ]
        kind = "agents"
    else:
        sides, kind = [(setting.label, setting.scores) for setting in settings], "settings"
    (base_label, base), *others = sides
    corrected = holm([p_value(scores, base) for _, scores in others])
    pairs = []
    for (label, scores), p in zip(others, corrected, strict=True):
        better = improvement([(scores, base)]) if kind == "settings" else None
        needed = runs_needed(scores, base) if kind == "settings" else None
        if needed is not None and needed <= max(len(scores), len(base)):  # it fails only Holm's correction
            needed = None
        pairs.append(Pair(kind, base_label, label, *difference(scores, base), better, p, needed))
    return tuple(pairs)


def _agent_label(record: Record, setting: Setting | None) -> str:
    seed = f"seed {record.config.seed}"
    return seed if setting is None else f"{setting.label}, {seed}"
