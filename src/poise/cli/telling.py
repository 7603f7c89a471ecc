"""What the verbs print: results as lines or as JSON, on standard output."""

import json
import sys
from typing import TYPE_CHECKING, Any

from poise.system.streams import TextOut
from poise.system.terminal import print

if TYPE_CHECKING:
    from poise.runs.session import Run
    from poise.studies.experiment import Experiment
    from poise.studies.sweep.sweep import Sweep


def as_json(result: Any) -> str:
    """ASCII alone. JSON lets the character 127 stand as it is, a terminal should not see it."""
    return json.dumps(result, indent=2).replace("\x7f", "\\u007f")


def to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tell_run(result: "Run", json_: bool, file: TextOut) -> None:
    """What a training came to; its folder last."""
    from poise.health.telling import run_lines

    lines, findings = run_lines(result.folder, result.summary, result.evaluation)
    print(*lines, sep="\n", file=file)
    health = [finding.to_dict() for finding in findings]
    told = {**result.summary, "health": health, "folder": str(result.folder)}
    print(as_json(told) if json_ else result.folder)


def tell_experiment(experiment: "Experiment", json_: bool, file: TextOut) -> None:
    """What several trainings came to; their folder last."""
    from poise.studies.experiment import report

    summary = experiment.summary
    print(*report(summary), sep="\n", file=file)
    count = len(summary["seeds"]) * len(summary["tasks"])
    print(f"{count} x {summary['steps']:,} steps in {summary['seconds']['total']:.1f} s", file=file)
    print(as_json({**summary, "folder": str(experiment.folder)}) if json_ else experiment.folder)


def tell_sweep(sweep: "Sweep", json_: bool, file: TextOut) -> None:
    """What a sweep came to; its folder last."""
    from poise.studies.sweep.sweep import report_lines

    print(*report_lines(sweep.summary), sep="\n", file=file)
    print(as_json({**sweep.summary, "folder": str(sweep.folder)}) if json_ else sweep.folder)
