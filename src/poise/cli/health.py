"""The verbs that look for problems: doctor, diff, check."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from poise.checked import ConfigError
from poise.cli.arguments import Json, RunFolder, RunFolders, World, find_modules_here
from poise.cli.telling import as_json
from poise.system.streams import quiet_output
from poise.system.terminal import print

CrashEnv = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="The environment of a crash.json, repeated if it comes from a module (module:Task): a file "
        "alone never makes poise import a module.",
        help_behavior_hint="",
    ),
]


def doctor(
    runs: RunFolders,
    json_: Json = False,
) -> None:
    """Check whether a training was healthy; if not, explain the problem and what to try.

    Example: poise doctor runs/Reacher-v4/20261124-120000-0
    """
    from poise.health.diagnosis import examine, verdict
    from poise.runs.records import read_record
    from poise.studies.comparison import find_runs

    results = []
    for run in (folders := find_runs(runs)):
        record = read_record(run)
        findings = examine(record)
        results.append({"run": str(run), "findings": [finding.to_dict() for finding in findings]})
        if json_:
            continue
        if len(folders) > 1:
            print(run)
        for finding in findings:
            print(*finding.lines(), sep="\n", end="\n\n")
        if not findings:
            print(verdict(record, findings))
    if json_:
        print(as_json(results))


def diff(
    run: RunFolder,
    other: Annotated[Path, Positional, arg(metavar="RUN", help="The run to compare it with.")],
    json_: Json = False,
) -> None:
    """Find the first iteration in which two runs differ, and the difference (exit code 1).

    Example: poise diff runs/Reacher-v4/20261124-120000-0 runs/Reacher-v4/20261124-130000-0
    """
    from poise.health.difference import diff as compare

    difference = compare(run, other)
    print(as_json(difference.to_dict()) if json_ else "\n".join(difference.lines()))
    if not difference.same:
        sys.exit(1)


def check(
    env_or_crash: Annotated[
        str,
        Positional,
        arg(
            metavar="ENV|CRASH",
            help="An environment: its id, or module:Class for your own. Or a crash.json, or a run folder "
            "that has one.",
        ),
    ],
    env: CrashEnv = None,
    env_timeout: float = 60.0,
    world: Annotated[World, arg(name="")] = World(),  # noqa: B008 (frozen)
    json_: Json = False,
) -> None:
    """Play an environment and report problems that would break training; or repeat a failed episode.

    The exit code is 1 if there is such a problem, or if the episode fails again.

    Example: poise check my_robot:MyRobot

    Args:
        env_timeout: Seconds after which a step or reset counts as hanging.
        world: How the environment is made.
    """
    from poise.health.inspection import check as inspect
    from poise.health.inspection import is_crash

    if is_crash(env_or_crash):
        if world != World():
            raise ConfigError("--env.KEY and --wrapper are not for a crash.json, which has its environment")
        find_modules_here(env)
        target = env_or_crash
    else:
        target = world.of(env_or_crash)
    with quiet_output():
        found = inspect(target, env=env, env_timeout=env_timeout)
    print(as_json(found.to_dict()) if json_ else found)
    if not found.ok:
        sys.exit(1)
