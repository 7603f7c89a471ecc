"""Scores of tasks with images, masks, several actions and memory: a training is one row of the CSV.

    .venv/bin/python benchmarks/spaces.py benchmarks/spaces.csv                    # all: hours on two cores
    .venv/bin/python benchmarks/spaces.py benchmarks/spaces.csv --tasks cartpole   # names that contain this
    .venv/bin/python benchmarks/spaces.py benchmarks/spaces.csv --table            # means and intervals

The score is the greedy evaluation at the end of the training, as `summary.json` has it. If you start the
command again, it skips the rows that the file already has.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from learning import commit

from poise.studies.statistics import difference, mean_estimate
from poise.studies.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
COMMAND = Path(sys.executable).with_name("poise")
COLUMNS = (
    "task",
    "memory",
    "budget",
    "seed",
    "episodes",
    "return",
    "command",
    "commit",
    "date",
)
GRU, HISTORY = "--policy.memory gru --value.memory gru", "--history 4"
MOUNTAIN_CAR = "partial:MountainCarContinuousNoVelocity-v0"


@dataclass(frozen=True)
class Task:
    """A row of the table: what is trained, and the mean return that is required."""

    name: str
    env: str
    budget: str
    required: float | None
    options: str = ""
    seeds: int = 5

    @property
    def memory(self) -> str:
        """What the networks know of earlier observations."""
        return next((word for word in ("gru", "history") if word in self.options), "none")


def popgym(name: str) -> tuple[Task, Task]:
    """The task with a memory and without one."""
    env = f"popgym-{name}-v0"
    return Task(name, env, "300k", None, GRU, 3), Task(name, env, "300k", None, "", 3)


TASKS = (
    Task("CartPole without velocities", "partial:CartPoleNoVelocity-v1", "100k", 480, GRU),
    Task("Pendulum without velocity", "partial:PendulumNoVelocity-v1", "100k", -218, GRU),
    Task("CartPole without velocities", "partial:CartPoleNoVelocity-v1", "100k", 480, HISTORY),
    Task(
        "MountainCarContinuous without velocity", MOUNTAIN_CAR, "300k", 85, f"{HISTORY} --policy.std-init 5"
    ),
    Task("Recall", "recall:Recall-v0", "50k", 15.2, GRU),
    Task("MiniGrid-DoorKey-5x5-v0", "minigrid/doorkey-5x5", "100k", 0.93),
    Task("MiniGrid-Unlock-v0", "minigrid/unlock", "100k", 0.93, seeds=10),
    Task("Masked", "masked:Masked-v0", "5k", 90, "--ppo.gamma 0.4 --num-envs 1 --ppo.num-steps 2500"),
    *popgym("RepeatPreviousEasy"),
    *popgym("PositionOnlyCartPoleEasy"),
    *popgym("CountRecallEasy"),
    Task("MinAtar Breakout", "minatar_games:Breakout-v1", "1M", 8, "", 3),
    Task("MiniGrid-KeyCorridorS3R1-v0", "minigrid/keycorridor-s3r1", "500k", 0.90),
)


def train(task: Task, seed: int, out: Path) -> list:
    """Trains and returns the row of the CSV."""
    options = shlex.split(f"{task.env} --total-steps {task.budget} {task.options} --seed {seed} --no-video")
    done = subprocess.run(
        [COMMAND, "train", *options, "--out", out],
        cwd=ROOT / "examples",
        check=True,
        capture_output=True,
        text=True,
    )
    folder = Path(ROOT / "examples", done.stdout.splitlines()[-1])
    summary = json.loads((folder / "summary.json").read_text())
    score = summary["evaluation"]
    return [
        task.name,
        task.memory,
        task.budget,
        seed,
        score["episodes"],
        f"{score['mean']:.6g}",
        "poise train " + shlex.join(options),
        commit(),
        date.today().isoformat(),
    ]


def run(tasks: Sequence[Task], table: Path, out: Path, at_once: int) -> None:
    """Runs the trainings that the table does not have, and adds their rows."""
    rows = read_table(table) if table.exists() else []
    finished = {(row["task"], row["memory"], row["budget"], int(row["seed"])) for row in rows}
    jobs = [
        (task, seed)
        for task in tasks
        for seed in range(task.seeds)
        if (task.name, task.memory, task.budget, seed) not in finished
    ]
    with table.open("a", newline="") as file, ThreadPoolExecutor(at_once) as pool:
        writer = csv.writer(file, lineterminator="\n")
        if not rows:
            writer.writerow(COLUMNS)
        for row in pool.map(lambda job: train(*job, out), jobs):
            writer.writerow(row)
            file.flush()
            print(f"{row[0]}, memory {row[1]}, seed {row[3]}: {row[5]}", flush=True)


def summary_table(rows: Sequence[dict]) -> list[str]:
    """Mean and interval over seeds of each task, and the difference that the memory makes, in Markdown."""
    scores: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        scores.setdefault((row["task"], row["memory"], row["budget"]), []).append(float(row["return"]))
    lines = [
        "| task | memory | steps | seeds | mean greedy return | 95% interval | lowest | required |",
        "|---|---|---|---|---|---|---|---|",
    ]
    required = {(task.name, task.memory): task.required for task in TASKS}
    for (task, memory, budget), values in scores.items():
        mean, low, high, no_interval = mean_estimate(np.array(values))
        bounds = no_interval or f"{low:.4g} to {high:.4g}"
        needed = required.get((task, memory))
        figures = f"{mean:.4g} | {bounds} | {min(values):.4g} | {'' if needed is None else needed}"
        lines.append(f"| {task} | {memory} | {budget} | {len(values)} | {figures} |")
    lines += ["", "| task | memory against none | 95% interval |", "|---|---|---|"]
    for (task, memory, budget), values in scores.items():
        without = scores.get((task, "none", budget))
        if memory != "none" and without:
            effect = difference(np.array(values), np.array(without))
            bounds = effect.no_interval or f"{effect.low:+.4g} to {effect.high:+.4g}"
            lines.append(f"| {task} | {effect.value:+.4g} | {bounds} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("--tasks", nargs="+", help="only tasks whose name contains one of these words")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    parser.add_argument("--out", type=Path, default=Path("spaces"), help="folder for the run folders")
    parser.add_argument("--table", action="store_true", help="print the tables of the file, run nothing")
    args = parser.parse_args()
    if args.table:
        print(*summary_table(read_table(args.csv)), sep="\n")
        return
    words = [word.lower() for word in args.tasks or [""]]
    tasks = [task for task in TASKS if any(word in task.name.lower() for word in words)]
    run(tasks, args.csv.resolve(), args.out.resolve(), args.at_once)


if __name__ == "__main__":
    main()
