"""Several tasks and seeds: trainings side by side, one table of all, and what they say together.

<folder>/<task>/<seed>/    the run folders; <folder>/<seed>/ where there is one task
<folder>/experiment.json   what is to be run, for ``poise resume``
<folder>/results.csv       one row a point: training returns, greedy returns on the way, final scores
<folder>/curve.png         drawn from that table alone
<folder>/summary.json      of each task: mean, interquartile mean, intervals; of one alone also at the top
"""

import dataclasses
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise import envs
from poise.checked import ConfigError
from poise.config import LAST_SEED, Config
from poise.errors import PoiseError, StorageError
from poise.health.diagnosis import diagnose
from poise.runs.folders import new_folder, status
from poise.runs.journal import read_greedy
from poise.runs.options import Options
from poise.runs.presets import PRESETS
from poise.runs.resuming import finished
from poise.runs.session import resolved
from poise.store.claim import claimed
from poise.store.files import FileError, own_folder, read_json, write_text
from poise.studies import tables
from poise.studies.figures import Line, draw_tasks
from poise.studies.pool import Job, check_count, run_jobs
from poise.studies.statistics import (
    Estimate,
    difference,
    improvement,
    interquartile_band,
    interquartile_estimate,
    mean_estimate,
)
from poise.studies.unfinished import EXPERIMENT
from poise.studies.watching import watching
from poise.system import cluster
from poise.system.machine import versions
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.training.groups import refuse_native_shards
from poise.wording import aligned, figure, interval, share

COLUMNS = ("env", "seed", "kind", "steps", "return", "seconds")


class ExperimentError(PoiseError):
    """One of several trainings failed, and the others are kept; or a folder is no experiment."""

    exit_code = 1


