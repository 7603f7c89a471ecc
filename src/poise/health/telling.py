"""What a training came to, as lines for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poise.agents.evaluation import Evaluation
from poise.health.diagnosis import examine, verdict
from poise.health.findings import Finding
from poise.runs.records import read_record
from poise.wording import figure

WHY = {
    "steps": "its steps were used up (--eval-max-steps)",
    "seconds": "its seconds were used up (--eval-max-seconds): on a faster machine there are more",
    "interrupt": "it was interrupted",
}


def score_lines(evaluation: Evaluation) -> list[str]:
    """The mean with its interval, and what it is not of."""
    low, high = evaluation.interval
    lines = [
        f"greedy return {figure(evaluation.mean)} over {len(evaluation.length)} episodes "
        f"(95% interval {figure(low)} to {figure(high)})"
    ]
    if evaluation.num_cut:
        cut = f"{evaluation.num_cut} of them did not end and were cut off after {evaluation.longest:,} steps"
        lines.append(cut)
    if evaluation.stopped is not None:
        lines.append(f"the score is of fewer episodes than asked for: {WHY[evaluation.stopped]}")
    return lines


def best_line(summary: Mapping[str, Any]) -> str | None:
    """The best agent where it is not the last, with how it was chosen; None where it is."""
    best = summary.get("best")
    if not best or best["steps"] == summary.get("steps"):
        return None
    score, last = best["evaluation"], summary.get("evaluation") or {}
    same = "the same" if score["episodes"] == last.get("episodes") else f"the first {score['episodes']}"
    chosen = f", chosen on {best['chosen_on']} other episodes," if "chosen_on" in best else ""
    return (
        f"the best agent{chosen} is that of step {best['steps']:,}: "
        f"{figure(score['mean'])} on {same} episodes of the score"
    )


def threshold_line(env: str, score: Mapping[str, Any] | None) -> str | None:
    """Whether the mean reaches what Gymnasium calls solved; None where it names no return for that."""
    if not score:
        return None
    from poise.envs.gymnasium import threshold

    solved = threshold(env)
    if solved is None:
        return None
    reached = "reached" if score["mean"] >= solved else "not reached"
    return f"Gymnasium calls a mean return of {solved:g} solved: {reached}"


def run_lines(
    folder: Path, summary: Mapping[str, Any], evaluation: Evaluation | None
) -> tuple[list[str], list[Finding]]:
    """All but the folder's name, and what was found in its health."""
    lines = [] if evaluation is None else score_lines(evaluation)
    others = threshold_line(summary["env"], summary["evaluation"]), best_line(summary)
    lines += [line for line in others if line is not None]
    pace = summary["steps_per_second"]
    lines.append(
        f"{summary['steps']:,} steps in {summary['seconds']['total']:.1f} s"
        + (f", {pace:,.0f} steps/s while training" if pace else "")
    )
    record = read_record(folder)
    findings = examine(record)
    return [*lines, verdict(record, findings)], findings
