"""One setting, several seeds: what a single training cannot say."""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from poise import envs
from poise.checkpoint import CheckpointError, read_plain
from poise.config import LAST_SEED, Config, ConfigError
from poise.errors import PoiseError
from poise.experiments import tables
from poise.experiments.figures import draw
from poise.experiments.paper import Figure, Panel, Variant
from poise.experiments.pool import Job, run_jobs
from poise.files import write_text
from poise.intervals import mean_interval
from poise.options import Options
from poise.recorder import versions
from poise.run import SEEDS, new_folder, status
from poise.streams import TextOut


class SeedsError(PoiseError):
    """One of several trainings failed; the others are kept."""

    exit_code = 1


@dataclass(frozen=True)
class Runs:
    """Finished trainings: the folder that holds them by seed, and what ``summary.json`` in it says."""

    folder: Path
    summary: dict[str, Any]


def execute_seeds(env: str, config: Config, options: Options, *, num_seeds: int, file: TextOut) -> Runs:
    """Trains with the seeds from ``config.seed`` on, side by side on all cores.

    Leaves ``<out>/<env>/<date>-<first>-<last>/`` with the run folder of each seed, ``curve.png`` (mean and
    95% interval of the mean), the tables it was drawn from, and ``summary.json``.

    Raises:
        ConfigError: there are no such seeds.
        EnvError: the environment cannot be made.
        SeedsError: a training failed; ``log.txt`` in its folder says why.
        PoolError: a process was killed.
    """
    first, last = config.seed, config.seed + num_seeds - 1
    if not first <= last <= LAST_SEED:
        raise ConfigError(f"seeds = {num_seeds}: must be >= 1, and the last of them <= {LAST_SEED}")
    found = envs.resolve(env, options.backend)
    if found.note:
        print(found.note, file=file)
    folder = new_folder(options.out, found.id, f"{first}-{last}")
    plan = {"env": found.id, "seeds": num_seeds, "config": config.to_dict(), "options": options.to_dict()}
    plan["options"]["backend"] = found.backend
    write_text(folder / SEEDS, json.dumps(plan, indent=2) + "\n")
    return _execute(folder, found, config, options, num_seeds, file)


def proceed_seeds(folder: Path, *, env: str | None = None, file: TextOut) -> Runs:
    """Goes on with what ``execute_seeds`` left: what is finished stays, the others go on.

    Raises:
        SeedsError: the folder is damaged, or its environment names a module and ``env`` does not repeat it.
    """
    path = folder / SEEDS
    try:
        plan = json.loads(read_plain(path, 2**20))
        known, num_seeds = plan["env"], plan["seeds"]
        config, options = Config.from_dict(plan["config"]), Options.from_dict(plan["options"])
        if not isinstance(known, str) or not isinstance(num_seeds, int):
            raise ValueError(f"env {known!r}, seeds {num_seeds!r}")
    except (CheckpointError, ConfigError) as error:
        raise SeedsError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SeedsError(f"{path}: is damaged: {error!r:.200}") from error
    if ":" in known and env is None:
        raise SeedsError(f"{folder}: its environment {known!r} names a Python module: add --env {known}")
    if env not in (None, known):
        raise SeedsError(f"{folder}: its environment is {known}, not {env}")
    return _execute(folder, envs.resolve(known, options.backend), config, options, num_seeds, file)


def _execute(
    folder: Path, found: envs.Resolved, config: Config, options: Options, num_seeds: int, file: TextOut
) -> Runs:
    begun = time.perf_counter()
    first, last = config.seed, config.seed + num_seeds - 1
    seeds = range(first, last + 1)
    done: dict[int, dict[str, Any]] = {
        seed: json.loads((folder / str(seed) / "summary.json").read_text())
        for seed in seeds
        if status(folder / str(seed)) == "finished"
    }
    jobs = [
        Job(found.id, dataclasses.replace(config, seed=s), options, folder / str(s))
        for s in seeds
        if s not in done
    ]
    steps = config.num_iterations * config.rollout_size
    print(
        f"{found.id} on {found.backend}: seeds {first} to {last}, {steps:,} steps each", file=file, flush=True
    )

    try:
        for job, result in run_jobs(jobs):
            seed = job.config.seed
            if isinstance(result, PoiseError):
                print(f"seed {seed} failed: {result}", file=file, flush=True)
                continue
            done[seed] = result
            score = result["evaluation"]
            outcome = f"greedy return {score['mean']:.2f}" if score else "trained"
            print(f"seed {seed}: {outcome}, {result['seconds']['total']:.1f} s", file=file, flush=True)
    except KeyboardInterrupt:
        print(f"interrupted; to go on: poise resume {folder}", file=file, flush=True)
        raise
    if done:
        _draw(folder, found.id, sorted(done))
    summary = {
        "env": found.id,
        "backend": found.backend,
        "seeds": sorted(done),
        "steps": steps,
        "status": "finished" if len(done) == num_seeds else "failed",
        "seconds": {"total": time.perf_counter() - begun},
        "evaluation": _evaluation([done[s] for s in sorted(done)]) if options.evaluate and done else None,
        "versions": versions(),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if len(done) < num_seeds:
        raise SeedsError(
            f"{num_seeds - len(done)} of {num_seeds} trainings failed; see log.txt in {folder}/*"
        )
    return Runs(folder, summary)


def _evaluation(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds: each is the mean of one agent's greedy episodes."""
    each = np.array([summary["evaluation"]["mean"] for summary in summaries])
    mean, low, high = (float(v) if np.isfinite(v) else None for v in mean_interval(each))
    return {"mean": mean, "low": low, "high": high, "seeds": len(each), "each": each.tolist()}


def _draw(folder: Path, env: str, seeds: list[int]) -> None:
    curves, episodes = [], []
    for seed in seeds:
        curves += tables.curve_rows(env, seed, folder / str(seed))
        episodes += tables.episode_rows(env, seed, folder / str(seed))
    tables.write_table(folder / "curves.csv", tables.CURVE_COLUMNS, curves)
    line = Variant(env, "mean of the episodes of an iteration", env, {}, "")
    figure = Figure("curve", env, (Panel("", (line,)),), episodes=True)
    dots = tables.as_dots(dict(zip(tables.EPISODE_COLUMNS, row, strict=True)) for row in episodes)
    draw(folder / "curve.png", figure, tables.as_curves(tables.read_table(folder / "curves.csv")), dots)
