"""One trial of a sweep: a process that trains its seeds in turn, and stops them if they fall behind."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise.checked import ConfigError
from poise.config import Config
from poise.envs.info import success
from poise.errors import PoiseError
from poise.runs.folders import set_aside, status
from poise.runs.journal import RETURN, JournalError, cut, read_episodes
from poise.runs.options import Options
from poise.runs.records import judged_by, read_summary, scored_info
from poise.runs.session import Session, session
from poise.runs.setup import Conditions
from poise.spec import Episode
from poise.store.checkpoint import checkpoints, read_manifest
from poise.store.files import FileError, own_folder, read_json, write_text
from poise.system.interrupts import Guard, Member
from poise.system.streams import TextOut
from poise.system.terminal import print

LAST_EPISODES = 20  # training episodes whose mean return is the value at a rung
RESULT = "result.json"


class TrialError(PoiseError):
    """The result of a trial is damaged."""


@dataclass(frozen=True)
class Result:
    """The result of a trial.

    Attributes:
        pruned: the rung at which it was stopped, in environment steps; None if it was trained to the end.
        scores: for each seed, the mean return (or other objective) of the final greedy episodes; empty if it
            was stopped.
        values: that of training episodes at each rung that it reached.
        seconds: of the process that ended it.
    """

    pruned: int | None
    scores: tuple[float, ...]
    values: Mapping[int, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        values = {str(step): value for step, value in self.values.items()}
        return {**dataclasses.asdict(self), "scores": list(self.scores), "values": values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Result":
        """The result that ``to_dict``, or JSON made from it, describes.

        Raises:
            KeyError, TypeError, ValueError: the data does not describe a result.
        """
        pruned, seconds = data["pruned"], float(data["seconds"])
        scores = tuple(float(score) for score in data["scores"])
        values = {int(step): float(value) for step, value in data["values"].items()}
        if not np.isfinite([*scores, *values.values(), seconds]).all() or (pruned is None) == (not scores):
            raise ValueError("scores or values")
        return cls(None if pruned is None else int(pruned), scores, values, seconds)


def read_result(folder: Path, config: Config) -> Result | None:
    """The result in ``folder``, if a trial with this configuration has ended there; otherwise None.

    Raises:
        TrialError: the file is damaged.
    """
    path = folder / RESULT
    if not os.path.lexists(path):
        return None
    try:
        data = read_json(path)
        return Result.from_dict(data) if Config.from_dict(data["config"]) == config else None
    except (FileError, ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrialError(f"{path}: is damaged: {error!r:.200}") from error


@dataclass(frozen=True)
class Trial:
    """The trainings of one setting, with consecutive seeds starting at ``config.seed``, under ``folder``.

    ``thresholds``: for each of ``rungs`` (environment steps), the training return below which the trial is
    stopped; None: not stopped. Whether it is stopped follows from this record and from the tables of its
    runs alone, so an interruption does not change it.
    """

    env: str
    config: Config
    options: Options
    folder: Path
    num_seeds: int
    rungs: tuple[int, ...]
    thresholds: tuple[float | None, ...]
    objective: str = RETURN  # what of the greedy episodes is the score (``judged_by``)

    def run(self, guard: Guard, file: TextOut) -> dict[str, Any]:
        """Trains the trial; returns ``Result.to_dict``."""
        start = time.perf_counter()
        configs = [dataclasses.replace(self.config, seed=self.config.seed + i) for i in range(self.num_seeds)]
        with contextlib.ExitStack() as stack:
            seeds = [_Seed(self, config, guard, file) for config in configs]
            for seed in seeds:
                stack.callback(seed.close)  # an interrupt during one training saves all of them
            pruned, values = self._climb(seeds, file)
            scores: tuple[float, ...] = ()
            if pruned is None:
                scores = tuple(seed.score() for seed in seeds)
            else:
                for seed in seeds:
                    seed.stop(pruned)
        result = Result(pruned, scores, values, time.perf_counter() - start).to_dict()
        content = {**result, "config": self.config.to_dict()}
        write_text(self.folder / RESULT, json.dumps(content, indent=2) + "\n")
        return result

    def _climb(self, seeds: Sequence["_Seed"], file: TextOut) -> tuple[int | None, dict[int, float]]:
        """Trains to each rung in turn. The rung at which it falls behind, or None; its value at each."""
        values: dict[int, float] = {}
        last = self.config.num_iterations * self.config.rollout_size
        for rung, threshold in zip(self.rungs, self.thresholds, strict=True):
            if rung >= last:
                break
            for seed in seeds:
                seed.advance(rung)
            returns = [value for seed in seeds if (value := seed.value(rung)) is not None]
            if len(returns) < len(seeds):  # the first episode of a seed has not ended yet
                continue
            values[rung] = float(np.mean(returns))
            if threshold is not None and max(values.values()) < threshold:
                print(f"stopped at step {rung:,}: {values[rung]:.6g} < {threshold:.6g}", file=file)
                return rung, values
        return None, values


class _Seed:
    """One training of a trial, up to the step it has reached. It is opened when it has to continue."""

    def __init__(self, trial: Trial, config: Config, guard: Guard, file: TextOut):
        self._trial, self._config, self._guard, self._file = trial, config, guard, file
        self._folder = trial.folder / str(config.seed)
        self._session: Session | None = None
        self._steps = _saved(self._folder)

    def advance(self, until: float) -> None:
        """Trains to the end of the first iteration with at least ``until`` environment steps."""
        while self._steps < until and status(self._folder) != "finished":
            if self._session is None:
                own_folder(self._trial.folder, self._folder)
                self._session = session(
                    self._trial.env,
                    self._config,
                    self._trial.options,
                    self._folder,
                    Conditions(self._file, Member(self._guard)),
                )
            try:
                if (progress := next(self._session)) is not None:
                    self._steps = progress.steps
            except StopIteration:
                return

    def value(self, rung: int) -> float | None:
        """Mean objective of the last training episodes that ended by this step; None if there are none."""
        episodes = (e for e in read_episodes(self._folder) if e.step <= rung)
        values = [value for e in episodes if (value := _of_episode(e, self._trial.objective)) is not None]
        return float(np.mean(values[-LAST_EPISODES:])) if values else None

    def score(self) -> float:
        """Trains to the end; returns the mean objective of the final greedy episodes."""
        self.advance(np.inf)
        summary, objective = read_summary(self._folder), self._trial.objective
        if summary.get("evaluation") is None:
            raise TrialError(f"{self._folder / 'summary.json'}: is damaged: it has no score")
        if (value := judged_by(summary, objective)) is None:
            known = ", ".join([RETURN, *scored_info(summary)])
            raise TrialError(f"objective = {objective!r:.60}: must be one of {known}, which the score has")
        return value

    def stop(self, rung: int) -> None:
        """Ends the training at this rung."""
        self.close()
        if status(self._folder) is None:  # killed while it was stopped: resumed, it would train too far
            set_aside(self._folder)
            self._steps = 0
            self.advance(rung)
            self.close()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def _of_episode(episode: Episode, objective: str) -> float | None:
    if objective == RETURN:
        return episode.episodic_return
    return success(episode.info) if objective == "success_rate" else episode.info.get(objective)


def _saved(folder: Path) -> int:
    """The environment steps of the last checkpoint, or 0. Cuts the run's tables back to that step."""
    try:
        if status(folder) is not None:
            return int(read_summary(folder)["steps"])
        (newest, *_) = checkpoints(folder)
        manifest = read_manifest(newest)
        cut(folder, manifest.notes["logs"], check=True)
        cut(folder, manifest.notes["logs"])
    except (ValueError, KeyError, TypeError, FileError, JournalError):  # no checkpoint, or not usable
        return 0
    return manifest.steps
