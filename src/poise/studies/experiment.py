"""Several tasks and seeds: trainings side by side, one table of their results, and statistics over seeds.

<folder>/<task>/<seed>/    the run folders; <folder>/<seed>/ with a single task
<folder>/experiment.json   the plan, for ``poise resume``
<folder>/results.csv       one row for each point: training returns, greedy returns on the way, final scores
<folder>/curve.png         drawn from that table alone
<folder>/summary.json      for each task: mean, interquartile mean, intervals; a single task also at the top
"""

import dataclasses
import itertools
import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise import envs
from poise.checked import ConfigError
from poise.config import LAST_SEED, Config
from poise.envs.naming import reaches_outside, refuse_in_processes
from poise.errors import PoiseError, StorageError
from poise.health.diagnosis import diagnose
from poise.own.naming import check_networks, import_named
from poise.own.network import import_networks
from poise.placement import device
from poise.runs.curve import CURVE
from poise.runs.folders import new_folder, slug, status
from poise.runs.journal import read_greedy
from poise.runs.options import Options
from poise.runs.resuming import finished
from poise.runs.session import resolved
from poise.runs.starting.initial import pinned
from poise.runs.starting.repeating import ALL, NOTHING_REPEATED, Repeated, check_repeated, typed_again
from poise.settings.presets import PRESETS
from poise.spec import IN_JAX
from poise.store.claim import claimed
from poise.store.files import FileError, own_folder, read_json, write_text
from poise.studies import tables
from poise.studies.batch import batches, each_outcome, jobs_of
from poise.studies.figures import Line, draw_tasks
from poise.studies.pool import Job, check_count, run_jobs
from poise.studies.results import Experiment, evaluation, plain
from poise.studies.statistics import (
    difference,
    improvement,
    interquartile_band,
)
from poise.studies.unfinished import EXPERIMENT
from poise.studies.watching import watching
from poise.system import cluster
from poise.system.machine import versions
from poise.system.streams import TextOut
from poise.system.terminal import print
from poise.training.groups import check_native_groups, check_together
from poise.wording import counted, figure

MOST_TOGETHER = 64  # seeds that one program trains, where the user has not chosen a number
COLUMNS = ("env", "seed", "kind", "steps", "return", "seconds")


