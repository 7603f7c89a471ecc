"""``poise sweep``: settings searched for one task, and whether the best of them beats the defaults.

<folder>/sweep.json        what is to be done, for ``poise resume``
<folder>/journal.log       the trials, in Optuna's journal; or in the storage that was named
<folder>/trials/<number>/  result.json, log.txt and the run folders of its seeds
<folder>/winner/<seed>/    the best setting on seeds that no choice was made on
<folder>/default/<seed>/   the defaults on the same
<folder>/trials.csv        one row a trial
<folder>/summary.json      all of it; report.html is written from it and from the run folders

The result is a function of the configuration, whatever the number of cores and however often it was stopped:
trials are drawn in batches, and what is known of earlier batches alone decides (``study.Ledger``).
"""

import dataclasses
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from poise import envs
from poise.checked import ConfigError
from poise.config import LAST_SEED, Config
from poise.envs.checking import EnvFault
from poise.errors import PoiseError, TrainingError
from poise.runs.folders import new_folder, same_directory, status
from poise.runs.options import Options
from poise.runs.presets import PRESETS
from poise.runs.records import Record, read_record
from poise.runs.resuming import finished
from poise.runs.session import resolved
from poise.store.claim import LOCK, claimed
from poise.store.files import FileError, own_folder, read_json, write_text
from poise.studies import tables
from poise.studies.comparison import compare_settings, grouped, pair_as_json
from poise.studies.experiment import evaluation, plain, refuse_workers
from poise.studies.pool import MOST_SEEDS, Job, Work, run_jobs
from poise.studies.statistics import interquartile_estimate
from poise.studies.sweep.page import shown, write_page
from poise.studies.sweep.space import Dimension, Space, applied, make_space
from poise.studies.sweep.study import (
    JOURNAL,
    Ledger,
    StudyError,
    Tried,
    masked,
    new_owner,
    require_optuna,
)
from poise.studies.sweep.trial import Result, Trial, read_result
from poise.studies.unfinished import SWEEP
from poise.studies.watching import watching
from poise.system import cluster
from poise.system.machine import versions
from poise.system.streams import TextOut
from poise.system.terminal import print, typed
from poise.training.groups import refuse_native_shards
from poise.wording import aligned, figure, interval

FEWEST_SEEDS, FEWEST_FINAL = 3, 2
RUNGS = range(3, 10)  # tenths of the budget at which a trial is looked at
OWN_FAULT = (TrainingError, ConfigError, EnvFault)  # what a setting can be blamed for
LISTED = 5  # best trials that are shown at the end
DEFAULT = "the default"