@dataclass(frozen=True)
class Experiment:
    """Finished trainings: the folder that holds them, and what ``summary.json`` in it says."""

    folder: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and where to."""

    folder: Path
    found: tuple[envs.Resolved, ...]
    config: Config  # of the first seed
    options: Options
    num_seeds: int
    against: Path | None

    @property
    def seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.num_seeds)

    def run(self, found: envs.Resolved, seed: int) -> Path:
        """The folder of one training."""
        parent = self.folder if len(self.found) == 1 else self.folder / _slug(found.id)
        return parent / str(seed)

    def jobs(self) -> list[Job]:
        """Seed by seed, so that every task has something to show early."""
        return [
            Job(found.id, dataclasses.replace(self.config, seed=seed), self.options, self.run(found, seed))
            for seed in self.seeds
            for found in self.found
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "envs": [found.id for found in self.found],
            "seeds": self.num_seeds,
            "against": None if self.against is None else str(self.against),
            "config": self.config.to_dict(),
            "options": self.options.to_dict(),
        }


def _slug(env: str) -> str:
    return re.sub(r"[^\w.-]+", "-", env)


def execute_experiment(
    ids: Sequence[str],
    config: Config,
    options: Options,
    *,
    num_seeds: int,
    against: Path | None = None,
    name: str = "experiment",
    ray: str | None = None,
    file: TextOut,
) -> Experiment:
    """Trains on each task with the seeds from ``config.seed`` on, side by side on all cores.

    In ``<out>/<name>/<date>-<first>-<last>/``. ``against``: the folder of another experiment, with which the
    final scores are compared on the tasks that both have. ``ray``: the cluster to train on (``run_jobs``).

    Raises:
        ConfigError: there are no such seeds, or no task is named, or one twice, or a preset.
        EnvError: an environment cannot be made.
        ExperimentError: a training failed (``log.txt`` in its folder says why), or ``against`` holds no
            results.
        PoolError: a process was killed.
    """
    first, last = config.seed, config.seed + num_seeds - 1
    check_count("seeds", num_seeds)
    if not first <= last <= LAST_SEED:
        raise ConfigError(f"seeds = {num_seeds}: must be >= 1, and the last of them <= {LAST_SEED}")
    if not ids:
        raise ConfigError("ENV: must be one environment or more, for example Reacher-v4 Pendulum-v1")
    if preset := next((id for id in ids if id in PRESETS), None):
        raise ConfigError(
            f"{preset}: is a preset, with settings of its own: poise train {preset} --seeds {num_seeds}"
        )
    refuse_workers(options)
    cluster.check(ray)
    found = tuple(resolved(id, options.backend) for id in ids)
    if any(f.backend == "native" for f in found):
        refuse_native_shards(config)
    if len({_slug(f.id) for f in found}) < len(found):
        raise ConfigError(f"envs = {' '.join(ids)}: one of them is named twice")
    for note in (f.note for f in found if f.note):
        print(note, file=file)
    if against is not None:
        _scores(against)
    plan = Plan(new_folder(options.out, name, f"{first}-{last}"), found, config, options, num_seeds, against)
    write_text(plan.folder / EXPERIMENT, json.dumps(plan.to_dict(), indent=2) + "\n")
    return _execute(plan, ray, file)


def refuse_workers(options: Options) -> None:
    """Each of several trainings steps its environments itself.

    Raises:
        ConfigError: it is not to.
    """
    if options.workers:
        raise ConfigError(
            f"workers = {options.workers}: are for one training; several trainings are spread with --ray"
        )


def proceed_experiment(
    folder: Path,
    *,
    env: str | None = None,
    against: Path | None = None,
    ray: str | None = None,
    file: TextOut,
) -> Experiment:
    """Goes on with what ``execute_experiment`` left: what is finished stays, the others go on.

    Raises:
        ExperimentError: the folder is damaged, or an environment names a module and ``env`` does not
            repeat it, or it names another experiment and ``against`` does not. And as
            ``execute_experiment``.
    """
    path = folder / EXPERIMENT
    try:
        data = read_json(path)
        known, num_seeds, known_against = data["envs"], data["seeds"], data["against"]
        config, options = Config.from_dict(data["config"]), Options.from_dict(data["options"])
        if not (isinstance(known, list) and known and all(isinstance(id, str) for id in known)):
            raise ValueError(f"envs {known!r:.100}")
        if not isinstance(num_seeds, int):
            raise ValueError(f"seeds {num_seeds!r:.100}")
        check_count("seeds", num_seeds)
        if not isinstance(known_against, str | None):
            raise ValueError(f"against {known_against!r:.100}")
    except (FileError, ConfigError) as error:
        raise ExperimentError(str(error) if isinstance(error, FileError) else f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExperimentError(f"{path}: is damaged: {error!r:.200}") from error
    for id in known:
        if ":" in id and env != id:
            add = f"add --env {shlex.quote(id)}"
            raise ExperimentError(f"{folder}: its environment {id!r} names a Python module: {add}")
    if env is not None and env not in known:
        raise ExperimentError(f"{folder}: its environments are {', '.join(known)}, not {env}")
    _check_against(folder, known_against, against)
    found = tuple(resolved(id, options.backend) for id in known)
    plan = Plan(folder, found, config, options, num_seeds, against)
    return _execute(plan, ray, file)


def _check_against(folder: Path, known: str | None, given: Path | None) -> None:
    """A folder alone never has another one read.

    Raises:
        ExperimentError: names what is to be repeated.
    """
    if known is None and given is not None:
        raise ExperimentError(f"{folder}: is compared with no other experiment: leave out --against")
    if known is not None and (given is None or given.absolute() != Path(known).absolute()):
        again = f"poise resume {shlex.quote(str(folder))} --against {shlex.quote(known)}"
        raise ExperimentError(f"{folder}: is compared with another; to read that, repeat it: {again}")


def _execute(plan: Plan, ray: str | None, file: TextOut) -> Experiment:
    with claimed(plan.folder):
        return _execute_claimed(plan, ray, file)
    raise AssertionError


def _execute_claimed(plan: Plan, ray: str | None, file: TextOut) -> Experiment:
    begun = time.perf_counter()
    config, folder, seeds = plan.config, plan.folder, plan.seeds
    steps = config.num_iterations * config.rollout_size
    names = ", ".join(f"{found.id} on {found.backend}" for found in plan.found)
    print(f"{names}: seeds {seeds[0]} to {seeds[-1]}, {steps:,} steps each", file=file, flush=True)

    def name(job: Job) -> str:
        return f"{job.env}, seed {job.config.seed}" if len(plan.found) > 1 else f"seed {job.config.seed}"

    jobs = plan.jobs()
    done = _run(jobs, folder, name, ray, file)
    rows: list[Sequence[Any]] = []
    for found in plan.found:
        for seed in seeds:
            if (run := plan.run(found, seed)) in done:
                rows += result_rows(found.id, seed, run, done[run])
    tables.write_table(folder / "results.csv", COLUMNS, rows)
    summary: dict[str, Any] = {
        "status": "finished" if len(done) == len(jobs) else "failed",
        "seeds": list(seeds),
        "steps": steps,
        "tasks": {f.id: _outcome(plan, f, done) for f in plan.found},
        "against": None if plan.against is None else compared(folder, plan.against),
        "seconds": {"total": time.perf_counter() - begun},
        "versions": versions(),
    }
    if len(plan.found) == 1:
        summary = {"env": plan.found[0].id, **summary, **summary["tasks"][plan.found[0].id]}
    if rows:
        draw_results(folder, plan.against)
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    if len(done) < len(jobs):
        missing = len(jobs) - len(done)
        raise ExperimentError(f"{missing} of {len(jobs)} trainings failed; see the log.txt files in {folder}")
    return Experiment(folder, summary)


def _run(
    jobs: Sequence[Job], folder: Path, name: Callable[[Job], str], ray: str | None, file: TextOut
) -> dict[Path, dict[str, Any]]:
    """Runs all that is not finished under ``folder``; the summaries of those that are then, by their folders.

    A training that fails leaves the others alone. ``name``: of a training, as it is shown.

    Raises:
        PoolError: a process was killed.
        StorageError: the disk is full.
    """
    full = False
    for job in jobs:
        own_folder(folder, job.folder)
    done = {job.folder: summary for job in jobs if (summary := _finished(job, file)) is not None}
    missing = [job for job in jobs if job.folder not in done]
    if done:
        print(f"{len(done)} of {len(jobs)} are finished already", file=file, flush=True)
    try:
        with watching(file, name) as watch:
            for job, result in run_jobs(missing, ray, watch.say, watch.look):
                if isinstance(result, PoiseError):
                    watch.say(f"{name(job)} failed: {result}")
                    full = full or isinstance(result, StorageError)
                    continue
                done[job.folder] = result
                score = result["evaluation"]
                outcome = f"greedy return {score['mean']:.2f}" if score else "trained"
                seconds = f"{result['seconds']['total']:.1f} s"
                sick = [finding.rule for finding in diagnose(job.folder)]
                watch.say(f"{name(job)}: {', '.join([outcome, seconds, *sick])}")
    except (KeyboardInterrupt, cluster.LostCluster) as error:
        ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        print(f"{ended}; to resume: {_again(folder, ray)}", file=file, flush=True)
        raise
    if full:
        raise StorageError(f"{folder}: the disk is full; make room, then: {_again(folder, ray)}")
    return done


def _again(folder: Path, ray: str | None) -> str:
    """The command that goes on."""
    against = read_json(folder / EXPERIMENT)["against"]
    repeated = f" --against {shlex.quote(against)}" if against else ""
    return f"poise resume {shlex.quote(str(folder))}{repeated}{cluster.typed(ray)}"


def _finished(job: Job, file: TextOut) -> dict[str, Any] | None:
    """The summary of what the job is to do, where that is done."""
    found = resolved(job.env, job.options.backend)
    summary = finished(job.folder, found, job.config, job.options)
    if summary is None and status(job.folder) == "finished":
        print(f"{job.folder}: holds a finished training with another configuration or seed", file=file)
    return summary


def _outcome(plan: Plan, found: envs.Resolved, done: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    """Of one task, over the seeds that are finished; each is the mean of one agent's greedy episodes."""
    scores = [
        summary["evaluation"]["mean"]
        for seed in plan.seeds
        if (summary := done.get(plan.run(found, seed))) and summary["evaluation"]
    ]
    return {"backend": found.backend, "evaluation": evaluation(np.array(scores)) if scores else None}