class ExperimentError(PoiseError):
    """One of several trainings failed (the others are kept), or a folder is not that of an experiment."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """The trainings of an experiment, and their folder.

    Attributes:
        config: of the first seed.
        against: the folder of another experiment, to compare the final scores with.
    """

    folder: Path
    tasks: tuple[envs.Resolved, ...]
    config: Config
    options: Options
    num_seeds: int
    against: Path | None = None

    @property
    def seeds(self) -> range:
        return range(self.config.seed, self.config.seed + self.num_seeds)

    def run(self, task: envs.Resolved, seed: int) -> Path:
        """The folder of one training."""
        parent = self.folder if len(self.tasks) == 1 else self.folder / slug(task.id)
        return parent / str(seed)

    def jobs(self) -> list[Job]:
        """All trainings, seed by seed, so that every task has results early."""
        alone = dataclasses.replace(self.options, together=1)
        return [
            Job(
                task.id,
                dataclasses.replace(self.config, seed=seed),
                self.options if task.backend in IN_JAX else alone,
                self.run(task, seed),
            )
            for seed in self.seeds
            for task in self.tasks
        ]

    def name(self, job: Job) -> str:
        """The name under which the progress of a training is shown."""
        seed = f"seed {job.config.seed}"
        return f"{job.env}, {seed}" if len(self.tasks) > 1 else seed

    def to_dict(self) -> dict[str, Any]:
        """The content of ``experiment.json``."""
        return {
            "envs": [task.id for task in self.tasks],
            "seeds": self.num_seeds,
            "against": None if self.against is None else str(self.against),
            "config": self.config.to_dict(),
            "options": self.options.to_dict(),
        }


def execute_experiment(
    ids: Sequence[str],
    config: Config,
    options: Options,
    *,
    num_seeds: int,
    against: Path | None = None,
    ray: str | None = None,
    file: TextOut,
) -> Experiment:
    """Trains on each task with ``num_seeds`` consecutive seeds from ``config.seed`` on, side by side on all
    cores, in ``<out>/experiment/<date>-<first>-<last>/``.

    Args:
        against: the folder of another experiment; the final scores are compared on the tasks of both.
        ray: the cluster to train on (``pool.run_jobs``).
        file: where progress is shown.

    Raises:
        ConfigError: the seeds are out of range, or no task is named, or one twice, or a preset.
        EnvError: an environment cannot be made.
        ExperimentError: a training failed (see ``log.txt`` in its folder), or ``against`` has no results.
        PoolError: a process was killed.
    """
    if preset := next((id for id in ids if id in PRESETS), None):
        raise ConfigError(
            f"{preset}: is a preset, with its own settings; use poise train {preset} --seeds {num_seeds}"
        )
    if not ids:
        raise ConfigError("ENV: must be one environment or more, for example Reacher-v4 Pendulum-v1")
    on_gpu, config = _prepare(config, options, ray), pinned(config)
    tasks = _tasks(ids, config, options, num_seeds, file)
    options = _with_lanes(options, config, tasks, num_seeds, on_gpu=on_gpu, ray=ray)
    if against is not None:
        _scores(against)  # fails here rather than after all trainings
    seeds = f"{config.seed}-{config.seed + num_seeds - 1}"
    folder = new_folder(options.out, "experiment", seeds, options.name)
    return _start(Plan(folder, tasks, config, options, num_seeds, against), ray, file)


def execute_seeds(
    id: str, config: Config, options: Options, *, num_seeds: int, ray: str | None = None, file: TextOut
) -> Experiment:
    """``execute_experiment`` with a single task, in ``<out>/<id>/<date>-<first>-<last>/``."""
    on_gpu, config = _prepare(config, options, ray), pinned(config)
    tasks = _tasks([id], config, options, num_seeds, file)
    options = _with_lanes(options, config, tasks, num_seeds, on_gpu=on_gpu, ray=ray)
    folder = new_folder(options.out, id, f"{config.seed}-{config.seed + num_seeds - 1}", options.name)
    return _start(Plan(folder, tasks, config, options, num_seeds), ray, file)


def _prepare(config: Config, options: Options, ray: str | None) -> bool:
    """Checks where the trainings will run, and keeps this process off the GPU that they may need.

    Returns whether they will use a GPU of this machine.

    Raises:
        ConfigError, PlatformError: they cannot run there, or a network of the user cannot be imported.
    """
    cluster.check(ray)
    if ray is None:
        device.check_many(options.device, options.matmul_precision)
    on_gpu = ray is None and device.many_on_gpu(options.device)
    device.keep_off_gpu()
    import_networks(config)
    return on_gpu


def _with_lanes(
    options: Options,
    config: Config,
    tasks: Sequence[envs.Resolved],
    num_seeds: int,
    *,
    on_gpu: bool,
    ray: str | None,
) -> Options:
    """The options with the number of seeds that one program trains.

    A GPU has room for many; on a CPU a program computes on one core, and processes side by side are faster.

    Raises:
        ConfigError: the number that the user chose is not possible.
    """
    together = options.together
    if together is None:
        has_one = on_gpu and config.env_groups == options.devices == 1
        some = has_one and any(task.backend in IN_JAX for task in tasks)
        return dataclasses.replace(options, together=min(num_seeds, MOST_TOGETHER) if some else 1)
    check_together(together, config)
    if together > num_seeds:
        raise ConfigError(f"together = {together}: must be <= {num_seeds}, the number of seeds")
    if together > 1 and ray is not None:
        raise ConfigError(
            f"together = {together}: must be 1 with --ray, where each training is a process of its own"
        )
    return options


def _tasks(
    ids: Sequence[str], config: Config, options: Options, num_seeds: int, file: TextOut
) -> tuple[envs.Resolved, ...]:
    """The environments and backends of an experiment, whose settings are checked.

    Raises:
        ConfigError, EnvError: as ``execute_experiment``.
    """
    check_count("seeds", num_seeds)
    if config.seed + num_seeds - 1 > LAST_SEED:
        raise ConfigError(f"seeds = {num_seeds}: the last seed must be <= {LAST_SEED}")
    refuse_workers(options)
    options.refuse_single("an experiment")
    tasks = tuple(resolved(id, options.backend) for id in ids)
    for task in tasks:
        options.check_against(task.backend)
        refuse_in_processes(task.id, "an experiment")
    in_jax = {task.backend in IN_JAX for task in tasks}
    if True in in_jax:
        check_native_groups(config)
    if len(in_jax) > 1 and config.env_groups > 1:
        raise ConfigError(
            f"env_groups = {config.env_groups}: for environments in JAX it also sets the threads of a "
            "process, which tasks on other backends share; train them in an experiment of their own"
        )
    if len({slug(task.id) for task in tasks}) < len(tasks):
        raise ConfigError(f"ENV = {' '.join(ids)}: an environment is named twice")
    for note in (task.note for task in tasks if task.note):
        print(note, file=file)
    return tasks


def _start(plan: Plan, ray: str | None, file: TextOut) -> Experiment:
    write_text(plan.folder / EXPERIMENT, json.dumps(plan.to_dict(), indent=2) + "\n")
    return _execute(plan, ray, file)


def refuse_together(options: Options) -> None:
    """Refuses ``together``: the trainings of a trial may be stopped, one after another.

    Raises:
        ConfigError: it is more than 1.
    """
    if (options.together or 1) > 1:
        raise ConfigError(
            f"together = {options.together}: must be 1 in a sweep, whose trials train their seeds in turn"
        )


def refuse_workers(options: Options) -> None:
    """Refuses ``workers``: each of several trainings steps its environments itself.

    Raises:
        ConfigError: it is not 0.
    """
    if options.workers:
        raise ConfigError(
            f"workers = {options.workers}: is for a single training; use --ray to spread several trainings"
        )


def proceed_experiment(
    folder: Path,
    *,
    env: str | None = None,
    network: Sequence[str] = (),
    against: Path | None = None,
    repeated: Repeated = NOTHING_REPEATED,
    ray: str | None = None,
    file: TextOut,
) -> Experiment:
    """Resumes an interrupted experiment: trains what is not finished.

    Raises:
        ExperimentError: the folder is damaged, or an environment names a module and ``env`` does not
            repeat it, or it names another experiment and ``against`` does not repeat that. And as
            ``execute_experiment``.
        RunError: it names what trainings start from or a curriculum, and ``repeated`` does not repeat it.
        ConfigError: it has a network of the user that ``network`` does not repeat.
    """
    import_named(network)
    ids, plan = _read_plan(folder)
    for id in ids:
        if (why := reaches_outside(id)) and env != id:
            add = f"add --env {shlex.quote(id)}"
            raise ExperimentError(f"{folder}: its environment {id!r} {why}, {add}")
    if env is not None and env not in ids:
        raise ExperimentError(f"{folder}: its environments are {', '.join(ids)}, not {env}")
    check_networks(network, plan.config.own_networks, folder)
    _check_against(folder, plan.against, against)
    check_repeated(folder, plan.config, repeated, needed=ALL)
    device.keep_off_gpu()
    tasks = tuple(resolved(id, plan.options.backend) for id in ids)
    return _execute(dataclasses.replace(plan, tasks=tasks, against=against), ray, file)


def _read_plan(folder: Path) -> tuple[list[str], Plan]:
    """The environments that ``experiment.json`` names, and the plan without tasks.

    Raises:
        ExperimentError: the file is missing or damaged.
    """
    path = folder / EXPERIMENT
    try:
        data = read_json(path)
        ids, num_seeds, against = data["envs"], data["seeds"], data["against"]
        config, options = Config.from_dict(data["config"]), Options.from_dict(data["options"])
        if not (isinstance(ids, list) and ids and all(isinstance(id, str) for id in ids)):
            raise ValueError(f"envs {ids!r:.100}")
        if not isinstance(num_seeds, int):
            raise ValueError(f"seeds {num_seeds!r:.100}")
        check_count("seeds", num_seeds)
        if not isinstance(against, str | None):
            raise ValueError(f"against {against!r:.100}")
    except (FileError, ConfigError) as error:
        raise ExperimentError(str(error) if isinstance(error, FileError) else f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExperimentError(f"{path}: is damaged: {error!r:.200}") from error
    return ids, Plan(folder, (), config, options, num_seeds, None if against is None else Path(against))


def _check_against(folder: Path, stored: Path | None, repeated: Path | None) -> None:
    """Checks that the user repeats the other experiment: a folder alone never makes poise read another.

    Raises:
        ExperimentError: names what has to be repeated.
    """
    if stored is None and repeated is not None:
        raise ExperimentError(f"{folder}: is not compared with another experiment: leave out --against")
    if stored is not None and (repeated is None or repeated.absolute() != stored.absolute()):
        command = f"poise resume {shlex.quote(str(folder))} --against {shlex.quote(str(stored))}"
        raise ExperimentError(
            f"{folder}: is compared with another experiment; to read that, repeat its folder: {command}"
        )


def _execute(plan: Plan, ray: str | None, file: TextOut) -> Experiment:
    with claimed(plan.folder):
        return _execute_claimed(plan, ray, file)
    raise AssertionError


def _execute_claimed(plan: Plan, ray: str | None, file: TextOut) -> Experiment:
    start = time.perf_counter()
    config, folder, seeds = plan.config, plan.folder, plan.seeds
    steps = config.num_iterations * config.rollout_size
    names = ", ".join(f"{task.id} on {task.backend}" for task in plan.tasks)
    span = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    together = plan.options.together or 1
    program = f", {together} in one program" if together > 1 else ""
    print(f"{names}: {span}{program}, {steps:,} steps each", file=file, flush=True)
    num_jobs = len(plan.jobs())
    summaries = _run(plan, ray, file)
    rows: list[Sequence[Any]] = []
    for task in plan.tasks:
        for seed in seeds:
            if (run := plan.run(task, seed)) in summaries:
                rows += result_rows(task.id, seed, run, summaries[run])
    tables.write_table(folder / "results.csv", COLUMNS, rows)
    summary: dict[str, Any] = {
        "status": "finished" if len(summaries) == num_jobs else "failed",
        "seeds": list(seeds),
        "steps": steps,
        "tasks": {task.id: _outcome(plan, task, summaries) for task in plan.tasks},
        "against": None if plan.against is None else compared(folder, plan.against),
        "seconds": {"total": time.perf_counter() - start},
        "versions": versions(),
    }
    if len(plan.tasks) == 1:
        (task,) = plan.tasks
        summary = {"env": task.id, **summary, **summary["tasks"][task.id]}
    if rows:
        draw_results(folder, plan.against)
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    if (num_failed := num_jobs - len(summaries)) > 0:
        total = counted(num_jobs, "training")
        raise ExperimentError(f"{num_failed} of {total} failed; see the log.txt files in {folder}")
    return Experiment(folder, summary)


def _run(plan: Plan, ray: str | None, file: TextOut) -> dict[Path, dict[str, Any]]:
    """Runs the trainings that are not finished; returns the summaries of all that are then, by folder.

    A training that fails does not stop the others.

    Raises:
        PoolError: a process was killed.
        StorageError: the disk is full.
    """
    jobs, folder = plan.jobs(), plan.folder
    for job in jobs:
        own_folder(folder, job.folder)
    summaries = {job.folder: summary for job in jobs if (summary := _finished(job, file)) is not None}
    missing = [job for job in jobs if job.folder not in summaries]
    if summaries:
        count = f"{len(summaries)} of {counted(len(jobs), 'training')}"
        print(f"already finished: {count}", file=file, flush=True)
    outcomes: dict[Path, dict[str, Any] | PoiseError] = {}
    try:
        with watching(file, plan.name) as watch:
            works = run_jobs(batches(missing), ray, watch.say, lambda left: watch.look(jobs_of(left)))
            for job, outcome in itertools.chain.from_iterable(itertools.starmap(each_outcome, works)):
                watch.say(f"{plan.name(job)}{_outcome_line(job, outcome)}")
                outcomes[job.folder] = outcome
    except (KeyboardInterrupt, cluster.LostCluster) as error:
        ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        print(f"{ended}; to resume: {_resume_command(folder, ray)}", file=file, flush=True)
        raise
    if any(isinstance(outcome, StorageError) for outcome in outcomes.values()):
        raise StorageError(f"{folder}: the disk is full; make room, then: {_resume_command(folder, ray)}")
    new = {run: outcome for run, outcome in outcomes.items() if not isinstance(outcome, PoiseError)}
    return summaries | new


def _outcome_line(job: Job, outcome: dict[str, Any] | PoiseError) -> str:
    """The score, the duration and the findings of a training, or its error; follows the training's name."""
    if isinstance(outcome, PoiseError):
        return f" failed: {outcome}"
    score = outcome["evaluation"]
    result = f"greedy return {figure(score['mean'])}" if score else "trained"
    seconds = f"{outcome['seconds']['total']:.1f} s"
    findings = [finding.rule for finding in diagnose(job.folder)]
    return f": {', '.join([result, seconds, *findings])}"


