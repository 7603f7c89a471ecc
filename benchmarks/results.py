"""The table of README's Results: `poise train TASK --total-steps 100k --seed S`, as a process each, in turn.

    .venv/bin/python benchmarks/results.py --out results

Seconds are of the whole command, score and film included; medians, but the largest memory.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from poise.studies.statistics import mean_estimate

TASKS = ("InvertedPendulum-v4", "Reacher-v4", "Pendulum-v1", "CartPole-v1")
COMMAND = Path(sys.executable).with_name("poise")


def train(task: str, seed: int, out: Path) -> tuple[float, dict]:
    """Seconds of the command, and the summary that it leaves."""
    begun = time.perf_counter()
    options = ["--total-steps", "100k", "--seed", str(seed), "--out", str(out)]
    done = subprocess.run([COMMAND, "train", task, *options], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    return seconds, json.loads((Path(done.stdout.split()[-1]) / "summary.json").read_text())


def row(task: str, runs: list[tuple[float, dict]]) -> str:
    """Of Markdown."""
    scores = [summary["evaluation"]["mean"] for _, summary in runs]
    digits = 2 if abs(np.mean(scores)) < 100 else 1
    mean, low, high, none = mean_estimate(np.array(scores))
    bounds = none or f"{low:.{digits}f} to {high:.{digits}f}"
    each = ", ".join(f"{score:.{digits}f}" for score in scores)
    seconds = np.median([seconds for seconds, _ in runs])
    speed = np.median([summary["steps_per_second"] for _, summary in runs])
    memory = max(summary["peak_memory_bytes"] for _, summary in runs)
    costs = f"{seconds:.0f} | {speed:,.0f} | {memory / 1e6:.0f} MB"
    return f"| {task} | {mean:.{digits}f} | {bounds} | {each} | {costs} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="where the run folders go")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    for task in TASKS:
        print(row(task, [train(task, seed, given.out) for seed in range(given.seeds)]), flush=True)


if __name__ == "__main__":
    main()
