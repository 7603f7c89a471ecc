"""The run folder that a user names (``--run-dir``): what may be in it when a training begins there."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from poise import envs
from poise.checked import flat
from poise.config import Config
from poise.runs.folders import RunError
from poise.runs.journal import LOGS, METRICS
from poise.runs.options import Options
from poise.runs.resuming import first_difference
from poise.runs.starting.repeating import typed_resume
from poise.store.checkpoint import CheckpointError, Manifest, checkpoints, read_manifest
from poise.store.claim import LOCK
from poise.store.files import check_room, is_leftover

WRITTEN = {LOCK, "config.json", "summary.json", "checkpoints", *LOGS}  # before the first checkpoint
CHANGED = ("total_steps", "workers", "device", "devices", "stop_at", "max_seconds")  # by poise resume


def make_run_dir(folder: Path) -> None:
    """Makes the folder, unless it holds a training or one that was killed before its first checkpoint.

    Raises:
        RunError: it cannot be made, or something else is in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        check_room(folder.parent, error)
        why = "it is not a folder" if folder.exists() else error.strerror
        raise RunError(f"run_dir = {str(folder)!r}: cannot be made: {why}") from error
    if not holds_training(folder) and (foreign := _foreign(folder)) is not None:
        raise RunError(
            f"{folder}: is neither empty nor the folder of a training ({foreign} is in it); "
            "choose another --run-dir"
        )


def holds_training(folder: Path) -> bool:
    """Whether there is a checkpoint, which may be damaged."""
    return bool(checkpoints(folder))


def _foreign(folder: Path) -> str | None:
    """A file that no training has left there which was killed before its first checkpoint."""
    names = sorted(name for name in os.listdir(folder) if not is_leftover(name))
    if LOCK not in names:  # a training makes it first
        return names[0] if names else None
    metrics = folder / METRICS
    if metrics.exists() and metrics.stat().st_size:  # its checkpoints were removed
        return METRICS
    saved = folder / "checkpoints"
    if saved.is_symlink() or (saved.exists() and any(not p.name.startswith("tmp-") for p in saved.iterdir())):
        return saved.name
    return next((name for name in names if name not in WRITTEN), None)


def refuse_another(folder: Path, task: envs.Resolved, config: Config, options: Options) -> None:
    """Refuses a training that is not the one of the folder.

    Raises:
        RunError: names the first setting that differs.
        CheckpointError: no checkpoint can be read.
    """
    problem = CheckpointError(f"{folder}: it has no checkpoints")
    for checkpoint in checkpoints(folder):
        try:
            manifest = read_manifest(checkpoint)
            differs = first_difference(manifest, task, config, options)
            break
        except CheckpointError as error:
            problem = error
    else:
        raise problem
    if differs is None:
        return
    name, theirs, ours = differs
    raise RunError(
        f"{folder}: holds another training, with {name} = {theirs!r:.60} instead of {ours!r:.60}; "
        f"{_advice(folder, manifest, config, name, ours)}"
    )


def _advice(folder: Path, manifest: Manifest, config: Config, name: str, ours: Any) -> str:
    """What the user can do about a setting ``name`` that is ``ours`` and not that of the folder.

    ``config``: as the user gave it. What is None there follows from the budget, that of the folder from its
    first budget.
    """
    resumed = bool(manifest.notes.get("resumed"))
    passed = name == "total_steps" and _is_passed(manifest, ours)
    if passed or (resumed and flat(config.to_dict()).get(name, ours) is None):
        budget = "--total-steps", str(manifest.config.total_steps)
        why = "it was continued by poise resume: " if resumed else ""
        return (
            f"{why}it has {manifest.steps:,} steps already; to go on with it: "
            f"{typed_resume(folder, manifest.env, manifest.config, *budget)}; or choose another --run-dir"
        )
    if name not in CHANGED or ours is None:
        return "repeat its settings, or choose another --run-dir"
    change = (f"--{name.replace('_', '-')}", str(ours))
    return f"to change it: {typed_resume(folder, manifest.env, manifest.config, *change)}"


def _is_passed(manifest: Manifest, total_steps: int) -> bool:
    """Whether a training has more steps than it would have with this budget."""
    config = dataclasses.replace(manifest.config, total_steps=total_steps)
    return config.num_iterations * config.rollout_size < manifest.steps
