"""The result of a training, as lines for people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poise.agents.evaluation import Evaluation
from poise.health.diagnosis import examine, verdict
from poise.health.findings import Finding
from poise.runs.records import read_record
from poise.wording import counted, figure

STOPPED = {  # why the score has fewer episodes
    "steps": "its budget of steps was used up (--eval-max-steps)",
    "seconds": "its time was used up (--eval-max-seconds); a faster machine plays more",
    "interrupt": "it was interrupted",
}


def score_lines(evaluation: Evaluation) -> list[str]:
    """The mean with its interval, and why the score is incomplete, if it is."""
    low, high = evaluation.interval
    how = "sampled" if evaluation.sampled else "greedy"
    lines = [
        f"{how} return {figure(evaluation.mean)} over {counted(len(evaluation.length), 'episode')} "
        f"(95% interval {figure(low)} to {figure(high)})"
    ]
    if (rate := evaluation.success_rate) is not None:
        lines.append(f"success rate {rate:.2f} ({_successes(evaluation)})")
    if evaluation.num_cut:
        cut = f"{evaluation.num_cut} of them did not end, and were cut off after {evaluation.longest:,} steps"
        lines.append(cut)
    if evaluation.stopped is not None:
        lines.append(f"the score has fewer episodes than requested: {STOPPED[evaluation.stopped]}")
    return lines


def _successes(evaluation: Evaluation) -> str:
    """How many of the episodes, and the interval of their share."""
    values, interval = evaluation.successes, evaluation.success_interval
    total = counted(len(values), "episode")
    if len(values) < len(evaluation.length):
        total += " that report it"
    if interval is None:
        return f"mean over {total}"
    low, high = interval
    return f"{values.sum():.0f} of {total}; 95% interval {low:.2f} to {high:.2f}"


def best_line(summary: Mapping[str, Any]) -> str | None:
    """The best agent and how it was chosen; None if it is the last one."""
    best = summary.get("best")
    if not best or best["steps"] == summary.get("steps"):
        return None
    score, last = best["evaluation"], summary.get("evaluation") or {}
    which = "the same" if score["episodes"] == last.get("episodes") else f"the first {score['episodes']}"
    chosen = f", chosen on {best['chosen_on']} other episodes" if "chosen_on" in best else ""
    return (
        f"best agent: that of step {best['steps']:,}, {figure(score['mean'])} on {which} episodes{chosen} "
        '(--which best; poise.load(run, "best"))'
    )


def threshold_line(env: str, score: Mapping[str, Any] | None) -> str | None:
    """Whether the mean reaches the return that Gymnasium calls solved; None if Gymnasium names none."""
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
    """All lines but the folder's name, and the findings about its health."""
    lines = [] if evaluation is None else score_lines(evaluation)
    optional = threshold_line(summary["env"], summary["evaluation"]), best_line(summary)
    lines += [line for line in optional if line is not None]
    pace = summary["steps_per_second"]
    lines.append(
        f"{summary['steps']:,} steps in {summary['seconds']['total']:.1f} s"
        + (f", {pace:,.0f} steps/s while training" if pace else "")
    )
    record = read_record(folder)
    findings = examine(record)
    return [*lines, verdict(record, findings)], findings
