"""One training from its first step to its folder: the loop that reacts."""

import contextlib
import csv
import hashlib
import importlib.metadata
import json
import math
import platform
import re
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from poise import envs
from poise.acting import Actor
from poise.config import Config
from poise.cores import num_cores
from poise.curve import draw_curve
from poise.errors import PoiseError
from poise.evaluation import Evaluation, evaluate, evaluation_lanes
from poise.live import TextOut, live
from poise.loop import Progress, iterations
from poise.spec import Episode
from poise.update import TrainState

EVALUATION_EPISODES = 100


class RunError(PoiseError):
    """A run folder that cannot be made."""


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, and what ``summary.json`` in it says."""

    folder: Path
    summary: dict[str, Any]
    evaluation: Evaluation | None


def use_two_devices() -> None:
    """Lets policy and value learn at the same time on the CPU, where JAX has not started yet.

    Where it has, they share one device: the same result, later.
    """
    if num_cores() < 2:
        return
    with contextlib.suppress(RuntimeError):  # raised where JAX runs already
        jax.config.update("jax_num_cpu_devices", 2)


def new_folder(out: Path, env: str, seed: int) -> Path:
    """Makes ``out/<env>/<date>-<seed>``, with a letter behind it where that exists already."""
    parent = out / re.sub(r"[^\w.-]+", "-", env)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{seed}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
            try:
                (parent / (name + suffix)).mkdir()
            except FileExistsError:
                continue
            return parent / (name + suffix)
    except OSError as error:
        raise RunError(f"out = {str(out)!r}: no folder can be made there: {error.strerror}") from error
    raise RunError(f"out = {str(out)!r}: it holds a thousand runs of this second")


def parameters_sha256(state: TrainState) -> str:
    """SHA-256 over path, shape and bytes of every policy and value parameter, in sorted order."""
    parts = {"policy": state.learner.policy, "value": state.learner.value}
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}
    digest = hashlib.sha256()
    for path in sorted(leaves):
        array = np.ascontiguousarray(leaves[path])
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    names = ("poise", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def train(
    env: str,
    config: Config,
    *,
    backend: envs.Backend = "auto",
    out: str | Path = "runs",
    evaluate_after: bool = True,
    import_seconds: float = 0.0,
    file: TextOut = sys.stdout,
) -> Run:
    """Trains an agent on ``env`` and leaves a folder under ``out``.

    Args:
        env: a Gymnasium id, or one of poise's own.
        config: everything that decides what is learned.
        backend: what steps the environments; "auto" takes the fastest that has ``env``.
        out: the root in which run folders are made.
        evaluate_after: whether the greedy agent is scored over 100 episodes at the end.
        import_seconds: what loading took before this call, for ``summary.json``.
        file: where progress is shown; standard output by default.

    Raises:
        EnvError: the environment cannot be made.
        ConfigError: an option has no meaning for it.
        TrainingError: training became infinite or NaN; the folder holds all up to then.
        KeyboardInterrupt: interrupted; the folder holds all up to then.
    """
    begun = time.perf_counter()
    use_two_devices()
    found = envs.resolve(env, backend)
    if found.note:
        print(found.note, file=file)
    world = envs.make(found.id, config.num_envs, found.backend)
    status, evaluation = "failed", None
    try:
        config.check_against(world.spec)
        recorder = _Recorder(Path(out), found, config)
        recorder.seconds["import"] = import_seconds
        print(
            f"{found.id} on {world.backend}: {config.num_iterations} iterations x {config.rollout_size:,} "
            f"= {recorder.total_steps:,} steps, seed {config.seed}",
            file=file,
            flush=True,
        )
        try:
            with live(recorder.total_steps, file) as view:
                for progress in iterations(config, world):
                    recorder.record(progress)
                    view.show(progress)
            if evaluate_after:
                evaluation = recorder.evaluate()
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            run = recorder.finish(status, evaluation, time.perf_counter() - begun + import_seconds)
    finally:
        world.close()
    return run


class _Recorder:
    """Gathers what the folder is to hold, and writes the tables after each iteration."""

    def __init__(self, out: Path, found: envs.Resolved, config: Config):
        self.total_steps = config.num_iterations * config.rollout_size
        self.seconds = dict.fromkeys(("import", "compile", "rollout", "learn", "log", "evaluate"), 0.0)
        self._folder = new_folder(out, found.id, config.seed)
        self._found, self._config = found, config
        described = {"env": found.id, "backend": found.backend, **config.to_dict()}
        (self._folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
        self._metrics = (self._folder / "metrics.jsonl").open("w")
        self._table = (self._folder / "episodes.csv").open("w", newline="")
        self._rows = csv.writer(self._table)
        self._rows.writerow(["step", "env", "episode", "return", "length", "ended"])
        self._episodes: list[Episode] = []
        self._state: TrainState | None = None
        self._first = self._last = (0.0, 0)  # time and step at which the first and last iteration ended

    def record(self, progress: Progress) -> None:
        begun = time.perf_counter()
        self._state = progress.state
        row = {"iteration": progress.iteration, "steps": progress.steps, **progress.metrics}
        row |= {"time/rollout": progress.rollout_seconds, "time/learn": progress.learn_seconds}
        self._metrics.write(json.dumps(_finite(row)) + "\n")
        for e in progress.episodes:
            ended = "terminated" if e.terminated else "truncated"
            self._rows.writerow([e.step, e.env, e.index, e.episodic_return, e.length, ended])
        self._metrics.flush()
        self._table.flush()
        self._episodes += progress.episodes
        self.seconds["compile"] += progress.compile_seconds
        self.seconds["rollout"] += progress.rollout_seconds
        self.seconds["learn"] += progress.learn_seconds
        now = time.perf_counter()
        self.seconds["log"] += now - begun
        self._last = now, progress.steps
        if progress.iteration == 1:
            self._first = self._last

    def evaluate(self) -> Evaluation:
        """The greedy score of the last agent, its normalizer frozen."""
        begun, state = time.perf_counter(), self._state
        assert state is not None, "evaluated before the first iteration"
        lanes = evaluation_lanes(self._found.backend, EVALUATION_EPISODES)
        world = envs.make(self._found.id, lanes, self._found.backend)
        try:
            evaluation = evaluate(
                world,
                Actor(state.learner.policy, state.normalizer, self._config.normalize),
                normalize_action=self._config.normalize.action,
                seed=self._config.seed,
                episodes=EVALUATION_EPISODES,
            )
        finally:
            world.close()
        self.seconds["evaluate"] = time.perf_counter() - begun
        return evaluation

    def finish(self, status: str, evaluation: Evaluation | None, total_seconds: float) -> Run:
        """Writes the curve and, last of all, the summary."""
        begun = time.perf_counter()
        self._metrics.close()
        self._table.close()
        title = f"{self._found.id}, seed {self._config.seed}"
        draw_curve(self._folder / "curve.png", title, self._episodes, self.total_steps, evaluation)
        drawing = time.perf_counter() - begun
        self.seconds["log"] += drawing
        (first, first_step), (last, last_step) = self._first, self._last
        summary = {
            "env": self._found.id,
            "backend": self._found.backend,
            "seed": self._config.seed,
            "steps": last_step,
            "status": status,
            "steps_per_second": (last_step - first_step) / (last - first) if last > first else None,
            "seconds": {**self.seconds, "total": total_seconds + drawing},
            "evaluation": evaluation.summary() if evaluation else None,
            "parameters_sha256": parameters_sha256(self._state) if self._state else None,
            "versions": versions(),
        }
        (self._folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return Run(self._folder, summary, evaluation)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