class SweepError(PoiseError):
    """A sweep that has no result, or a folder that holds none."""

    exit_code = 1


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: its folder, and what ``summary.json`` in it says."""

    folder: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be searched, and where to.

    Attributes:
        config: of the first seed, before anything is drawn.
        storage: the URL of a storage that several processes share; None: the journal in the folder.
        owner: of the trials that are trained in this folder.
    """

    folder: Path
    found: envs.Resolved
    config: Config
    options: Options
    space: Space
    num_trials: int
    num_seeds: int
    final_seeds: int
    at_once: int
    prune: bool
    storage: str | None
    study: str
    owner: str

    @property
    def rungs(self) -> tuple[int, ...]:
        """Environment steps."""
        return tuple(self.config.total_steps * tenth // 10 for tenth in RUNGS) if self.prune else ()

    @property
    def fresh(self) -> range:
        """The seeds of the last judgement, which no trial was trained with."""
        first = self.config.seed + self.num_seeds
        return range(first, first + self.final_seeds)

    def settings(self, trial: Tried) -> dict[str, Any]:
        """The options of a trial that were drawn, by dotted name."""
        return {d.name: d.option(trial.drawn[d.label]) for d in self.space}

    def is_default(self, trial: Tried) -> bool:
        return all(
            value == d.usual for d, value in zip(self.space, self.settings(trial).values(), strict=True)
        )

    def job(self, trial: Tried) -> Trial:
        """
        Raises:
            ConfigError: the settings cannot be together.
        """
        config = applied(self.config, self.settings(trial))
        folder = self.folder / "trials" / str(trial.number)
        options = self.options
        return Trial(self.found.id, config, options, folder, self.num_seeds, self.rungs, trial.thresholds)

    def final(self, side: str, config: Config) -> list[Job]:
        """The trainings of the last judgement."""
        return [
            Job(
                self.found.id,
                dataclasses.replace(config, seed=seed),
                self.options,
                self.folder / side / str(seed),
            )
            for seed in self.fresh
        ]

    def decisive(self) -> dict[str, Any]:
        """What decides the trials, as JSON holds it: who shares a storage has to have the same."""
        told = {
            "env": self.found.id,
            "backend": self.found.backend,
            "config": self.config.to_dict(),
            "options": self.options.to_dict(),
            "space": [dimension.to_dict() for dimension in self.space],
            "trials": self.num_trials,
            "seeds": self.num_seeds,
            "final_seeds": self.final_seeds,
            "at_once": self.at_once,
            "prune": self.prune,
        }
        return json.loads(json.dumps(told))

    def to_dict(self) -> dict[str, Any]:
        return {**self.decisive(), "storage": self.storage, "study": self.study, "owner": self.owner}

    def ledger(self, *, begun: bool) -> Ledger:
        """
        Raises:
            StudyError: Optuna is not installed, or the storage cannot be used.
        """
        return Ledger(
            self.folder / JOURNAL if self.storage is None else self.storage,
            self.study,
            self.owner,
            self.decisive(),
            space=self.space,
            seed=self.config.seed,
            num_trials=self.num_trials,
            at_once=self.at_once,
            rungs=self.rungs,
            begun=begun,
        )


def execute_sweep(
    env: str,
    config: Config,
    options: Options,
    *,
    search: Sequence[str] = (),
    num_trials: int = 50,
    num_seeds: int = FEWEST_SEEDS,
    final_seeds: int = 10,
    at_once: int = 4,
    prune: bool = True,
    storage: str | None = None,
    study: str | None = None,
    ray: str | None = None,
    file: TextOut,
) -> Sweep:
    """Searches settings for one task, in ``<out>/<env>/<date>-sweep/``, and judges the best on fresh seeds.

    Args:
        search: the options and their values, as ``space.make_space`` takes them; none: the usual ones.
        num_trials: settings in all, over all processes that share a storage.
        num_seeds: trainings of each, with the seeds from ``config.seed`` on.
        final_seeds: trainings of the best and of the defaults, with the seeds after those.
        at_once: trials drawn together, before any of them is known; part of what decides the result.
        prune: whether a trial is stopped that falls behind the median of those before.
        storage: the URL of a storage that several processes share. Which trial knows of which then depends
            on time, and the result with it.
        study: its name there; by default the environment's.
        ray: the cluster to train on (``pool.run_jobs``). It changes no bit.

    Raises:
        ConfigError: an option is wrong, or nothing can be searched.
        StudyError: Optuna is not installed, or the storage cannot be used.
        EnvError: the environment cannot be made.
        SweepError: no trial came to its end.
        PoolError: a process was killed.
    """
    _check(env, config, options, num_trials, num_seeds, final_seeds, at_once)
    if study is not None and storage is None:
        raise ConfigError(f"study = {study!r}: is a name in a storage that is shared; add --storage URL")
    cluster.check(ray)
    refuse_workers(options)
    require_optuna()
    found = resolved(env, options.backend)
    if found.note:
        print(found.note, file=file)
    options.check_against(found.backend)
    with same_directory(), closing(envs.make(found.id, 1, found.backend)) as world:
        base, space = make_space(search, config, world.spec)
    if found.backend == "native":
        refuse_native_shards(base)
        if any(dimension.name == "num_shards" for dimension in space):
            raise ConfigError("search = 'num-shards': backend native has no shards")
    plan = Plan(
        new_folder(options.out, found.id, "sweep"),
        found,
        base,
        options,
        space,
        num_trials,
        num_seeds,
        final_seeds,
        at_once,
        prune,
        None if storage is None else _absolute(storage),
        study or found.id,
        new_owner(),
    )
    # the URL of a storage may hold a password
    write_text(plan.folder / SWEEP, json.dumps(plan.to_dict(), indent=2) + "\n", private=storage is not None)
    try:
        return _execute(plan, ray, file)
    except StudyError:
        _remove_unused(plan.folder)
        raise


def _remove_unused(folder: Path) -> None:
    """Removes the folder of a sweep whose storage cannot be used, where no trial was trained in it."""
    files = [path for path in folder.iterdir() if path.name in (SWEEP, LOCK)]
    if len(files) == len(list(folder.iterdir())):
        for path in files:
            path.unlink()
        folder.rmdir()


def _absolute(storage: str) -> str:
    """The URL, of a file of SQLite with its whole path: a sweep can be resumed from another folder."""
    kind, slashes, path = storage.partition(":///")
    relative = kind.startswith("sqlite") and slashes and path and not path.startswith(("/", ":"))
    return f"{kind}:///{Path(path).absolute()}" if relative else storage


def _check(
    env: str, config: Config, options: Options, trials: int, seeds: int, final: int, at_once: int
) -> None:
    """
    Raises:
        ConfigError: names what cannot be.
    """
    if env in PRESETS:
        raise ConfigError(f"{env}: is a preset; a sweep begins from the defaults: name the environment")
    if not options.evaluate:
        raise ConfigError("evaluate = False: a trial needs its final score; leave out --no-evaluate")
    least = {"trials": (trials, 1), "seeds": (seeds, FEWEST_SEEDS)}
    least |= {"final_seeds": (final, FEWEST_FINAL), "at_once": (at_once, 1)}
    for name, (value, bound) in least.items():
        most = MOST_SEEDS if "seeds" in name else 10**6
        if not bound <= value <= most:
            raise ConfigError(f"{name} = {value}: must be >= {bound} and <= {most}")
    if config.seed + seeds + final - 1 > LAST_SEED:
        raise ConfigError(f"seed = {config.seed}: the last of {seeds + final} seeds must be <= {LAST_SEED}")


def proceed_sweep(
    folder: Path,
    *,
    env: str | None = None,
    storage: str | None = None,
    ray: str | None = None,
    file: TextOut,
) -> Sweep:
    """Goes on with what ``execute_sweep`` left, to the same result.

    Raises:
        SweepError: it is finished, the folder is damaged, or the environment names a module and ``env`` does
            not repeat it, or its trials are in a storage and ``storage`` does not. And as ``execute_sweep``.
    """
    if status(folder) == "finished":
        raise SweepError(f"{folder}: this sweep is finished; {typed('poise', 'report', folder)} shows it")
    plan = read_plan(folder, env=env)
    _check_storage(plan, storage)
    return _execute(plan, ray, file, begun=(folder / "trials").exists())


def _check_storage(plan: Plan, given: str | None) -> None:
    """A folder alone never has poise connect to anything.

    Raises:
        SweepError: names what is to be repeated.
    """
    if plan.storage is None and given is not None:
        raise SweepError(f"{plan.folder}: its trials are in the folder itself: leave out --storage")
    if plan.storage is not None and (given is None or _absolute(given) != plan.storage):
        raise SweepError(
            f"{plan.folder}: its trials are in a storage; to connect to that, repeat it: {_again(plan, None)}"
        )


def _again(plan: Plan, ray: str | None) -> str:
    """The command that goes on; a password has to be filled in."""
    storage = "" if plan.storage is None else f" --storage {shlex.quote(masked(plan.storage))}"
    return f"poise resume {shlex.quote(str(plan.folder))}{storage}{cluster.typed(ray)}"


def read_plan(folder: Path, *, env: str | None = None) -> Plan:
    """What ``sweep.json`` says.

    Raises:
        SweepError, EnvError: as ``proceed_sweep``.
    """
    path = folder / SWEEP
    try:
        data = read_json(path)
        known = str(data["env"])
        config, options = Config.from_dict(data["config"]), Options.from_dict(data["options"])
        space = tuple(Dimension.from_dict(one) for one in data["space"])
        numbers = [data[name] for name in ("trials", "seeds", "final_seeds", "at_once")]
        if not space or not all(type(n) is int and 1 <= n <= 10**6 for n in numbers):
            raise ValueError(f"numbers {numbers!r:.100}")
        prune, storage = data["prune"], data["storage"]
        if not isinstance(prune, bool) or not isinstance(storage, str | None):
            raise ValueError("prune or storage")
        study, owner = str(data["study"]), str(data["owner"])
        _check(known, config, options, *numbers)
    except (FileError, ConfigError) as error:
        raise SweepError(str(error) if isinstance(error, FileError) else f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SweepError(f"{path}: is damaged: {error!r:.200}") from error
    if ":" in known and env != known:
        add = f"add --env {shlex.quote(known)}"
        raise SweepError(f"{folder}: its environment {known!r} names a Python module: {add}")
    if env is not None and env != known:
        raise SweepError(f"{folder}: its environment is {known}, not {env}")
    found = resolved(known, options.backend)
    trials, seeds, final, at_once = numbers
    shared = (prune, storage, study, owner)
    return Plan(folder, found, config, options, space, trials, seeds, final, at_once, *shared)


def _execute(plan: Plan, ray: str | None, file: TextOut, *, begun: bool = False) -> Sweep:
    """``begun``: whether there are trials already, and so a study."""
    since = time.perf_counter()
    with claimed(plan.folder), nullcontext() if ray is None else cluster.joined(ray):
        ledger = plan.ledger(begun=begun)
        _announce(plan, file)
        try:
            with watching(file, _name) as watch:
                train = partial(run_jobs, ray=ray, say=watch.say, look=watch.look)
                while batch := ledger.take():
                    _train(plan, ledger, batch, train, watch.lines)
                    _write(plan, ledger, {"status": "unfinished"}, since)
                summary = _judge(plan, ledger, train, watch.lines)
        except (KeyboardInterrupt, cluster.LostCluster) as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            print(f"{ended}; to resume: {_again(plan, ray)}", file=file, flush=True)
            raise
        told = _write(plan, ledger, summary, since)
        print(f"the report: {write_page(plan.folder)}", file=file, flush=True)
        return Sweep(plan.folder, told)
    raise AssertionError


def _name(job: Work) -> str:
    """Of a trial, or of a training that judges, as it is shown while it is under way."""
    return "/".join(job.folder.parts[-2:])


def _announce(plan: Plan, file: TextOut) -> None:
    steps, seeds = plan.config.total_steps, plan.config.seed
    print(
        f"{plan.found.id} on {plan.found.backend}: {plan.num_trials} trials x {plan.num_seeds} seeds "
        f"({seeds} to {seeds + plan.num_seeds - 1}), {steps:,} steps each",
        file=file,
    )
    print("searching:", file=file)
    print(*(f"  {dimension.words()}" for dimension in plan.space), sep="\n", file=file, flush=True)


# what trains: yields each job with its summary, or with what went wrong
Train = Callable[[Sequence[Work]], Iterator[tuple[Any, dict[str, Any] | PoiseError]]]


def _train(plan: Plan, ledger: Ledger, batch: Sequence[Tried], train: Train, file: TextOut) -> None:
    """Trains what is not trained of a batch; tells all of it, by number, when all of it has ended.

    Raises:
        PoiseError: what no setting is to blame for, a full disk for example.
    """
    results: dict[int, Result | str] = {}
    jobs: dict[Path, int] = {}
    waiting: list[Trial] = []
    best = _best(ledger.tried())
    known_best = None if best is None else (best.score or 0.0, best.number)
    for trial in batch:
        try:
            job = plan.job(trial)
        except ConfigError as error:
            results[trial.number] = str(error)
            print(f"trial {trial.number} of {plan.num_trials} cannot be: {error}", file=file, flush=True)
            continue
        if (known := read_result(job.folder, job.config)) is not None:
            results[trial.number] = known
            line, known_best = _line(plan, trial.number, known, known_best)
            print(line, file=file, flush=True)
        else:
            jobs[job.folder] = trial.number
            waiting.append(job)
    for job in waiting:
        own_folder(plan.folder, job.folder)
    trouble: PoiseError | None = None
    for job, result in train(waiting):
        number = jobs[job.folder]
        if isinstance(result, PoiseError):
            if not isinstance(result, OWN_FAULT):
                trouble = trouble or result
                continue
            results[number] = str(result)
        else:
            results[number] = Result.from_dict(result)
        line, known_best = _line(plan, number, results[number], known_best)
        print(line, file=file, flush=True)
    if trouble is not None:
        raise trouble
    for number in sorted(results):
        ledger.tell(number, results[number])


def _line(
    plan: Plan, number: int, result: Result | str, best: tuple[float, int] | None
) -> tuple[str, tuple[float, int] | None]:
    """What is shown of a trial that has ended, and the best up to then."""
    from poise.studies.sweep.study import score

    name = f"trial {number} of {plan.num_trials}"
    if isinstance(result, str):
        return f"{name} failed: {result}", best
    if result.pruned is not None:
        return f"{name}: stopped at step {result.pruned:,}, {result.seconds:.1f} s", best
    value = score(result.scores)
    if best is None or value > best[0]:
        best = value, number
    said = f"{name}: {figure(value)} ({len(result.scores)} seeds), {result.seconds:.1f} s"
    return f"{said}, best so far {figure(best[0])} (trial {best[1]})", best


def _best(tried: Sequence[Tried]) -> Tried | None:
    """The highest score; of equal ones the first."""
    ended = [trial for trial in tried if trial.score is not None]
    return max(ended, key=lambda trial: (trial.score, -trial.number), default=None)


def _judge(plan: Plan, ledger: Ledger, train: Train, file: TextOut) -> dict[str, Any]:
    """The best of the settings that were drawn against the defaults, both on seeds that no trial had.

    Also where the defaults, which are trial 0, scored higher in the trials: that may be luck as well.
    """
    tried = ledger.tried()
    elsewhere = [trial.number for trial in tried if trial.state == "running"]
    if elsewhere:
        print(
            f"{len(elsewhere)} trials are being trained elsewhere and are left out of the judgement",
            file=file,
        )
    best = _best(tried)
    if best is None:
        reasons = [trial.reason for trial in tried if trial.reason]
        said = f"; trial {tried[0].number}: {tried[0].reason}" if reasons and tried[0].reason else ""
        raise SweepError(f"{plan.folder}: none of {len(tried)} trials came to its end{said}")
    winner = _best([trial for trial in tried if not plan.is_default(trial)]) or best
    jobs = plan.final("winner", applied(plan.config, plan.settings(winner)))
    alone = plan.is_default(winner)
    if not alone:
        both = zip(jobs, plan.final("default", plan.config), strict=True)
        jobs = [job for pair in both for job in pair]
    first, last = plan.fresh[0], plan.fresh[-1]
    who = DEFAULT if alone else f"trial {winner.number} and {DEFAULT}"
    print(f"judging {who} on seeds {first} to {last}, which no trial had", file=file, flush=True)
    failed = _train_final(plan.found, jobs, train, file)
    sides = {
        side: [
            read_record(job.folder)
            for job in jobs
            if job.folder.parent.name == side and job.folder not in failed
        ]
        for side in ("winner", "default")
    }
    return {
        "status": "finished",
        "winner": {"trial": winner.number, "default": alone, "options": plan.settings(winner)},
        "scores": {side: _scored(records) for side, records in sides.items() if records},
        **(_no_rival() if alone else _verdict(winner, None if winner is best else best, sides)),
        "command": sides["winner"][0].command() if sides["winner"] else None,
        "failed": {str(folder.relative_to(plan.folder)): why for folder, why in failed.items()},
        "elsewhere": elsewhere,
    }


def _train_final(found: envs.Resolved, jobs: Sequence[Job], train: Train, file: TextOut) -> dict[Path, str]:
    """Trains what is not finished; why some could not be, by folder."""
    failed: dict[Path, str] = {}
    for job in jobs:
        own_folder(job.folder.parent.parent, job.folder)
    missing = [job for job in jobs if finished(job.folder, found, job.config, job.options) is None]
    for job, result in train(missing):
        name = f"{'default' if job.folder.parent.name == 'default' else 'winner'}, seed {job.config.seed}"
        if isinstance(result, PoiseError):
            if not isinstance(result, OWN_FAULT):
                raise result
            failed[job.folder] = str(result)
            print(f"{name} failed: {result}", file=file, flush=True)
            continue
        score, seconds = result["evaluation"]["mean"], result["seconds"]["total"]
        print(f"{name}: greedy return {figure(score)}, {seconds:.1f} s", file=file, flush=True)
    return failed


def _scored(records: Sequence[Record]) -> dict[str, Any]:
    return evaluation(np.array([record.summary["evaluation"]["mean"] for record in records], float))


def _no_rival() -> dict[str, Any]:
    """What may be said where the defaults are alone."""
    said = f"no winner: of the settings that were drawn none came to its end but {DEFAULT}"
    return {"pair": None, "beats": False, "sentence": said}


def _verdict(winner: Tried, ahead: Tried | None, sides: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """What may be said of the best setting and the defaults, and the figures behind it.

    ``ahead``: the trial of the defaults, where that scored higher.
    """
    name = f"trial {winner.number}"
    counts = {side: len(records) for side, records in sides.items()}
    if min(counts.values()) < FEWEST_FINAL:
        side = min(counts, key=lambda one: counts[one])
        said = f"no winner between {DEFAULT} and {name}: {counts[side]} trainings of the {side} ended"
        return {"pair": None, "beats": False, "sentence": said}
    labels = {"default": DEFAULT, "winner": name}
    settings = [dataclasses.replace(grouped(sides[side])[0], label=label) for side, label in labels.items()]
    (pair,) = compare_settings(settings)
    said = pair.sentence() if pair.winner == name else f"keep the defaults: {pair.sentence()}"
    if ahead is not None:
        scores = f"{figure(ahead.score or 0.0)} against {figure(winner.score or 0.0)}"
        said += f"; in the trials {DEFAULT} had scored higher ({scores})"
    return {"pair": pair_as_json(pair), "beats": pair.winner == name, "sentence": said}


def _write(plan: Plan, ledger: Ledger, summary: Mapping[str, Any], begun: float) -> dict[str, Any]:
    """``trials.csv`` and ``summary.json``, of what is known so far."""
    tried = ledger.tried()
    rows = [_row(plan, trial) for trial in tried]
    columns = ["trial", "state", "score", "low", "high", "stopped_at", *(d.name for d in plan.space)]
    columns += ["seconds", "reason"]
    tables.write_table(plan.folder / "trials.csv", columns, [_cells(row) for row in rows])
    told = {
        "env": plan.found.id,
        "backend": plan.found.backend,
        **summary,
        "trials": rows,
        "rungs": list(plan.rungs),
        "seeds": list(range(plan.config.seed, plan.config.seed + plan.num_seeds)),
        "fresh": list(plan.fresh),
        "space": [{**dimension.to_dict(), "words": dimension.words()} for dimension in plan.space],
        "wanted": plan.num_trials,
        "at_once": plan.at_once,
        "shared": plan.storage is not None,
        "importances": ledger.importances(),
        "steps": plan.config.total_steps,
        "seconds": {
            "total": time.perf_counter() - begun,
            "trials": sum(trial.seconds for trial in tried),
        },
        "versions": versions(),
    }
    write_text(plan.folder / "summary.json", json.dumps(told, indent=2) + "\n")
    return told


def _row(plan: Plan, trial: Tried) -> dict[str, Any]:
    """Of one trial what ``summary.json`` says."""
    estimate = plain(interquartile_estimate(np.array(trial.scores))) if trial.scores else {}
    return {
        "trial": trial.number,
        "state": trial.state,
        "score": trial.score,
        "low": estimate.get("low"),
        "high": estimate.get("high"),
        "no_interval": estimate.get("no_interval"),
        "scores": list(trial.scores),
        "stopped_at": trial.pruned,
        "values": {str(step): value for step, value in trial.values.items()},
        "options": plan.settings(trial),
        "seconds": trial.seconds,
        "reason": trial.reason,
    }


def _cells(row: Mapping[str, Any]) -> list[Any]:
    numbers = ["" if row[name] is None else f"{row[name]:.6g}" for name in ("score", "low", "high")]
    stopped = "" if row["stopped_at"] is None else row["stopped_at"]
    options = [shown(value) for value in row["options"].values()]
    return [row["trial"], row["state"], *numbers, stopped, *options, f"{row['seconds']:.1f}", row["reason"]]


def report_lines(summary: Mapping[str, Any]) -> list[str]:
    """What ``summary.json`` says, as lines for people: the best trials, both sides, and the sentence."""
    ended = sorted((t for t in summary["trials"] if t["score"] is not None), key=lambda t: -t["score"])
    names = [name.rpartition(".")[2] for name in ended[0]["options"]]
    rows = [("trial", "score", "95% interval", *names)]
    for trial in ended[:LISTED]:
        bounds = interval(trial)
        values = [shown(value) for value in trial["options"].values()]
        rows.append((str(trial["trial"]), figure(trial["score"]), bounds, *values))
    sides = [("on fresh seeds", "seeds", "mean", "95% interval", "interquartile mean")]
    for side, score in summary["scores"].items():
        name = (
            DEFAULT
            if side == "default" or summary["winner"]["default"]
            else f"trial {summary['winner']['trial']}"
        )
        bounds, iqm = interval(score), figure(score["iqm"]["value"])
        sides.append((name, str(score["seeds"]), figure(score["mean"]), bounds, iqm))
    states = [trial["state"] for trial in summary["trials"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = summary["seconds"]["total"]
    ends = f"{len(states)} trials ({counts}) in {total:.1f} s"
    trial = summary["winner"]["trial"]
    again = [f"to train trial {trial}: {summary['command']}"] if summary["command"] else []
    return [*aligned(rows), "", *aligned(sides), "", summary["sentence"], *again, ends]
