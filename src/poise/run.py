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
from poise.agent import load
from poise.checkpoint import Manifest, save_agent
from poise.compiled import keep_compiled
from poise.config import Config
from poise.cores import num_cores
from poise.curve import draw_curve
from poise.errors import PoiseError
from poise.evaluation import Evaluation
from poise.live import live
from poise.logger import TensorBoard
from poise.loop import Progress, iterations
from poise.options import Options
from poise.presets import configure
from poise.recording import film
from poise.spec import Episode, Spec
from poise.streams import TextOut
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


def _devices() -> str:
    """Where policy and value learn."""
    devices = jax.devices()
    return "one device" if devices[0] == devices[-1] else "two devices at once"


def described(found: envs.Resolved, config: Config) -> dict[str, Any]:
    """What ``config.json`` says."""
    return {"env": found.id, "backend": found.backend, **config.to_dict()}


def new_folder(out: Path, env: str, seeds: str) -> Path:
    """Makes ``out/<env>/<date>-<seeds>``, with a number behind it where that exists already."""
    parent = out / re.sub(r"[^\w.-]+", "-", env)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{seeds}"
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


def peak_memory() -> int | None:
    """The most bytes of this process that were resident at once, since it began; None where nobody counts."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> dict[str, str]:
    names = ("poise", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def train(
    env: str,
    *,
    backend: envs.Backend = "auto",
    out: str | Path = "runs",
    evaluate: bool = True,
    video: bool = True,
    log_every: int = Options.log_every,
    compile_cache: bool = Options.compile_cache,
    file: TextOut | None = None,
    **config: Any,
) -> Run:
    """Trains an agent and leaves a folder with all that there is to know of it.

        run = poise.train("Reacher-v4", total_steps=100_000, ppo={"clip": 0.1})
        agent = poise.load(run.folder)

    Args:
        env: a Gymnasium id, one of poise's own, or the name of a preset.
        backend: what steps the environments; "auto" takes the fastest that has ``env``.
        out: the root in which the run's folder is made.
        evaluate: whether the greedy agent plays 100 episodes at the end.
        video: whether it is filmed at the end.
        log_every: environment steps between two that TensorBoard shows one by one.
        compile_cache: whether what JAX compiles is kept in the user's cache folder for the next start
            (``poise.compiled``).
        file: where progress is shown; standard output by default.
        config: fields of ``Config``: ``total_steps``, ``seed``, ``num_envs``, and the groups ``ppo``,
            ``policy``, ``value``, ``normalize``, each as its record or as a mapping of what changes.

    Raises:
        EnvError: the environment cannot be made.
        ConfigError: an option is unknown, wrong, or has no meaning for this environment.
        EnvFault: the environment failed; the folder holds all up to then.
        TrainingError: training became infinite or NaN; the folder holds all up to then.
        KeyboardInterrupt: interrupted; the folder holds all up to then.
    """
    options = Options(
        backend=backend,
        out=Path(out),
        evaluate=evaluate,
        video=video,
        log_every=log_every,
        compile_cache=compile_cache,
    )
    id, configured = configure(env, **config)
    return execute(id, configured, options, file=file or sys.stdout)


def execute(
    env: str,
    config: Config,
    options: Options,
    *,
    import_seconds: float = 0.0,
    folder: Path | None = None,
    file: TextOut,
) -> Run:
    """``train`` with its records made, into ``folder``, which is there, or a new one.

    ``import_seconds``: what loading took before this call.
    """
    begun = time.perf_counter()
    use_two_devices()
    keep_compiled(options.compile_cache)
    found = envs.resolve(env, options.backend)
    if found.note:
        print(found.note, file=file)
    world = envs.make(found.id, config.num_envs, found.backend)
    status, evaluation = "failed", None
    try:
        config.check_against(world.spec)
        folder = folder or new_folder(options.out, found.id, str(config.seed))
        recorder = _Recorder(folder, options, found, config, world.spec)
        recorder.seconds["import"] = import_seconds
        print(
            f"{found.id} on {world.backend}, learning on {_devices()}: {config.num_iterations} iterations x "
            f"{config.rollout_size:,} = {recorder.total_steps:,} steps, seed {config.seed}",
            file=file,
            flush=True,
        )
        try:
            with live(recorder.total_steps, file) as view:
                for progress in iterations(config, world):
                    recorder.record(progress)
                    view.show(progress)
            recorder.save()
            if options.evaluate:
                evaluation = recorder.evaluate()
            status = "finished"
            if options.video:
                recorder.film(file)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            recorder.save()
            run = recorder.finish(status, evaluation, time.perf_counter() - begun + import_seconds)
    finally:
        world.close()
    return run


class _Recorder:
    """Gathers what the folder is to hold, and writes the tables after each iteration."""

    def __init__(self, folder: Path, options: Options, found: envs.Resolved, config: Config, spec: Spec):
        self.total_steps = config.num_iterations * config.rollout_size
        parts = ("import", "compile", "rollout", "learn", "prepare", "log", "evaluate")
        self.seconds = dict.fromkeys(parts, 0.0)
        self._physics: float | None = None  # seconds of the rollouts; None where nobody can tell
        self._folder, self._found, self._config, self._spec = folder, found, config, spec
        self._tensorboard = TensorBoard(self._folder, log_every=options.log_every)
        (self._folder / "config.json").write_text(json.dumps(described(found, config), indent=2) + "\n")
        self._metrics = (self._folder / "metrics.jsonl").open("w")
        self._table = (self._folder / "episodes.csv").open("w", newline="")
        self._rows = csv.writer(self._table)
        self._rows.writerow(["step", "env", "episode", "return", "length", "ended"])
        self._episodes: list[Episode] = []
        self._state: TrainState | None = None
        self._saved: int | None = None  # steps of the agent that was saved
        self._first = self._last = (0.0, 0)  # time and step at which the first and last iteration ended

    def record(self, progress: Progress) -> None:
        begun = time.perf_counter()
        self._state = progress.state
        row = {"iteration": progress.iteration, "steps": progress.steps, **progress.metrics}
        row |= progress.times
        self._metrics.write(json.dumps(_finite(row)) + "\n")
        for e in progress.episodes:
            ended = "terminated" if e.terminated else "truncated"
            self._rows.writerow([e.step, e.env, e.index, e.episodic_return, e.length, ended])
        self._tensorboard.write(progress)
        for log in (self._metrics, self._table, self._tensorboard):
            log.flush()
        self._episodes += progress.episodes
        self.seconds["compile"] += progress.compile_seconds
        self.seconds["rollout"] += progress.rollout_seconds
        self.seconds["learn"] += progress.learn_seconds
        self.seconds["prepare"] += progress.prepare_seconds
        if progress.physics_seconds is not None:
            self._physics = (self._physics or 0.0) + progress.physics_seconds
        now = time.perf_counter()
        self.seconds["log"] += now - begun
        self._last = now, progress.steps
        if progress.iteration == 1:
            self._first = self._last

    def save(self) -> None:
        """Keeps the last agent, once."""
        _, steps = self._last
        if self._state is None or self._saved == steps:
            return
        begun = time.perf_counter()
        manifest = Manifest(self._found.id, self._found.backend, steps, self._spec, self._config)
        save_agent(self._folder, self._state, manifest)
        self._saved = steps
        self.seconds["log"] += time.perf_counter() - begun

    def evaluate(self) -> Evaluation:
        """The greedy score of the agent that was saved, its normalizer frozen."""
        begun = time.perf_counter()
        evaluation = load(self._folder).evaluate(EVALUATION_EPISODES, env=self._found.id)
        self.seconds["evaluate"] = time.perf_counter() - begun
        return evaluation

    def film(self, file: TextOut) -> None:
        """A video of the agent that was saved; where none can be made, a line that says why."""
        begun = time.perf_counter()
        try:
            film(load(self._folder), self._folder / "video", env=self._found.id)
        except PoiseError as error:
            print(error, file=file)
        self.seconds["log"] += time.perf_counter() - begun

    def finish(self, status: str, evaluation: Evaluation | None, total_seconds: float) -> Run:
        """Writes the curve and, last of all, the summary."""
        begun = time.perf_counter()
        for log in (self._metrics, self._table, self._tensorboard):
            log.close()
        title = f"{self._found.id}, seed {self._config.seed}"
        draw_curve(self._folder / "curve.png", title, self._episodes, self.total_steps, evaluation)
        if evaluation is not None:
            self._write_evaluation(evaluation)
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
            "seconds": {**self.seconds, "physics": self._physics, "total": total_seconds + drawing},
            "peak_memory_bytes": peak_memory(),
            "evaluation": evaluation.summary() if evaluation else None,
            "parameters_sha256": parameters_sha256(self._state) if self._state else None,
            "versions": versions(),
        }
        (self._folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return Run(self._folder, summary, evaluation)

    def _write_evaluation(self, evaluation: Evaluation) -> None:
        with (self._folder / "evaluation.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["episode", "return", "length"])
            rows.writerows(
                (i, *row)
                for i, row in enumerate(zip(evaluation.episodic_return, evaluation.length, strict=True))
            )


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
