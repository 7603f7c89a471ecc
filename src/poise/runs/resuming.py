"""The checkpoint from which a run resumes, and whether it is of the same training."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from poise import envs
from poise.agents.best import PLACES, Candidate
from poise.checked import ConfigError, flat
from poise.config import Config
from poise.envs.forms.text import combine
from poise.own.network import programs
from poise.runs.folders import status
from poise.runs.journal import JournalError, cut, read_episodes
from poise.runs.options import ABOUT, Options
from poise.runs.records import read_summary
from poise.runs.setup import PARTS, Past, Stopped
from poise.store.checkpoint import (
    CheckpointError,
    Manifest,
    Training,
    checkpoints,
    clear_leftovers,
    load_training,
    read_manifest,
    runs_under,
    step_folder,
)
from poise.store.files import FileError, read_json
from poise.system.machine import made_with
from poise.system.streams import TextOut
from poise.system.terminal import print


@dataclass(frozen=True)
class Usable:
    """A checkpoint from which a training can resume, and what it contains."""

    training: Training
    manifest: Manifest
    past: Past
    options: Options


def newest_usable(run: Path, file: TextOut) -> Usable:
    """The newest checkpoint that is complete and not longer than the tables. A line names each other one.

    Raises:
        CheckpointError: there is none.
    """
    problem = CheckpointError(f"{run}: it has no checkpoints")
    for folder in checkpoints(run):
        try:
            return _usable(run, folder)
        except (CheckpointError, JournalError) as error:
            problem = error
            print(f"{folder.name} cannot be used: {error}", file=file, flush=True)
    raise CheckpointError(f"{run}: no checkpoint can be used: {problem}")


def _usable(run: Path, folder: Path) -> Usable:
    """One checkpoint, checked.

    Raises:
        CheckpointError, JournalError: it cannot be used.
    """
    training, manifest = load_training(folder)
    if folder != step_folder(run, manifest.steps):
        raise CheckpointError(f"{folder}: contains the checkpoint of step {manifest.steps:,}")
    past, options = _past(training, manifest, folder)
    cut(run, past.position, check=True)
    return Usable(training, manifest, past, options)


def saved_env(run: Path) -> str:
    """The text of the environment of a run, from its newest checkpoint that can be read.

    Raises:
        CheckpointError: there is none.
    """
    for folder in checkpoints(run):
        with contextlib.suppress(CheckpointError):
            return read_manifest(folder).env
    raise CheckpointError(f"{run}: it has no checkpoints")


def unusable(place: Path) -> Iterator[str]:
    """A line for each checkpoint under a folder that cannot be used and is newer than the one that can."""
    for run in runs_under(place):
        if status(run) == "finished":
            continue
        for folder in checkpoints(run):
            try:
                _usable(run, folder)
                break
            except (CheckpointError, JournalError) as error:
                yield f"{run}: {folder.name} cannot be used: {error}"


def take_up(run: Path, past: Past) -> Past:
    """Restores the folder to what it was when the checkpoint was made. Returns ``past`` with its episodes."""
    clear_leftovers(run)
    for newer in checkpoints(run):
        if int(newer.name) > past.steps:  # it cannot be used, but is not deleted
            names = (f"unusable-{newer.name}{suffix}" for suffix in ["", *(f"-{i}" for i in range(2, 1000))])
            newer.rename(next(path for n in names if not os.path.lexists(path := newer.with_name(n))))
    cut(run, past.position)
    (run / "summary.json").unlink(missing_ok=True)
    return dataclasses.replace(past, episodes=read_episodes(run, most=None))


def _past(training: Training, manifest: Manifest, folder: Path) -> tuple[Past, Options]:
    """Past and options in the notes of a checkpoint.

    Raises:
        CheckpointError: the notes are damaged.
    """
    notes = manifest.notes
    try:
        measured = {"film": 0.0, **notes["seconds"]}  # earlier versions counted the film as "log"
        seconds = {part: float(measured[part]) for part in (*PARTS, "total")}
        (pace_steps, pace_seconds), scores = notes["pace"], notes["candidates"]
        physics = None if notes["physics"] is None else float(notes["physics"])
        if len(scores) != len(training.candidates) or len(scores) > PLACES:
            raise ValueError(f"{len(scores)} candidates")
        candidates = tuple(
            Candidate(int(steps), float(mean), agent)
            for (steps, mean), agent in zip(scores, training.candidates, strict=True)
        )
        options = Options.from_dict(notes["options"])
        past = Past(
            steps=manifest.steps,
            seconds=seconds,
            physics=physics,
            pace=(int(pace_steps), float(pace_seconds)),
            exact=bool(notes["exact"]),
            resumed=int(notes["resumed"]) + 1,
            crashes=int(notes["crashes"]),
            candidates=candidates,
            position=dict(notes["logs"]),
            made_with=tuple(_machine(machine) for machine in notes.get("made_with", ())),
            stopped=_stopped(notes.get("stopped")),
        )
        return past, options
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'manifest.json'}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{folder / 'manifest.json'}: is damaged: {error!r:.200}") from error


def _stopped(data: Any) -> Stopped | None:
    """What has stopped a training, from the notes of a checkpoint.

    Raises:
        ValueError, TypeError: the note is damaged.
    """
    if data is None:
        return None
    by, reason = data
    if by not in get_args(Stopped.__annotations__["by"]) or not isinstance(reason, str | None):
        raise ValueError(f"stopped {data!r:.60}")
    return Stopped(by, reason)


def _machine(data: Mapping[str, Any]) -> dict[str, Any]:
    """The result of ``machine.made_with`` in the notes of a checkpoint."""
    versions = {str(name): str(version) for name, version in data["versions"].items()}
    return {
        "fingerprint": str(data["fingerprint"]),
        "processor": str(data["processor"]),
        "device": str(data.get("device", "cpu")),  # earlier versions did not name it
        "versions": versions,
    }


def same_machine(past: Past, file: TextOut) -> bool:
    """Whether versions and processor are those of the checkpoint. If not, a line says what differs."""
    machine = made_with()
    if not past.made_with or past.made_with[-1]["fingerprint"] == machine["fingerprint"]:
        return True
    before, now = (
        {"processor": m["processor"], "device": m["device"], **m["versions"]}
        for m in (past.made_with[-1], machine)
    )
    changed = [f"{n} {now[n]} (was {before.get(n)})" for n in now if before.get(n) != now[n]]
    what = ", ".join(changed) or "another system, or number of threads"
    print(
        f"not exact: the checkpoint was made with other versions or on another processor: {what}; from here "
        "on the bits may differ",
        file=file,
        flush=True,
    )
    return False


def same_networks(usable: Usable, file: TextOut) -> bool:
    """Whether the networks of the user compute what they did. If not, a line names the first other one."""
    before = usable.manifest.notes.get("networks")
    if usable.training.state is None or not isinstance(before, Mapping):
        return True
    for option, program in programs(usable.training.state.learner).items():
        if before.get(option) != program:
            what = "computes something else than when the checkpoint was made; from here on the bits differ"
            print(f"not exact: the class of {option} {what}", file=file, flush=True)
            return False
    return True


def difference(manifest: Manifest, task: envs.Resolved, config: Config, options: Options) -> str | None:
    """The ``first_difference`` as text, with the value of the checkpoint; None if they are the same."""
    differs = first_difference(manifest, task, config, options)
    return differs and f"{differs[0]} = {differs[1]!r:.60}"


def first_difference(
    manifest: Manifest, task: envs.Resolved, config: Config, options: Options
) -> tuple[str, Any, Any] | None:
    """The first difference between the training of a checkpoint and this one; None if they are the same.

    Returns the name of the setting, its value there and here.

    Raises:
        CheckpointError: the options in it cannot be read.
    """
    theirs: dict[str, Any] = {"env": manifest.env, "backend": manifest.backend}
    ours: dict[str, Any] = {"env": task.id, "backend": task.backend}
    try:
        theirs |= Options.from_dict(manifest.notes["options"]).to_dict()
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"the options of step {manifest.steps:,}: {error!r:.200}") from error
    theirs, ours = theirs | flat(manifest.config.to_dict()), ours | options.settled().to_dict()
    with contextlib.suppress(ConfigError):  # the numbers cannot be derived for another environment
        ours |= flat(config.settled(manifest.spec).to_dict())
    unsaid = {"start_sum"} if config.start_sum is None else set()  # it follows from the start
    compared = [name for name in theirs | ours if name not in {*ABOUT, *unsaid}]
    differing = (name for name in compared if theirs.get(name) != ours.get(name))
    return next(((name, theirs.get(name), ours.get(name)) for name in differing), None)


def finished(folder: Path, task: envs.Resolved, config: Config, options: Options) -> dict[str, Any] | None:
    """The summary of this training if it has finished in ``folder``; otherwise None.

    It is compared with the newest checkpoint there or, if none can be read, with ``config.json``.
    """
    if status(folder) != "finished":
        return None
    summary = read_summary(folder)
    for checkpoint in checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            return None if difference(read_manifest(checkpoint), task, config, options) else summary
    try:
        data = dict(read_json(folder / "config.json"))
        env = combine(data.pop("env"), data.pop("env_kwargs", {}), data.pop("wrappers", ()))
        theirs = {"env": env, "backend": data.pop("backend"), **flat(data)}
    except (FileError, envs.EnvError, KeyError, TypeError, ValueError, AttributeError):
        return None
    ours = {"env": task.id, "backend": task.backend, **flat(json.loads(json.dumps(config.to_dict())))}
    same = all(theirs.get(name) == value for name, value in ours.items() if value is not None)
    return summary if same else None