def evaluation(each: Float[np.ndarray, " seeds"]) -> dict[str, Any]:
    """Mean and interquartile mean over seeds, each with its interval."""
    mean = plain(mean_estimate(each))
    return {
        "mean": mean.pop("value"),
        **mean,
        "iqm": plain(interquartile_estimate(each)),
        "seeds": len(each),
        "each": each.tolist(),
    }


def plain(estimate: Estimate) -> dict[str, Any]:
    """As JSON: without an interval the bounds are None, and ``no_interval`` says why."""
    low, high = (bound if np.isfinite(bound) else None for bound in (estimate.low, estimate.high))
    return {**estimate._asdict(), "low": low, "high": high}


def result_rows(env: str, seed: int, run: Path, summary: Mapping[str, Any]) -> list[Sequence[Any]]:
    """Of one finished run, its rows of COLUMNS."""
    rows: list[Sequence[Any]] = [
        (env, seed, "training", row[2], row[3], "") for row in tables.curve_rows(env, seed, run)
    ]
    rows += [(env, seed, "greedy", steps, f"{mean:.6g}", "") for steps, mean in read_greedy(run)]
    if score := summary["evaluation"]:
        seconds = f"{summary['seconds']['total']:.1f}"
        rows.append((env, seed, "final", summary["steps"], f"{score['mean']:.6g}", seconds))
    return rows


