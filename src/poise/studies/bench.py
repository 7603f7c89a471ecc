"""``poise bench``: how long a training takes on this machine, what of, and how long it would have to."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise import envs
from poise.checked import ConfigError
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.vector import EnvStep
from poise.errors import PoiseError
from poise.store.checkpoint import Trained, agent_folder, load_agent
from poise.system.cores import num_cores
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.training.host import HostCollector

SIDE = 1024  # of the two square matrices whose product is the peak
LONGEST = 256  # steps of the rollout that the environments alone go through


class BenchError(PoiseError):
    """A training that was to be measured has failed."""


@dataclass(frozen=True)
class Round:
    """One training as a process of its own, and right after it the limits.

    ``seconds`` are those of ``summary.json``; ``physics`` has the environments' steps a second at each number
    of threads, or at 0 where they have none.
    """

    whole: float  # seconds from the command to its end
    memory: int | None  # bytes, the most that were resident; None where the system does not tell
    seconds: dict[str, float | None]
    steps: int
    steps_per_second: float
    physics: dict[int, float]
    flops: float  # a second, on all cores


@dataclass(frozen=True)
class Bench:
    """What ``poise bench`` measured."""

    env: str
    backend: str
    config: Config
    rounds: list[Round]
    flops_a_step: float  # that learning needs for one environment step

    def median(self, of: Callable[[Round], float]) -> float:
        return statistics.median(of(r) for r in self.rounds)

    @property
    def memory(self) -> int | None:
        """The most of all rounds, in bytes."""
        return max((r.memory for r in self.rounds if r.memory), default=None)

    @property
    def steps_per_second(self) -> float:
        return self.median(lambda r: r.steps_per_second)

    @property
    def physics(self) -> tuple[int, float]:
        """The best number of threads, and the environments' steps a second with it."""
        paces = {n: self.median(lambda r, n=n: r.physics[n]) for n in self.rounds[0].physics}
        best = max(paces, key=lambda n: paces[n])
        return best, paces[best]

    @property
    def learning(self) -> float:
        """Steps a second that learning at the peak of one matrix product would allow."""
        return self.median(lambda r: r.flops) / self.flops_a_step

    @property
    def limit(self) -> float:
        """Steps a second of physics and learning one after the other, each on all cores, nothing else."""
        return 1 / (1 / self.physics[1] + 1 / self.learning)

    def parts(self) -> dict[str, float]:
        """Seconds of the whole process by what they were spent on: the medians, in the order of time."""

        def of(*plus: str, minus: tuple[str, ...] = ()) -> float:
            def seconds(r: Round) -> float:
                return sum(r.seconds[n] or 0.0 for n in plus) - sum(r.seconds[n] or 0.0 for n in minus)

            return self.median(seconds)

        told = ("import", "compile", "rollout", "learn", "log")
        if self.rounds[0].seconds["physics"] is None:
            rollout = {"acting and physics": of("rollout")}
        else:
            rollout = {"acting": of("rollout", minus=("physics",)), "physics": of("physics")}
        return {
            "import": of("import"),
            "compile": of("compile"),
            **rollout,
            "preparing": of("prepare"),
            "learning": of("learn", minus=("prepare",)),
            "logging": of("log"),
            "start and end": self.median(lambda r: r.whole - sum(r.seconds[n] or 0.0 for n in told)),
        }

    def to_dict(self) -> dict[str, Any]:
        """All figures, for ``--json``."""
        threads, physics = self.physics
        return {
            "env": self.env,
            "backend": self.backend,
            "config": self.config.to_dict(),
            "cores": num_cores(),
            "rounds": [vars(r) for r in self.rounds],
            "seconds": self.parts() | {"whole": self.median(lambda r: r.whole)},
            "peak_memory_bytes": self.memory,
            "steps_per_second": self.steps_per_second,
            "limit": {
                "threads": threads,
                "physics": physics,
                "learning": self.learning,
                "both": self.limit,
                "share": self.steps_per_second / self.limit,
            },
        }

    def table(self) -> str:
        """The same for a person."""
        config, threads = self.config, self.physics[0]
        steps, whole = self.rounds[0].steps, self.median(lambda r: r.whole)
        flops = self.median(lambda r: r.flops)

        num_steps, num_envs = config.shape

        def spread(of: Callable[[Round], float], form: str) -> str:
            return f"({min(map(of, self.rounds)):{form}} to {max(map(of, self.rounds)):{form}})"

        lines = [
            f"{self.env} on {self.backend}: {num_envs} environments x {num_steps} steps, "
            f"{steps:,} steps, seed {config.seed}",
            f"medians of {len(self.rounds)} trainings, {num_cores()} cores",
            "",
        ]
        lines += [f"{name:<20}{value:>9.2f} s{value / whole:>7.0%}" for name, value in self.parts().items()]
        lines += [
            f"{'whole command':<20}{whole:>9.2f} s        {spread(lambda r: r.whole, '.2f')}",
            *([f"{'memory':<20}{self.memory / 1e6:>9,.0f} MB at its peak"] if self.memory else []),
            "",
            f"{'while training':<20}{self.steps_per_second:>9,.0f} steps/s  "
            + spread(lambda r: r.steps_per_second, ",.0f"),
            f"{'physics alone':<20}{self.physics[1]:>9,.0f} steps/s"
            + (f"  on {threads} thread{'s' * (threads > 1)}" if threads else ""),
            f"{'learning at peak':<20}{self.learning:>9,.0f} steps/s  at "
            f"{flops / 1e9:,.0f} GFLOP/s, {self.flops_a_step / 1e6:.2f} MFLOP a step",
            f"{'limit, both added':<20}{self.limit:>9,.0f} steps/s",
            "",
            f"A step takes {self.limit / self.steps_per_second:.2f} times the limit: "
            f"{self.steps_per_second / self.limit:.0%} of what the machine could do.",
        ]
        return "\n".join(lines)


