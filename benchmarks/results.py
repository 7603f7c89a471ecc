"""The table of results in the README: `poise train TASK --total-steps 100k --seed S`, one after another.

    .venv/bin/python benchmarks/results.py --out results

Seconds are those of the whole command, with score and video. Seconds and steps/s are medians, memory is the
maximum.
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
    """Seconds of the command, and the summary that it writes."""
    start = time.perf_counter()
    options = ["--total-steps", "100k", "--seed", str(seed), "--out", str(out)]
    done = subprocess.run([COMMAND, "train", task, *options], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return seconds, json.loads((Path(done.stdout.split()[-1]) / "summary.json").read_text())


def row(task: str, runs: list[tuple[float, dict]]) -> str:
    """A row of the table, in Markdown."""
    scores = [summary["evaluation"]["mean"] for _, summary in runs]
    digits = 2 if abs(np.mean(scores)) < 100 else 1
    mean, low, high, no_interval = mean_estimate(np.array(scores))
    bounds = no_interval or f"{low:.{digits}f} to {high:.{digits}f}"
    seeds = ", ".join(f"{score:.{digits}f}" for score in scores)
    seconds = np.median([seconds for seconds, _ in runs])
    speed = np.median([summary["steps_per_second"] for _, summary in runs])
    memory = max(summary["peak_memory_bytes"] for _, summary in runs)
    costs = f"{seconds:.0f} | {speed:,.0f} | {memory / 1e6:.0f} MB"
    return f"| {task} | {mean:.{digits}f} | {bounds} | {seeds} | {costs} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the run folders")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    for task in TASKS:
        print(row(task, [train(task, seed, args.out) for seed in range(args.seeds)]), flush=True)


if __name__ == "__main__":
    main()
