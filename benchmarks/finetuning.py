"""What a start is worth: fine-tuning on other targets, and demonstrations. A training is one row of the CSV.

    .venv/bin/python benchmarks/finetuning.py benchmarks/finetuning.csv                  # all: about an hour
    .venv/bin/python benchmarks/finetuning.py benchmarks/finetuning.csv --part targets   # or demonstrations
    .venv/bin/python benchmarks/finetuning.py benchmarks/finetuning.csv --table          # means and intervals

targets: an agent of Reacher-v5 (targets in a disk of 0.2 m, 100k steps) continues on targets:Far-v0 (in a
ring from 0.1 to 0.2 m). Beside it: training on targets:Far-v0 from nothing.

demonstrations: Pendulum-v1, with and without 20 episodes that a trained agent has played.

The score is the greedy evaluation at the end of a training (100 episodes). `steps` are those of the first of
its scores on the way (20 episodes) that reaches the required return; empty: none did. If you start the
command again, it skips the rows that the file already has.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from learning import commit

import poise
from poise.studies.statistics import mean_estimate
from poise.studies.tables import read_table

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "poise")
COLUMNS = ("part", "setting", "budget", "seed", "required", "steps", "return", "commit", "date")
SEEDS = range(5)
REQUIRED = {"targets": -5.0, "demonstrations": -200.0}
SMALL_RATES = ("--ppo.policy-learning-rate", "3e-4", "--ppo.value-learning-rate", "3e-4")
EVERY = ("--eval-every", "2k", "--no-video")


def train(env: str, budget: str, seed: int, out: Path, *options: str) -> Path:
    """The folder of a training, which is there already if an earlier start of this script has made it."""
    out = out / f"{seed}"
    done = [path.parent for path in out.glob("*/*/summary.json") if '"finished"' in path.read_text()]
    if not done:
        words = [env, "--total-steps", budget, "--seed", str(seed), "--out", str(out), *options]
        subprocess.run(
            [*COMMAND, "train", *words], check=True, capture_output=True, text=True, cwd=ROOT / "examples"
        )
        done = [path.parent for path in out.glob("*/*/summary.json")]
    return done[-1]


def record(run: Path, required: float) -> list[Any]:
    """First steps that reached the required return, and the score at the end."""
    rows = csv.DictReader((run / "greedy.csv").open())
    steps = [int(row["steps"]) for row in rows if float(row["return"]) >= required]
    mean = json.loads((run / "summary.json").read_text())["evaluation"]["mean"]
    return [required, min(steps, default=""), round(mean, 3)]


def of_targets(out: Path, seed: int) -> Iterator[tuple[str, str, Callable[[], Path]]]:
    """Settings, budgets, and what trains them."""
    for budget in ("50k", "100k"):
        yield (
            "from nothing",
            budget,
            lambda b=budget: train("targets:Far-v0", b, seed, out / f"nothing-{b}", *EVERY),
        )
    for budget in ("25k", "50k"):
        for setting, options in (("fine-tuned", ()), ("fine-tuned, rates 3e-4", SMALL_RATES)):

            def tuned(
                budget: str = budget, setting: str = setting, options: tuple[str, ...] = options
            ) -> Path:
                source = train("Reacher-v5", "100k", seed, out / "source", "--no-video")
                words = ("--from", str(source), *options, *EVERY)
                return train("targets:Far-v0", budget, seed, out / f"{setting}-{budget}", *words)

            yield setting, budget, tuned


def of_demonstrations(out: Path, seed: int) -> Iterator[tuple[str, str, Callable[[], Path]]]:
    yield "without", "50k", lambda: train("Pendulum-v1", "50k", seed, out / "without", *EVERY)

    def shown() -> Path:
        file = demonstrations(out)
        return train("Pendulum-v1", "50k", seed, out / "with", "--demonstrations", str(file), *EVERY)

    yield "with", "50k", shown


def demonstrations(out: Path) -> Path:
    """20 episodes of an agent that was trained for 100,000 steps."""
    file = out / "demonstrations.npz"
    if not file.exists():
        expert = poise.load(train("Pendulum-v1", "100k", 1000, out / "expert", "--no-video"))
        steps: list[poise.PlayedStep] = []
        expert.evaluate(20, seed=1000, on_step=steps.append)
        obs, action = (np.stack([getattr(step, name) for step in steps]) for name in ("obs", "action"))
        np.savez(file, obs=obs, action=action)
    return file


PARTS = {"targets": of_targets, "demonstrations": of_demonstrations}


def measure(path: Path, parts: list[str], out: Path) -> None:
    """Adds the rows that the file does not have."""
    have = {tuple(row[name] for name in COLUMNS[:4]) for row in read_table(path)} if path.exists() else set()
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    for part in parts:
        for seed in SEEDS:
            for setting, budget, run in PARTS[part](out.absolute() / part, seed):
                if (part, setting, budget, str(seed)) in have:
                    continue
                row = [part, setting, budget, seed, *record(run(), REQUIRED[part]), commit(), date.today()]
                with path.open("a", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerow(row)
                print(*row[:7], flush=True)


def table(path: Path) -> None:
    """A row for each setting, in Markdown."""
    rows = read_table(path)
    print(
        "| part | setting | budget | greedy return | 95% interval | steps to the required return, by seed |"
    )
    print("|---|---|---|---|---|---|")
    for key in dict.fromkeys((row["part"], row["setting"], row["budget"]) for row in rows):
        own = [row for row in rows if (row["part"], row["setting"], row["budget"]) == key]
        mean, low, high, _ = mean_estimate(np.array([float(row["return"]) for row in own]))
        steps = ", ".join(row["steps"] or "none" for row in own)
        print(f"| {' | '.join(key)} | {mean:.2f} | {low:.2f} to {high:.2f} | {steps} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning"), help="folder of the run folders")
    parser.add_argument("--table", action="store_true", help="only print the table")
    args = parser.parse_args()
    if not args.table:
        measure(args.csv, [args.part] if args.part else list(PARTS), args.out)
    table(args.csv)


if __name__ == "__main__":
    main()