def measure(env: str, config: Config, backend: envs.Backend, *, rounds: int, file: TextOut) -> Bench:
    """Trains ``rounds`` times, each as a command of its own and followed by a measurement of the limits.

    One more training comes first, which fills the caches and is not counted.

    Raises:
        EnvError, ConfigError: as ``poise.train``.
        BenchError: a training failed.
    """
    found = envs.resolve(env, backend)
    if config.num_iterations < 2:
        raise ConfigError(f"total_steps = {config.total_steps}: must give at least two iterations")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        say = partial(print, file=file, flush=True)
        with announced("a first training, to fill the caches", say):
            whole, run = train_once(found, config, Path(folder))
            trained, _ = load_agent(agent_folder(run))
            recorded = record(found, config, trained)[:LONGEST]
        print(f"{found.id}: the caches are filled, {whole:.1f} s", file=file, flush=True)
        for number in range(rounds):
            with announced(f"round {number + 1} of {rounds}", say):
                whole, run = train_once(found, config, Path(folder))
                summary = json.loads((run / "summary.json").read_text())
                physics, flops = physics_alone(found, recorded), peak()
            pace = summary["steps_per_second"]
            seconds, memory = summary["seconds"], summary["peak_memory_bytes"]
            measured.append(Round(whole, memory, seconds, summary["steps"], pace, physics, flops))
            print(
                f"round {number + 1} of {rounds}: {whole:.1f} s, {pace:,.0f} steps/s", file=file, flush=True
            )
    return Bench(found.id, found.backend, config, measured, flops_a_step(trained, config))