def _resume_command(folder: Path, ray: str | None) -> str:
    """The command that resumes the experiment."""
    plan = read_json(folder / EXPERIMENT)
    repeated = f" --against {shlex.quote(plan['against'])}" if plan["against"] else ""
    repeated += typed_again(Config.from_dict(plan["config"]))
    return f"poise resume {shlex.quote(str(folder))}{repeated}{cluster.typed(ray)}"


def _finished(job: Job, file: TextOut) -> dict[str, Any] | None:
    """The summary of a training that is finished; otherwise None."""
    task = resolved(job.env, job.options.backend)
    summary = finished(job.folder, task, job.config, job.options)
    if summary is None and status(job.folder) == "finished":
        print(f"{job.folder}: holds a finished training with another configuration or seed", file=file)
    return summary


def _outcome(plan: Plan, task: envs.Resolved, summaries: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    """The score of one task over the finished seeds; that of a seed is the mean of its greedy episodes."""
    scores = [
        summary["evaluation"]["mean"]
        for seed in plan.seeds
        if (summary := summaries.get(plan.run(task, seed))) and summary["evaluation"]
    ]
    return {"backend": task.backend, "evaluation": evaluation(np.array(scores)) if scores else None}


def result_rows(env: str, seed: int, run: Path, summary: Mapping[str, Any]) -> list[Sequence[Any]]:
    """The rows of ``results.csv``, with COLUMNS, for one finished run."""
    rows: list[Sequence[Any]] = [
        (env, seed, "training", row[2], row[3], "") for row in tables.curve_rows(env, seed, run)
    ]
    rows += [(env, seed, "greedy", steps, f"{mean:.6g}", "") for steps, mean in read_greedy(run)]
    if score := summary["evaluation"]:
        seconds = f"{summary['seconds']['total']:.1f}"
        rows.append((env, seed, "final", summary["steps"], f"{score['mean']:.6g}", seconds))
    return rows


def read_results(folder: Path) -> list[tables.Row]:
    """The rows of ``results.csv`` of an experiment. Their numbers are finite.

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
        raise ExperimentError(f"{folder}: has no results of an experiment: {error}") from error
    except (ValueError, KeyError) as error:
        raise ExperimentError(f"{folder}: has no results of an experiment: {error!r:.200}") from error
    return rows


def _scores(folder: Path) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The final scores of each task of an experiment.

    Raises:
        ExperimentError: it has none.
    """
    scores: dict[str, list[float]] = {}
    for row in read_results(folder):
        if row["kind"] == "final":
            scores.setdefault(row["env"], []).append(float(row["return"]))
    if not scores:
        raise ExperimentError(f"{folder}: has no final scores of an experiment")
    return {env: np.array(each) for env, each in scores.items()}


def compared(folder: Path, against: Path) -> dict[str, Any]:
    """Difference and probability of improvement, ``folder`` over ``against``, on the tasks of both.

    Raises:
        ExperimentError: they have no task in common, or one of them has no scores.
    """
    new, old = _scores(folder), _scores(against)
    common = [env for env in new if env in old]
    if not common:
        raise ExperimentError(f"{against}: has none of the tasks {', '.join(new)}")
    return {
        "folder": str(against),
        "tasks": {
            env: {
                "difference": plain(difference(new[env], old[env])),
                "improvement": plain(improvement([(new[env], old[env])])),
            }
            for env in common
        },
        "improvement": plain(improvement([(new[env], old[env]) for env in common])),
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
            of_task = [row for row in rows if row["env"] == env]
            panels.setdefault(env, []).extend(_lines(of_task, suffix))
    count = len({row["seed"] for row in tables.read_table(folder / "results.csv")})
    draw_tasks(folder / CURVE, panels, count)


def _lines(rows: Iterable[tables.Row], suffix: str) -> list[Line]:
    """The curves of one task: training returns, and greedy returns if any were measured."""
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
            curves = np.array(
                [points for points in seeds.values() if len(points) == most]
            )  # [seeds, points, 2]
            steps, values = curves[0, :, 0], tables.held(curves[:, :, 1])
            lines.append(Line(label + suffix, steps, *interquartile_band(values), dashed=kind == "greedy"))
    return lines
