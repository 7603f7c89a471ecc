"""The scores of the defaults: the tasks, budgets and seeds of docs/defaults.md, one row of CSV a score.

    .venv/bin/python benchmarks/learning.py learning.csv                       # the defaults, the whole suite
    .venv/bin/python benchmarks/learning.py tries.csv --screen --set ppo.lam=0.9    # one change
    .venv/bin/python benchmarks/learning.py tries.csv --table                  # each against the defaults

Greedy scores: 500 episodes of Pendulum-v1, 100 of the other tasks. If you start the command again, it skips
the rows that the file already has, and resumes interrupted trainings from their checkpoints.
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from poise.agents.agent import load
from poise.errors import PoiseError
from poise.runs.journal import read_greedy
from poise.runs.options import Options
from poise.settings.presets import configure
from poise.studies.pool import Job, run_jobs
from poise.studies.statistics import difference, improvement, interquartile_estimate, mean_estimate
from poise.studies.tables import read_table

COLUMNS = (
    "setting",
    "env",
    "budget",
    "seed",
    "kind",
    "steps",
    "episodes",
    "return",
    "seconds",
    "commit",
    "date",
)
DEFAULTS = "defaults"


@dataclass(frozen=True)
class Part:
    """One task and budget; ``every``: steps between two greedy scores during the training."""

    env: str
    budget: int
    seeds: int
    every: int | None = None

    @property
    def episodes(self) -> int:
        return 500 if self.env.startswith("Pendulum") else 100


SUITE = (
    Part("InvertedPendulum-v4", 8_000, 20),
    Part("InvertedPendulum-v4", 15_000, 20),
    Part("InvertedPendulum-v4", 100_000, 20, every=20_000),
    Part("Reacher-v4", 20_000, 20),
    Part("Reacher-v4", 45_000, 20),
    Part("Reacher-v4", 100_000, 20, every=10_000),
    Part("Pendulum-v1", 15_000, 20),
    Part("Pendulum-v1", 30_000, 20),
    Part("Pendulum-v1", 100_000, 20, every=10_000),
    Part("InvertedPendulum-v4", 1_000_000, 5, every=50_000),
    Part("HalfCheetah-v4", 1_000_000, 5, every=100_000),
    Part("Hopper-v4", 1_000_000, 5, every=100_000),
    Part("Walker2d-v4", 1_000_000, 5, every=100_000),
)
SCREEN = (
    Part("InvertedPendulum-v4", 15_000, 3),
    Part("Reacher-v4", 45_000, 3),
    Part("Reacher-v4", 100_000, 3),
    Part("Pendulum-v1", 30_000, 3),
    Part("Pendulum-v1", 100_000, 3),
    Part("HalfCheetah-v4", 300_000, 3),
)


def run_parts(
    parts: Iterable[Part], setting: str, changes: dict, first: int, table: Path, out: Path, file_commit: str
) -> None:
    """Runs the trainings that the table does not have, and adds their rows."""
    finished = {tuple(row[n] for n in COLUMNS[:4]) for row in read_table(table)} if table.exists() else set()
    jobs: dict[Path, tuple[Part, Job]] = {}
    for part in parts:
        for seed in range(first, first + part.seeds):
            if (setting, part.env, str(part.budget), str(seed)) in finished:
                continue
            id, config = configure(part.env, seed=seed, total_steps=part.budget, **changes)
            scoring = {} if part.every is None else {"eval_every": part.every, "eval_episodes": part.episodes}
            folder = out / setting.replace("/", "-") / f"{part.env}-{part.budget}" / str(seed)
            options = Options(evaluate=False, video=False, **scoring)
            jobs[folder] = part, Job(id, config, options, folder)
    with table.open("a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        if not finished:
            rows.writerow(COLUMNS)
        for job, summary in run_jobs([job for _, job in jobs.values()]):
            if isinstance(summary, PoiseError):
                print(f"{job.folder}: failed: {summary}", flush=True)
                continue
            part, _ = jobs[job.folder]
            score = load(job.folder).evaluate(part.episodes).mean
            training = setting, part.env, part.budget, job.config.seed
            seconds = f"{summary['seconds']['total']:.1f}"
            results = part.episodes, f"{score:.6g}", seconds, file_commit, date.today().isoformat()
            for steps, mean in read_greedy(job.folder):
                rows.writerow((*training, "greedy", steps, part.episodes, f"{mean:.6g}", "", *results[-2:]))
            rows.writerow((*training, "final", summary["steps"], *results))
            file.flush()
            print(f"{setting}  {part.env} {part.budget:,}  seed {job.config.seed}: {score:.2f}", flush=True)


def finals(rows: Iterable[dict]) -> dict[tuple[str, int], dict[str, dict[int, float]]]:
    """Final scores by task and budget, then setting, then seed."""
    scores: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for row in rows:
        if row["kind"] == "final":
            settings = scores.setdefault((row["env"], int(row["budget"])), {})
            settings.setdefault(row["setting"], {})[int(row["seed"])] = float(row["return"])
    return scores


def summary_table(rows: Sequence[dict]) -> list[str]:
    """The defaults: mean and interval over seeds for each task and budget, in Markdown."""
    lines = [
        "| task | budget | seeds | mean greedy return | 95% interval | interquartile mean | lowest |",
        "|---|---|---|---|---|---|---|",
    ]
    for (env, budget), settings in finals(rows).items():
        scores = np.array(list(settings[DEFAULTS].values()))
        mean, low, high, none = mean_estimate(scores)
        middle = interquartile_estimate(scores).value
        bounds = none or f"{low:.1f} to {high:.1f}"
        figures = f"{mean:.1f} | {bounds} | {middle:.1f} | {min(scores):.1f}"
        lines.append(f"| {env} | {budget:,} | {len(scores)} | {figures} |")
    return lines


def change_table(rows: Sequence[dict]) -> list[str]:
    """Each setting against the defaults on the seeds of both: difference of means with Welch's interval."""
    scores = finals(rows)
    settings = list(dict.fromkeys(s for by_setting in scores.values() for s in by_setting if s != DEFAULTS))
    parts = list(scores)
    head = ["change", *(f"{env} {budget // 1000}k" for env, budget in parts), "probability of improvement"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for setting in settings:
        cells, pairs = [], []
        for part in parts:
            default, changed = scores[part].get(DEFAULTS, {}), scores[part].get(setting, {})
            seeds = sorted(default.keys() & changed.keys())
            if not seeds:
                cells.append("")
                continue
            pair = np.array([changed[s] for s in seeds]), np.array([default[s] for s in seeds])
            pairs.append(pair)
            effect = difference(*pair)
            bounds = effect.no_interval or f"{effect.low:+.1f} to {effect.high:+.1f}"
            cells.append(f"{effect.value:+.1f} ({bounds})")
        better = improvement(pairs)
        cells.append(f"{better.value:.2f} ({better.low:.2f} to {better.high:.2f})")
        lines.append("| " + " | ".join([setting, *cells]) + " |")
    return lines


def commit() -> str:
    """The commit of the code that runs; a ``+`` marks uncommitted changes."""
    ask = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run(
        [*ask, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    changed = subprocess.run([*ask, "status", "--porcelain", "src"], capture_output=True, text=True).stdout
    return head + ("+" if changed else "")


def read_value(text: str) -> Any:
    """JSON, or else the text itself: relu, 64x64."""
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path)
    parser.add_argument("--screen", action="store_true", help="the short part of the suite, 3 seeds")
    parser.add_argument("--tasks", nargs="+", help="only these tasks of the suite")
    parser.add_argument("--budgets", nargs="+", type=int, help="only these budgets")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, help="number of seeds, instead of the suite's")
    parser.add_argument("--set", nargs="*", default=[], metavar="GROUP.OPTION=VALUE")
    parser.add_argument("--out", type=Path, default=Path("learning"), help="folder for the run folders")
    parser.add_argument("--table", action="store_true", help="print the tables of the file, run nothing")
    args = parser.parse_args()
    if args.table:
        rows = read_table(args.csv)
        print(*summary_table(rows), "", *change_table(rows), sep="\n")
        return
    changes: dict = {}
    for item in args.set:
        path, value = item.split("=", 1)
        group, _, name = path.rpartition(".")
        (changes.setdefault(group, {}) if group else changes)[name] = read_value(value)
    parts = [
        dataclasses.replace(part, seeds=args.seeds or part.seeds)
        for part in (SCREEN if args.screen else SUITE)
        if (not args.tasks or part.env in args.tasks) and (not args.budgets or part.budget in args.budgets)
    ]
    setting = " ".join(args.set) or DEFAULTS
    run_parts(parts, setting, changes, args.first_seed, args.csv, args.out, commit())


if __name__ == "__main__":
    main()