def train_once(found: envs.Resolved, config: Config, folder: Path) -> tuple[float, Path]:
    """Seconds of one ``poise train``, and its run, somewhere in ``folder``."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "poise", "train", found.id, *flags(config), "--backend", found.backend]
    command += ["--no-evaluate", "--no-video", "--out", str(out)]
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - begun
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["a training ended without a word"]
        raise BenchError(said[-1].removeprefix("poise: "))
    return whole, next(out.glob("*/*"))


def flags(config: Config) -> list[str]:
    """The options of ``poise train`` that make this configuration."""
    options: list[str] = []

    def add(group: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            name = name.replace("_", "-")
            match value:
                case dict():
                    add(f"{name}.", value)
                case bool():
                    options.append(f"--{group}{'' if value else 'no-'}{name}")
                case list() | tuple():
                    options.extend([f"--{group}{name}", *map(str, value)])
                case _:
                    options.extend([f"--{group}{name}", str(value)])

    add("", config.to_dict())
    return options


def flops_a_step(trained: Trained, config: Config) -> float:
    """Floating-point operations of all epochs of both networks, for one environment step.

    Of one layer and row: 2 x inputs x outputs forward, as many for the gradient of the weights, and, but in
    the first layer, as many for that of the inputs. Nothing else is counted.
    """
    a_row = 0
    for network in (trained.policy, trained.value):
        sizes = [w.size for w in network.mlp.weight]
        a_row += 6 * sum(sizes) - 2 * sizes[0]
    rows = config.rollout_size // config.minibatch_size * config.minibatch_size
    return a_row * config.ppo.num_epochs * rows / config.rollout_size


def peak() -> float:
    """Floating-point operations a second of one product of two matrices in NumPy, on all cores."""
    one, other = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
    return 2 * SIDE**3 / _seconds(lambda: one @ other)


class Move(NamedTuple):
    """What was done to all environments at one step."""

    action: Shaped[np.ndarray, "N ..."]
    begun: Bool[np.ndarray, " N"] | None  # those in which an episode began before it
    seeds: Sequence[int]
    state: Float[np.ndarray, "N S"] | None  # the batch engine's rows where one began


class _Recording:
    """A vector environment that keeps what is done to it, and its ``state`` after each reset."""

    def __init__(self, env: VectorEnv, state: Callable[[], np.ndarray] | None):
        self._env, self._state = env, state
        self.spec, self.num_envs, self.backend = env.spec, env.num_envs, env.backend
        self.moves: list[Move] = []
        self._begun: tuple[np.ndarray | None, Sequence[int]] = None, ()

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        self._begun = mask.copy(), seeds
        return self._env.reset(mask, seeds)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        mask, seeds = self._begun
        state = None if self._state is None or mask is None else self._state()
        self.moves.append(Move(np.array(action), mask, seeds, state))
        self._begun = None, ()
        return self._env.step(action)

    def close(self) -> None:
        self._env.close()


def record(found: envs.Resolved, config: Config, trained: Trained) -> list[Move]:
    """One rollout of the trained agent with sampled actions, from fresh episodes on."""
    env = envs.make(found.id, config.shape[1], found.backend)
    recording = _Recording(env, getattr(env, "rows", None))
    try:
        HostCollector(recording, config).collect(trained.policy, trained.normalizer, 0)
    finally:
        env.close()
    return recording.moves


def physics_alone(found: envs.Resolved, moves: list[Move]) -> dict[int, float]:
    """Steps a second of the environments alone with recorded actions, at each number of threads.

    Of the batch engine only the engine, without observations and rewards; fields that a task varies are the
    model's own. Of a native task one compiled loop, without new episodes. Of Gymnasium's the whole step.
    """
    num_envs = len(moves[0].action)
    env: Any = envs.make(found.id, num_envs, found.backend)
    try:
        match found.backend:
            case "mujoco":
                threads = range(1, min(num_cores(), num_envs) + 1)
                alone = [(m.action, m.state) for m in moves]
                times = {n: _seconds(partial(env.replay, alone, env.engine(n))) for n in threads}
            case "native":
                actions = np.stack([m.action for m in moves])
                env.reset(moves[0].begun, moves[0].seeds)
                times = {0: _seconds(partial(env.replay, actions))}
            case "gymnasium" | "gymnasium-async":
                times = {0: _seconds(partial(_replay, env, moves))}
    finally:
        env.close()
    return {n: len(moves) * num_envs / seconds for n, seconds in times.items()}


def _replay(env: VectorEnv, moves: list[Move]) -> None:
    for move in moves:
        if move.begun is not None:
            env.reset(move.begun, move.seeds)
        env.step(move.action)


def _seconds(work: Callable[[], object]) -> float:
    """The median of what it takes, warm, again and again for half a second and at least three times."""
    times, start = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - start < 0.5:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])
