"""What the verbs print: results as lines or as JSON on standard output."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from poise.system.streams import TextOut
from poise.system.terminal import print

if TYPE_CHECKING:
    from poise.runs.peers.following import Followed
    from poise.runs.session import Run
    from poise.studies.results import Experiment
    from poise.studies.sweep.results import Sweep


def as_json(result: Any) -> str:
    """JSON in ASCII. The control character 127, which JSON allows, is escaped as well."""
    return json.dumps(result, indent=2).replace("\x7f", "\\u007f")


def text_output(json_: bool) -> TextOut:
    """Where lines for people go: standard error, if the result is printed as JSON."""
    return sys.stderr if json_ else sys.stdout


def to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def tell_run(run: "Run | Followed", json_: bool) -> None:
    """Prints the result of a training; its folder last. A process that has followed another has none."""
    from poise.runs.peers.following import Followed

    if isinstance(run, Followed):
        line = f"process {run.process}: {run.steps:,} steps; the run folder is on the machine of process 0"
        print(as_json(dataclasses.asdict(run)) if json_ else line)
        return
    from poise.health.telling import run_lines

    lines, findings = run_lines(run.folder, run.summary, run.evaluation)
    print(*lines, sep="\n", file=text_output(json_))
    health = [finding.to_dict() for finding in findings]
    print(as_json({**run.summary, "health": health, "folder": str(run.folder)}) if json_ else run.folder)


def tell_experiment(experiment: "Experiment", json_: bool) -> None:
    """Prints the result of several trainings; their folder last."""
    print(experiment, file=text_output(json_))
    print(as_json({**experiment.summary, "folder": str(experiment.folder)}) if json_ else experiment.folder)


def tell_sweep(sweep: "Sweep", json_: bool) -> None:
    """Prints the result of a sweep; its folder last."""
    print(sweep, file=text_output(json_))
    print(as_json({**sweep.summary, "folder": str(sweep.folder)}) if json_ else sweep.folder)
