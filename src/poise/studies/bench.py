"""``poise bench``: where the time of a training goes, and how far it is from the limit of the machine."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from poise import envs
from poise.checked import ConfigError
from poise.config import Config
from poise.errors import PoiseError
from poise.placement import device
from poise.store.checkpoint import agent_folder, load_agent
from poise.studies.limits import flops_a_step, peak, physics_alone, record
from poise.system.cores import num_cores
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.wording import counted

LONGEST = 256  # steps of the rollout that is replayed in the environments alone


class BenchError(PoiseError):
    """The training to be measured failed."""


@dataclass(frozen=True)
class Round:
    """One training in a process of its own, and the limits measured right after it.

    ``seconds`` are those of ``summary.json``; ``physics`` has the environments' steps per second by number
    of threads, which is 0 if there is no choice.
    """

    whole: float  # seconds from the start of the command to its end
    memory: int | None  # peak resident bytes; None if the system does not tell
    seconds: dict[str, float | None]
    steps: int
    steps_per_second: float
    physics: dict[int, float]
    flops: float  # per second, on all cores
    device: str = "cpu"  # that the training computed on


@dataclass(frozen=True)
class Bench:
    """The result of ``poise bench``."""

    env: str
    backend: str
    config: Config
    rounds: list[Round]
    flops_a_step: float  # of learning, for one environment step

    def median(self, of: Callable[[Round], float]) -> float:
        return statistics.median(of(r) for r in self.rounds)

    @property
    def memory(self) -> int | None:
        """The largest peak of all rounds, in bytes."""
        return max((r.memory for r in self.rounds if r.memory), default=None)

    @property
    def steps_per_second(self) -> float:
        return self.median(lambda r: r.steps_per_second)

    @property
    def physics(self) -> tuple[int, float]:
        """The best number of threads, and the environments' steps per second with it."""
        paces = {n: self.median(lambda r, n=n: r.physics[n]) for n in self.rounds[0].physics}
        best = max(paces, key=lambda n: paces[n])
        return best, paces[best]

    @property
    def learning(self) -> float:
        """Steps per second if learning ran at the speed of one large matrix product."""
        return self.median(lambda r: r.flops) / self.flops_a_step

    @property
    def limit(self) -> float:
        """Steps per second of physics and learning alone, one after the other, each on all cores."""
        return 1 / (1 / self.physics[1] + 1 / self.learning)

    def parts(self) -> dict[str, float]:
        """Seconds of the whole process by phase, in order of time: medians over the rounds."""

        def of(*plus: str, minus: tuple[str, ...] = ()) -> float:
            def seconds(r: Round) -> float:
                return sum(r.seconds[n] or 0.0 for n in plus) - sum(r.seconds[n] or 0.0 for n in minus)

            return self.median(seconds)

        measured = ("import", "compile", "rollout", "learn", "log")
        learning = {"preparing": of("prepare"), "learning": of("learn", minus=("prepare",))}
        if not self.rounds[0].seconds["rollout"]:  # nothing is timed within one program
            rollout, learning = {}, {"whole iterations": of("learn")}
        elif self.rounds[0].seconds["physics"] is None:
            rollout = {"acting and physics": of("rollout")}
        else:
            rollout = {"acting": of("rollout", minus=("physics",)), "physics": of("physics")}
        return {
            "import": of("import"),
            "compile": of("compile"),
            **rollout,
            **learning,
            "logging": of("log"),
            "start and end": self.median(lambda r: r.whole - sum(r.seconds[n] or 0.0 for n in measured)),
        }

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for ``--json``."""
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
        """The same as text."""
        config, threads = self.config, self.physics[0]
        steps, whole = self.rounds[0].steps, self.median(lambda r: r.whole)
        flops = self.median(lambda r: r.flops)

        num_steps, num_envs = config.shape
        where = self.rounds[0].device

        def spread(of: Callable[[Round], float], form: str) -> str:
            return f"({min(map(of, self.rounds)):{form}} to {max(map(of, self.rounds)):{form}})"

        lines = [
            f"{self.env} on {self.backend}: {counted(num_envs, 'environment')} x "
            f"{counted(num_steps, 'step')}, {counted(steps, 'step')}, seed {config.seed}",
            f"medians of {counted(len(self.rounds), 'training')}, {counted(num_cores(), 'core')}",
            *([f"trained on {where}; the limits are those of the CPU"] if where != "cpu" else []),
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
            + (f"  on {counted(threads, 'thread')}" if threads else ""),
            f"{'learning at peak':<20}{self.learning:>9,.0f} steps/s  at "
            f"{flops / 1e9:,.0f} GFLOP/s, {self.flops_a_step / 1e6:.2f} MFLOP a step",
            f"{'limit, both added':<20}{self.limit:>9,.0f} steps/s",
            "",
            f"A step takes {self.limit / self.steps_per_second:.2f} times the limit: "
            f"{self.steps_per_second / self.limit:.0%} of what the machine could do.",
        ]
        return "\n".join(lines)


def measure(env: str, config: Config, backend: envs.Backend, *, rounds: int, file: TextOut) -> Bench:
    """Trains ``rounds`` times, each time as a command of its own, and measures the limits after each.

    One training before these fills the caches and is not counted.

    Raises:
        EnvError, ConfigError: as ``poise.train``; or there are fewer than two iterations.
        BenchError: a training failed.
    """
    device.keep_off_gpu()  # the limits are those of the CPU; a training has the GPU for itself
    task = envs.resolve(env, backend)
    if config.own_networks:
        raise ConfigError(
            f"network = {config.own_networks[0]!r}: poise bench counts the operations of poise's own layers; "
            "leave it out"
        )
    if config.num_iterations < 2:
        raise ConfigError(f"total_steps = {config.total_steps}: must give at least two iterations")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        say = partial(print, file=file, flush=True)
        with announced("a first training, to fill the caches", say):
            whole, run = train_once(task, config, Path(folder))
            trained, _ = load_agent(agent_folder(run))
            moves = record(task, config, trained)[:LONGEST]
        print(f"{task.id}: the caches are filled, {whole:.1f} s", file=file, flush=True)
        for number in range(rounds):
            with announced(f"round {number + 1} of {rounds}", say):
                whole, run = train_once(task, config, Path(folder))
                summary = json.loads((run / "summary.json").read_text())
                physics, flops = physics_alone(task, moves), peak()
            pace = summary["steps_per_second"]
            seconds, memory = summary["seconds"], summary["peak_memory_bytes"]
            steps, trained_on = summary["steps"], summary["device"]
            measured.append(Round(whole, memory, seconds, steps, pace, physics, flops, trained_on))
            print(
                f"round {number + 1} of {rounds}: {whole:.1f} s, {pace:,.0f} steps/s", file=file, flush=True
            )
    return Bench(task.id, task.backend, config, measured, flops_a_step(trained, config))


def train_once(task: envs.Resolved, config: Config, folder: Path) -> tuple[float, Path]:
    """Trains once with ``poise train``; returns its seconds and its run folder, which lies in ``folder``."""
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "poise", "train", task.id, *flags(config), "--backend", task.backend]
    command += ["--no-evaluate", "--no-video", "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - start
    if process.returncode:
        message = process.stderr.strip().splitlines() or ["a training failed without a message"]
        raise BenchError(message[-1].removeprefix("poise: "))
    return whole, next(out.glob("*/*"))


def flags(config: Config) -> list[str]:
    """The options of ``poise train`` for this configuration."""
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