def read_results(folder: Path) -> list[tables.Row]:
    """The rows of ``results.csv`` of an experiment, whose numbers are numbers.

    Raises:
        ExperimentError: the table is missing or damaged.
    """
    try:
        rows = tables.read_table(folder / "results.csv")
        for number, row in enumerate(rows, start=1):
            numbers = [float(row["steps"]), float(row["return"] or 0)]
            if (row["kind"] == "final" and not row["return"]) or not np.isfinite(numbers).all():
                raise ValueError(f"row {number:,}: a number that is not finite")
    except FileError as error:
        raise ExperimentError(f"{folder}: holds no results of an experiment: {error}") from error
    except (ValueError, KeyError) as error:
        raise ExperimentError(f"{folder}: holds no results of an experiment: {error!r:.200}") from error
    return rows


def _scores(folder: Path) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The final scores of each task of an experiment.

    Raises:
        ExperimentError: it holds none.
    """
    found: dict[str, list[float]] = {}
    for row in read_results(folder):
        if row["kind"] == "final":
            found.setdefault(row["env"], []).append(float(row["return"]))
    if not found:
        raise ExperimentError(f"{folder}: holds no final scores of an experiment")
    return {env: np.array(scores) for env, scores in found.items()}


def compared(folder: Path, against: Path) -> dict[str, Any]:
    """Difference and probability of improvement, ``folder`` over ``against``, on the tasks of both."""
    mine, theirs = _scores(folder), _scores(against)
    common = [env for env in mine if env in theirs]
    if not common:
        raise ExperimentError(f"{against}: has none of the tasks {', '.join(mine)}")

    return {
        "folder": str(against),
        "tasks": {
            env: {
                "difference": plain(difference(mine[env], theirs[env])),
                "improvement": plain(improvement([(mine[env], theirs[env])])),
            }
            for env in common
        },
        "improvement": plain(improvement([(mine[env], theirs[env]) for env in common])),
    }


def draw_results(folder: Path, against: Path | None = None) -> None:
    """``curve.png``, from ``results.csv`` alone: a panel for each task."""
    panels: dict[str, list[Line]] = {}
    places = [(folder, "")] if against is None else [(folder, ""), (against, f" ({against.name})")]
    for place, suffix in places:
        rows = read_results(place)
        for env in dict.fromkeys(row["env"] for row in rows):
            if place != folder and env not in panels:
                continue
            mine = [row for row in rows if row["env"] == env]
            panels.setdefault(env, []).extend(_lines(mine, suffix))
    count = len({row["seed"] for row in tables.read_table(folder / "results.csv")})
    draw_tasks(folder / "curve.png", panels, count)


def _lines(rows: Iterable[tables.Row], suffix: str) -> list[Line]:
    """The curves of one task: sampled actions while training, and greedy ones where there are."""
    labels = {"training": "training, sampled actions", "greedy": "greedy, while training"}
    lines = []
    for kind, label in labels.items():
        seeds: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row["kind"] == kind:
                point = float(row["steps"]), float(row["return"] or "nan")
                seeds.setdefault(row["seed"], []).append(point)
        if seeds:
            most = max(map(len, seeds.values()))
            whole = np.array(
                [points for points in seeds.values() if len(points) == most]
            )  # [seeds, points, 2]
            steps, values = whole[0, :, 0], tables.held(whole[:, :, 1])
            lines.append(Line(label + suffix, steps, *interquartile_band(values), dashed=kind == "greedy"))
    return lines


def report(summary: Mapping[str, Any]) -> list[str]:
    """What ``summary.json`` says, as lines for people."""
    table: list[tuple[str, ...]] = [
        ("task", "seeds", "mean", "95% interval", "interquartile mean", "95% interval")
    ]
    for env, task in summary["tasks"].items():
        if score := task["evaluation"]:
            iqm = score["iqm"]
            bounds = [interval(s) for s in (score, iqm)]
            table.append(
                (
                    env,
                    str(score["seeds"]),
                    figure(score["mean"]),
                    bounds[0],
                    figure(iqm["value"]),
                    bounds[1],
                )
            )
    lines = aligned(table) if len(table) > 1 else []
    if against := summary["against"]:
        rows = [("task", "difference of means", "95% interval", "probability of improvement", "95% interval")]
        for env, found in against["tasks"].items():
            d = found["difference"]
            rows.append((env, figure(d["value"]), interval(d), *share(found["improvement"])))
        if len(against["tasks"]) > 1:
            rows.append(("all", "", "", *share(against["improvement"])))
        lines += ["", f"against {against['folder']}:", *aligned(rows)]
    return lines
