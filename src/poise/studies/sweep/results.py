"""The result of a sweep: a record, and its lines for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poise.runs.journal import RETURN
from poise.studies.results import Scores
from poise.studies.sweep.page import format_value
from poise.system.notebook import preformatted
from poise.wording import aligned, counted, figure, interval

LISTED = 5  # of the best trials, in the summary on the terminal
DEFAULT = "the default"


@dataclass(frozen=True)
class SweepTrial:
    """One setting of a sweep.

    Attributes:
        number: 0 is the defaults.
        state: ``finished``, ``stopped`` (it fell behind), ``failed``, or ``running`` in another process.
        options: what was searched, by dotted name, with the values of this trial.
        score: the interquartile mean over its seeds; None if it was stopped or failed.
        each: the score of each seed.
    """

    number: int
    state: str
    options: Mapping[str, Any]
    score: float | None
    each: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class Sweep:
    """A finished sweep.

        text = str(sweep)   # the tables that the command prints
        sweep.is_better     # whether the best trial is better than the defaults, on fresh seeds
        sweep.best          # its options

    Attributes:
        folder: with the trials, ``trials.csv`` and ``report.html``.
        summary: the content of ``summary.json``.
    """

    folder: Path
    summary: dict[str, Any]

    @property
    def best(self) -> dict[str, Any]:
        """The options of the best trial, by dotted name."""
        return dict(self.summary["winner"]["options"])

    @property
    def is_better(self) -> bool:
        """Whether the best trial is better than the defaults on the fresh seeds."""
        return bool(self.summary["beats"])

    @property
    def verdict(self) -> str:
        """The comparison with the defaults in a sentence."""
        return self.summary["sentence"]

    @property
    def scores(self) -> dict[str, Scores]:
        """The scores on the fresh seeds of ``winner``, the best trial, and of ``default``."""
        failed = set(self.summary["failed"])
        return {
            side: Scores.of([seed for seed in self.summary["fresh"] if f"{side}/{seed}" not in failed], score)
            for side, score in self.summary["scores"].items()
        }

    @property
    def trials(self) -> tuple[SweepTrial, ...]:
        """All trials, by number."""
        return tuple(
            SweepTrial(row["trial"], row["state"], row["options"], row["score"], tuple(row["scores"]))
            for row in self.summary["trials"]
        )

    def lines(self) -> list[str]:
        """The tables and the verdict that the command prints."""
        return report_lines(self.summary)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        trials = counted(len(self.summary["trials"]), "trial")
        result = (
            f"trial {self.summary['winner']['trial']} is better" if self.is_better else "keep the defaults"
        )
        return f"Sweep({self.folder}: {self.summary['env']}, {trials}, {result})"

    def _repr_html_(self) -> str:
        return preformatted([*self.lines(), f"folder: {self.folder}"])


def _objective(summary: Mapping[str, Any]) -> str | None:
    """What is maximized, if it is not the return."""
    objective = summary.get("objective", RETURN)
    return None if objective == RETURN else objective


def report_lines(summary: Mapping[str, Any]) -> list[str]:
    """``summary.json`` as lines for a terminal: the best trials, both sides, and the verdict."""
    scored = sorted((t for t in summary["trials"] if t["score"] is not None), key=lambda t: -t["score"])
    names = [name.rpartition(".")[2] for name in scored[0]["options"]]
    rows = [("trial", _objective(summary) or "score", "95% interval", *names)]
    for trial in scored[:LISTED]:
        values = [format_value(value) for value in trial["options"].values()]
        rows.append((str(trial["trial"]), figure(trial["score"]), interval(trial), *values))
    winner = summary["winner"]
    sides = [("on fresh seeds", "seeds", "mean", "95% interval", "interquartile mean")]
    for side, scores in summary["scores"].items():
        name = DEFAULT if side == "default" or winner["default"] else f"trial {winner['trial']}"
        iqm = figure(scores["iqm"]["value"])
        sides.append((name, str(scores["seeds"]), figure(scores["mean"]), interval(scores), iqm))
    states = [trial["state"] for trial in summary["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = f"{counted(len(states), 'trial')} ({counts}) in {summary['seconds']['total']:.1f} s"
    again = [f"to train trial {winner['trial']}: {summary['command']}"] if summary["command"] else []
    return [*aligned(rows), "", *aligned(sides), "", summary["sentence"], *again, total]
