"""``crash.json``: the episode in which an environment failed. It can be played again."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise import envs
from poise.agents.evaluation import Evaluation
from poise.config import LAST_SEED
from poise.envs.checking import EnvFault
from poise.envs.forms.text import parse
from poise.envs.gymnasium import GymnasiumEnv
from poise.envs.naming import reaches_outside
from poise.envs.vector import Crash
from poise.errors import PoiseError
from poise.runs.writers.writer import Writer
from poise.store.files import MOST_VALUES, FileError, read_json, write_text
from poise.system.terminal import typed
from poise.training.iteration import Progress
from poise.wording import counted

CRASH = "crash.json"
LARGEST = 2**26  # bytes
LONGEST_TEXT = 10_000  # characters of an error


class ReplayError(PoiseError):
    """A crash file is damaged, or its episode cannot be played."""


@dataclass(frozen=True)
class Replayed:
    """A failed episode that was played again. ``fault``: the failure this time; None: it did not fail."""

    crash: Crash
    fault: str | None

    @property
    def ok(self) -> bool:
        """Whether the episode did not fail this time."""
        return self.fault is None

    def lines(self) -> list[str]:
        """As text for people."""
        if self.fault is not None:
            return [f"it fails again: {self.fault}"]
        steps = counted(self.crash.step, "step")
        return [
            f"it does not fail: {steps} of {self.crash.env}",
            f"the recorded failure: {self.crash.what}",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        crash = self.crash
        return {
            "env": crash.env,
            "seed": crash.seed,
            "step": crash.step,
            "what": crash.what,
            "fails_again": self.fault is not None,
            "fault": self.fault,
        }


class CrashFile(Writer):
    """Writes the last episode that failed in an iteration; its environment was made again."""

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, progress: Progress, greedy: Evaluation | None) -> None:
        for crash in progress.crashes[-1:]:
            write_crash(self._folder, crash)


def write_crash(folder: Path, crash: Crash) -> Path:
    """Writes ``folder/crash.json``, replacing an earlier one."""
    path = folder / CRASH
    content = {
        "env": crash.env,
        "index": crash.index,
        "seed": crash.seed,
        "step": crash.step,
        "what": crash.what[:LONGEST_TEXT],
        "trace": crash.trace[-LONGEST_TEXT:],
        "actions": crash.actions.tolist() if _few_enough(crash.actions) else None,
    }
    write_text(path, json.dumps(content) + "\n")
    return path


def _few_enough(actions: np.ndarray) -> bool:
    """Whether a file with these actions can be read: it limits numbers and brackets."""
    return actions.size + 2 * len(actions) < MOST_VALUES // 2


def read_crash(path: Path) -> Crash:
    """The episode that ``write_crash`` wrote.

    Raises:
        ReplayError: the file is missing or damaged.
    """
    path = path / CRASH if path.is_dir() else path
    try:
        data = read_json(path, LARGEST)
        index, seed, step = (int(data[name]) for name in ("index", "seed", "step"))
        if data["actions"] is None:
            raise ReplayError(
                f"{path}: has no actions: the episode failed in step {step:,}, too late to store them"
            )
        actions = np.array(data["actions"], float)
        if not np.isfinite(actions).all():
            raise ValueError("actions that are not finite")
        if not 0 <= seed <= LAST_SEED or index < 0 or not 0 <= step == len(actions):
            raise ValueError(f"index {index}, seed {seed}, step {step}, {len(actions)} actions")
        return Crash(str(data["env"]), index, seed, step, str(data["what"]), str(data["trace"]), actions)
    except FileError as error:
        raise ReplayError(str(error)) from error
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ReplayError(f"{path}: is damaged: {error!r:.200}") from error


def replay(path: Path, *, env: str | None = None, timeout: float = 60.0) -> Replayed:
    """Plays the episode of a ``crash.json`` again, in a process of its own.

    Args:
        path: the file, or the run folder that holds it.
        env: the environment's name. It must be repeated if it names a module (``module:Task``): a file alone
            never makes Python import one.
        timeout: seconds after which a step or reset counts as hanging.

    Raises:
        ReplayError: the file is damaged, its environment names a module, or its actions do not fit it.
    """
    crash = read_crash(path)
    if env is None and (why := reaches_outside(crash.env)):
        raise ReplayError(
            f"{path}: its environment {crash.env!r} {why}, repeat the name: {typed('--env', crash.env)}"
        )
    if env is not None and parse(env) != parse(crash.env):
        raise ReplayError(f"{path}: its environment is {crash.env}, not {env}")
    try:
        world = GymnasiumEnv(envs.resolve(crash.env, "gymnasium").id, 1, processes=True, timeout=timeout)
    except EnvFault as fault:
        return Replayed(crash, str(fault))
    try:
        world.reset(np.ones(1, bool), [crash.seed])
        shape = world.action_shape
        if crash.step and crash.actions.shape[1:] != shape:
            raise ReplayError(f"{path}: an action has shape {crash.actions.shape[1:]}, should be {shape}")
        for action in crash.actions:
            world.apply(action[None])
    except EnvFault as fault:
        return Replayed(crash, str(fault))
    finally:
        world.close()
    return Replayed(crash, None)
