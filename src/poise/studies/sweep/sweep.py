"""``poise sweep``: searches settings for one task, and compares the best with the defaults.

<folder>/sweep.json        the plan, for ``poise resume``
<folder>/journal.log       the trials, in Optuna's journal; not written with --storage
<folder>/trials/<number>/  result.json, log.txt and the run folders of its seeds
<folder>/winner/<seed>/    the best setting on seeds that no trial used
<folder>/default/<seed>/   the defaults on the same seeds
<folder>/trials.csv        one row for each trial
<folder>/summary.json      everything; report.html is written from it and from the run folders

The result is a function of the configuration: it depends neither on the number of cores nor on interruptions.
Trials are drawn in batches, from the results of earlier batches alone (``study.Ledger``).
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
from poise.envs.info import name_of
from poise.envs.naming import reaches_outside, refuse_in_processes
from poise.errors import PoiseError, TrainingError
from poise.own.naming import check_networks, import_named
from poise.own.network import import_networks
from poise.placement import device
from poise.runs.folders import new_folder, same_directory, status
from poise.runs.journal import RETURN
from poise.runs.options import Options
from poise.runs.records import Record, judged_by, read_record
from poise.runs.resuming import finished
from poise.runs.session import resolved
from poise.runs.starting.initial import pinned
from poise.runs.starting.repeating import ALL, NOTHING_REPEATED, Repeated, check_repeated, typed_again
from poise.settings.presets import PRESETS
from poise.spec import IN_JAX
from poise.store.claim import LOCK, claimed
from poise.store.files import FileError, own_folder, read_json, write_text
from poise.studies import tables
from poise.studies.comparison import compare_settings, grouped, pair_as_json
from poise.studies.experiment import refuse_together, refuse_workers
from poise.studies.pool import MOST_SEEDS, Job, Work, run_jobs
from poise.studies.results import evaluation, plain
from poise.studies.statistics import interquartile_estimate
from poise.studies.sweep.page import format_value, write_page
from poise.studies.sweep.results import DEFAULT, Sweep
from poise.studies.sweep.search import FEWEST_SEEDS, Search
from poise.studies.sweep.space import Dimension, Space, applied, make_space
from poise.studies.sweep.study import (
    JOURNAL,
    Ledger,
    Sampling,
    StudyError,
    TrialRecord,
    masked,
    new_owner,
    require_optuna,
    score,
)
from poise.studies.sweep.trial import Result, Trial, read_result
from poise.studies.unfinished import SWEEP
from poise.studies.watching import watching
from poise.system import cluster
from poise.system.machine import versions
from poise.system.streams import TextOut
from poise.system.terminal import print, typed
from poise.training.groups import check_native_groups, check_native_minibatch
from poise.wording import counted, figure

FEWEST_FINAL = 2  # seeds of the final comparison
RUNGS = range(3, 10)  # tenths of the budget at which a trial is looked at
FAILURES = (TrainingError, ConfigError, EnvFault)  # errors that the settings of a trial can cause


class SweepError(PoiseError):
    """A sweep without a result, or a folder that is not that of a sweep."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """What a sweep does, and in which folder.

    Attributes:
        config: of the first seed, before anything is drawn.
        search: the request. Its ``search`` is empty where the plan was read from a folder: ``space`` is what
            it described.
        owner: marks the trials that are trained in this folder.
    """

    folder: Path
    task: envs.Resolved
    config: Config
    options: Options
    search: Search
    space: Space
    owner: str

    @property
    def study(self) -> str:
        """The name of the study in its storage."""
        return self.search.study or self.task.id

    @property
    def rungs(self) -> tuple[int, ...]:
        """Environment steps after which a trial may be stopped."""
        return tuple(self.config.total_steps * tenth // 10 for tenth in RUNGS) if self.search.prune else ()

    @property
    def seeds(self) -> range:
        """The seeds of each trial."""
        return range(self.config.seed, self.config.seed + self.search.seeds)

    @property
    def fresh(self) -> range:
        """The seeds of the final comparison, which no trial was trained with."""
        return range(self.seeds.stop, self.seeds.stop + self.search.final_seeds)

    def settings(self, trial: TrialRecord) -> dict[str, Any]:
        """The options of a trial that were drawn, by dotted name."""
        return {d.name: d.option(trial.drawn[d.label]) for d in self.space}

    def is_default(self, trial: TrialRecord) -> bool:
        return all(
            value == d.usual for d, value in zip(self.space, self.settings(trial).values(), strict=True)
        )

    def job(self, trial: TrialRecord) -> Trial:
        """
        Raises:
            ConfigError: the settings contradict each other.
        """
        config = applied(self.config, self.settings(trial))
        folder = self.folder / "trials" / str(trial.number)
        options = self.options
        fixed = self.task.id, config, options, folder, self.search.seeds, self.rungs
        return Trial(*fixed, trial.thresholds, self.search.objective)

    def final(self, side: str, config: Config) -> list[Job]:
        """The trainings of the final comparison."""
        return [
            Job(
                self.task.id,
                dataclasses.replace(config, seed=seed),
                self.options,
                self.folder / side / str(seed),
            )
            for seed in self.fresh
        ]

    def decisive(self) -> dict[str, Any]:
        """What decides the trials, as JSON: equal in all processes that share a storage."""
        numbers = ("trials", "seeds", "final_seeds", "at_once", "prune")
        decisive = {
            "env": self.task.id,
            "backend": self.task.backend,
            "config": self.config.to_dict(),
            "options": self.options.to_dict(),
            "space": [dimension.to_dict() for dimension in self.space],
            **{name: getattr(self.search, name) for name in numbers},
        }
        if self.search.objective != RETURN:  # sweeps of earlier versions had no other
            decisive["objective"] = self.search.objective
        return json.loads(json.dumps(decisive))

    def to_dict(self) -> dict[str, Any]:
        """The content of ``sweep.json``."""
        return {
            **self.decisive(),
            "storage": self.search.storage,
            "study": self.study,
            "owner": self.owner,
        }

    def ledger(self, *, exists: bool) -> Ledger:
        """The trials. ``exists``: whether the study must be in the storage already.

        Raises:
            StudyError: Optuna is not installed, or the storage cannot be used.
        """
        place = self.folder / JOURNAL if self.search.storage is None else self.search.storage
        sampling = Sampling(
            space=self.space,
            seed=self.config.seed,
            num_trials=self.search.trials,
            at_once=self.search.at_once,
            rungs=self.rungs,
        )
        return Ledger(place, self.study, self.owner, self.decisive(), sampling, exists=exists)


def execute_sweep(
    env: str,
    config: Config,
    options: Options,
    search: Search,
    *,
    ray: str | None = None,
    file: TextOut,
) -> Sweep:
    """Searches settings for one task, in ``<out>/<env>/<date>-sweep/``, and compares the best with the
    defaults on fresh seeds.

    Args:
        config: what every trial has in common; options that differ from their defaults are not searched.
        search: what is searched, and with how many trainings. With ``search.storage``, which trials are
            drawn, and so the result, depends on the timing of the processes that share it.
        ray: the cluster to train on (``pool.run_jobs``). It does not change the result.
        file: where progress is shown.

    Raises:
        ConfigError: an option is wrong, or nothing can be searched.
        StudyError: Optuna is not installed, or the storage cannot be used.
        EnvError: the environment cannot be made.
        SweepError: no trial finished.
        PoolError: a process was killed.
    """
    _check(env, config, options, search)
    if search.study is not None and search.storage is None:
        raise ConfigError(f"study = {search.study!r}: names a study in a shared storage; add --storage URL")
    cluster.check(ray)
    refuse_workers(options)
    refuse_together(options)
    options.refuse_single("a sweep")
    options = options.settled()
    if ray is None:
        device.check_many(options.device, options.matmul_precision)
    device.keep_off_gpu()
    import_networks(config)
    require_optuna()
    plan = _new_plan(env, pinned(config), options, search, file)
    # the URL of a storage may hold a password
    text = json.dumps(plan.to_dict(), indent=2) + "\n"
    write_text(plan.folder / SWEEP, text, private=search.storage is not None)
    try:
        return _execute(plan, ray, file, study_exists=False)
    except StudyError:
        _remove_unused(plan.folder)
        raise


def _new_plan(env: str, config: Config, options: Options, search: Search, file: TextOut) -> Plan:
    """The plan of a new sweep, with its folder made.

    Raises:
        ConfigError, EnvError: as ``execute_sweep``.
    """
    task = resolved(env, options.backend)
    refuse_in_processes(task.id, "a sweep")
    if task.note:
        print(task.note, file=file)
    options.check_against(task.backend)
    with same_directory(), closing(envs.make(task.id, 1, task.backend)) as world:
        base, space = make_space(search.search, config, world.spec)
        spec = world.spec
    if task.backend in IN_JAX:
        check_native_groups(base)
        check_native_minibatch(base, spec)
        if any(dimension.name == "env_groups" for dimension in space):
            raise ConfigError(
                "search = 'env-groups': for environments in JAX it also sets the threads of a process, "
                "which several trials share"
            )
    if search.storage is not None:
        search = dataclasses.replace(search, storage=_absolute(search.storage))
    folder = new_folder(options.out, task.id, "sweep", options.name)
    return Plan(folder, task, base, options, search, space, new_owner())


def _remove_unused(folder: Path) -> None:
    """Removes the folder of a sweep whose storage cannot be used, if no trial was trained in it."""
    files = [path for path in folder.iterdir() if path.name in (SWEEP, LOCK)]
    if len(files) == len(list(folder.iterdir())):
        for path in files:
            path.unlink()
        folder.rmdir()


def _absolute(storage: str) -> str:
    """The URL; that of an SQLite file with its absolute path, so that any folder can be resumed from."""
    kind, slashes, path = storage.partition(":///")
    relative = kind.startswith("sqlite") and slashes and path and not path.startswith(("/", ":"))
    return f"{kind}:///{Path(path).absolute()}" if relative else storage


def _check(env: str, config: Config, options: Options, search: Search) -> None:
    """Checks that a sweep with these settings is possible.

    Raises:
        ConfigError: names the first option that is wrong.
    """
    if env in PRESETS:
        raise ConfigError(f"{env}: is a preset; a sweep starts from the defaults: name the environment")
    if not options.evaluate:
        raise ConfigError("evaluate = False: a trial needs its final score; leave out --no-evaluate")
    lowest = {"trials": 1, "seeds": FEWEST_SEEDS, "final_seeds": FEWEST_FINAL, "at_once": 1}
    for name, low in lowest.items():
        value, high = getattr(search, name), MOST_SEEDS if "seeds" in name else 10**6
        if not low <= value <= high:
            raise ConfigError(f"{name} = {value}: must be >= {low} and <= {high}")
    if search.objective not in (RETURN, "success_rate") and name_of(search.objective) != search.objective:
        raise ConfigError(
            f"objective = {search.objective!r:.60}: must be return, success_rate or the name of a column of "
            "episodes.csv, such as reward_ctrl"
        )
    count = search.seeds + search.final_seeds
    if config.seed + count - 1 > LAST_SEED:
        raise ConfigError(f"seed = {config.seed}: the last of {count} seeds must be <= {LAST_SEED}")


def proceed_sweep(
    folder: Path,
    *,
    env: str | None = None,
    network: Sequence[str] = (),
    storage: str | None = None,
    repeated: Repeated = NOTHING_REPEATED,
    ray: str | None = None,
    file: TextOut,
) -> Sweep:
    """Resumes an interrupted sweep. The result is that of a sweep that was not interrupted.

    Raises:
        SweepError: it is finished, the folder is damaged, the environment names a module and ``env`` does
            not repeat it, or its trials are in a storage and ``storage`` does not repeat that. And as
            ``execute_sweep``.
        RunError: it names what trainings start from or a curriculum, and ``repeated`` does not repeat it.
        ConfigError: it has a network of the user that ``network`` does not repeat.
    """
    if status(folder) == "finished":
        raise SweepError(f"{folder}: this sweep is finished; {typed('poise', 'report', folder)} shows it")
    import_named(network)
    plan = read_plan(folder, env=env)
    check_networks(network, plan.config.own_networks, folder)
    _check_storage(plan, storage)
    check_repeated(folder, plan.config, repeated, needed=ALL)
    return _execute(plan, ray, file, study_exists=(folder / "trials").exists())


def _check_storage(plan: Plan, repeated: str | None) -> None:
    """Checks that the user repeats the storage: a folder alone never makes poise connect to anything.

    Raises:
        SweepError: names what has to be repeated.
    """
    storage = plan.search.storage
    if storage is None and repeated is not None:
        raise SweepError(f"{plan.folder}: its trials are in the folder itself: leave out --storage")
    if storage is not None and (repeated is None or _absolute(repeated) != storage):
        raise SweepError(
            f"{plan.folder}: its trials are in a storage; to connect to it, repeat its URL: "
            f"{_resume_command(plan, None)}"
        )


def _resume_command(plan: Plan, ray: str | None) -> str:
    """The command that resumes the sweep; the user has to fill in a password."""
    url = plan.search.storage
    storage = "" if url is None else f" --storage {shlex.quote(masked(url))}"
    return (
        f"poise resume {shlex.quote(str(plan.folder))}{storage}{typed_again(plan.config)}{cluster.typed(ray)}"
    )


def read_plan(folder: Path, *, env: str | None = None) -> Plan:
    """The plan that ``sweep.json`` describes.

    Raises:
        SweepError, EnvError: as ``proceed_sweep``.
    """
    path = folder / SWEEP
    try:
        data = read_json(path)
        id, owner = str(data["env"]), str(data["owner"])
        config, options = Config.from_dict(data["config"]), Options.from_dict(data["options"])
        space = tuple(Dimension.from_dict(item) for item in data["space"])
        if not space:
            raise ValueError("space")
        search = _read_search(data)
        _check(id, config, options, search)
    except (FileError, ConfigError) as error:
        raise SweepError(str(error) if isinstance(error, FileError) else f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise SweepError(f"{path}: is damaged: {error!r:.200}") from error
    if (why := reaches_outside(id)) and env != id:
        add = f"add --env {shlex.quote(id)}"
        raise SweepError(f"{folder}: its environment {id!r} {why}, {add}")
    if env is not None and env != id:
        raise SweepError(f"{folder}: its environment is {id}, not {env}")
    device.keep_off_gpu()
    return Plan(folder, resolved(id, options.backend), config, options, search, space, owner)


def _read_search(data: Mapping[str, Any]) -> Search:
    """The request in the content of ``sweep.json``.

    Raises:
        ValueError, KeyError: the file is damaged.
    """
    numbers = {name: data[name] for name in ("trials", "seeds", "final_seeds", "at_once")}
    if not all(type(n) is int and 1 <= n <= 10**6 for n in numbers.values()):
        raise ValueError(f"numbers {numbers!r:.100}")
    prune, storage = data["prune"], data["storage"]
    if not isinstance(prune, bool) or not isinstance(storage, str | None):
        raise ValueError("prune or storage")
    options = {"prune": prune, "storage": storage, "study": str(data["study"])}
    return Search(**numbers, **options, objective=str(data.get("objective", RETURN)))


def _execute(plan: Plan, ray: str | None, file: TextOut, *, study_exists: bool) -> Sweep:
    start = time.perf_counter()
    with claimed(plan.folder), nullcontext() if ray is None else cluster.joined(ray):
        ledger = plan.ledger(exists=study_exists)
        _announce(plan, file)
        try:
            summary = _run_trials(plan, ledger, start, ray, file)
        except (KeyboardInterrupt, cluster.LostCluster) as error:
            ended = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            print(f"{ended}; to resume: {_resume_command(plan, ray)}", file=file, flush=True)
            raise
        content = _write(plan, ledger, summary, start)
        print(f"the report: {write_page(plan.folder)}", file=file, flush=True)
        return Sweep(plan.folder, content)
    raise AssertionError


def _run_trials(plan: Plan, ledger: Ledger, start: float, ray: str | None, file: TextOut) -> dict[str, Any]:
    """Trains all trials, batch by batch, and judges the best; returns what is new in ``summary.json``."""
    with watching(file, _name) as watch:
        train = partial(run_jobs, ray=ray, say=watch.say, look=watch.look)
        while batch := ledger.take():
            _train(plan, ledger, batch, train, watch.lines)
            _write(plan, ledger, {"status": "unfinished"}, start)
        return _judge(plan, ledger, train, watch.lines)


def _name(job: Work) -> str:
    """The name under which the progress of a trial, or of a training of the final comparison, is shown."""
    return "/".join(job.folder.parts[-2:])


def _announce(plan: Plan, file: TextOut) -> None:
    trials, seeds = counted(plan.search.trials, "trial"), plan.seeds
    steps = counted(plan.config.total_steps, "step")
    print(
        f"{plan.task.id} on {plan.task.backend}: {trials} x {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), "
        f"{steps} each",
        file=file,
    )
    print("searching:", file=file)
    print(*(f"  {dimension.words()}" for dimension in plan.space), sep="\n", file=file, flush=True)


# runs trainings: yields each job with its summary or its error
Train = Callable[[Sequence[Work]], Iterator[tuple[Any, dict[str, Any] | PoiseError]]]


def _train(plan: Plan, ledger: Ledger, batch: Sequence[TrialRecord], train: Train, file: TextOut) -> None:
    """Trains the trials of a batch that have no result yet. The results are entered by number, after the
    last trial has ended, so that they do not depend on the order in which trials end.

    Raises:
        PoiseError: an error that no setting is to blame for, for example a full disk.
    """
    results: dict[int, Result | str] = {}
    waiting: dict[Path, tuple[int, Trial]] = {}
    progress = _Progress(plan, ledger, file)
    for record in batch:
        try:
            job = plan.job(record)
        except ConfigError as error:
            results[record.number] = str(error)
            progress.show(record.number, f"has invalid settings: {error}")
            continue
        if (result := read_result(job.folder, job.config)) is not None:
            results[record.number] = result
            progress.show(record.number, result)
        else:
            waiting[job.folder] = record.number, job
    for folder in waiting:
        own_folder(plan.folder, folder)
    unrelated: PoiseError | None = None
    for job, outcome in train([job for _, job in waiting.values()]):
        number, _ = waiting[job.folder]
        if isinstance(outcome, PoiseError) and not isinstance(outcome, FAILURES):
            unrelated = unrelated or outcome
            continue
        failed = isinstance(outcome, PoiseError)
        results[number] = str(outcome) if failed else Result.from_dict(outcome)
        progress.show(number, f"failed: {outcome}" if failed else results[number])
    if unrelated is not None:
        raise unrelated
    for number in sorted(results):
        ledger.tell(number, results[number])


class _Progress:
    """Shows each trial that has ended, beside the best so far."""

    def __init__(self, plan: Plan, ledger: Ledger, file: TextOut):
        best = _best(ledger.trials())
        self._best = None if best is None else (best.score or 0.0, best.number)
        self._num_trials, self._file = plan.search.trials, file

    def show(self, number: int, result: Result | str) -> None:
        """``result``: that of the trial, or a sentence about it without its subject."""
        line = f"trial {number} of {self._num_trials}"
        if isinstance(result, str):
            line += f" {result}"
        elif result.pruned is not None:
            line += f": stopped at step {result.pruned:,}, {result.seconds:.1f} s"
        else:
            value = score(result.scores)
            if self._best is None or value > self._best[0]:
                self._best = value, number
            line += f": {figure(value)} ({counted(len(result.scores), 'seed')}), {result.seconds:.1f} s"
            line += f", best so far {figure(self._best[0])} (trial {self._best[1]})"
        print(line, file=self._file, flush=True)


def _best(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial with the highest score; of equal ones the first."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda trial: (trial.score, -trial.number), default=None)


def _judge(plan: Plan, ledger: Ledger, train: Train, file: TextOut) -> dict[str, Any]:
    """Compares the best of the settings that were drawn with the defaults, on seeds that no trial used.

    Also where the defaults, which are trial 0, scored higher in the trials: that may be chance.

    Raises:
        SweepError: no trial finished.
    """
    trials = ledger.trials()
    elsewhere = [trial.number for trial in trials if trial.state == "running"]
    if elsewhere:
        count = counted(len(elsewhere), "trial")
        print(f"left out of the comparison: {count} still being trained by other processes", file=file)
    best = _best(trials)
    if best is None:
        reason = f"; trial {trials[0].number}: {trials[0].reason}" if trials and trials[0].reason else ""
        raise SweepError(f"{plan.folder}: none of {counted(len(trials), 'trial')} finished{reason}")
    winner = _best([trial for trial in trials if not plan.is_default(trial)]) or best
    alone = plan.is_default(winner)
    jobs = plan.final("winner", applied(plan.config, plan.settings(winner)))
    if not alone:
        pairs = zip(jobs, plan.final("default", plan.config), strict=True)
        jobs = [job for pair in pairs for job in pair]
    who = DEFAULT if alone else f"trial {winner.number} and {DEFAULT}"
    first, last = plan.fresh[0], plan.fresh[-1]
    print(f"training {who} on the fresh seeds {first} to {last}", file=file, flush=True)
    failed = _train_final(plan.task, jobs, train, file)
    finished_jobs = [job for job in jobs if job.folder not in failed]
    sides = {
        side: [read_record(job.folder) for job in finished_jobs if job.folder.parent.name == side]
        for side in ("winner", "default")
    }
    return {
        "status": "finished",
        "winner": {"trial": winner.number, "default": alone, "options": plan.settings(winner)},
        "scores": {side: _scores(plan, records) for side, records in sides.items() if records},
        **(_no_rival() if alone else _verdict(plan, winner, None if winner is best else best, sides)),
        "command": sides["winner"][0].command() if sides["winner"] else None,
        "failed": {str(folder.relative_to(plan.folder)): why for folder, why in failed.items()},
        "elsewhere": elsewhere,
    }


def _train_final(task: envs.Resolved, jobs: Sequence[Job], train: Train, file: TextOut) -> dict[Path, str]:
    """Runs the trainings that are not finished; returns the reason of each that failed, by its folder."""
    failed: dict[Path, str] = {}
    for job in jobs:
        own_folder(job.folder.parent.parent, job.folder)
    missing = [job for job in jobs if finished(job.folder, task, job.config, job.options) is None]
    for job, outcome in train(missing):
        name = f"{job.folder.parent.name}, seed {job.config.seed}"
        if isinstance(outcome, PoiseError):
            if not isinstance(outcome, FAILURES):
                raise outcome
            failed[job.folder] = str(outcome)
            print(f"{name} failed: {outcome}", file=file, flush=True)
            continue
        mean, seconds = outcome["evaluation"]["mean"], outcome["seconds"]["total"]
        print(f"{name}: greedy return {figure(mean)}, {seconds:.1f} s", file=file, flush=True)
    return failed


def _scores(plan: Plan, records: Sequence[Record]) -> dict[str, Any]:
    by = plan.search.objective
    return evaluation(np.array([judged_by(record.summary, by) for record in records], float))


def _no_rival() -> dict[str, Any]:
    """The verdict where no trial other than the defaults finished."""
    return {"pair": None, "beats": False, "sentence": "no winner: only the trial of the defaults finished"}


def _verdict(
    plan: Plan, winner: TrialRecord, default: TrialRecord | None, sides: Mapping[str, Sequence[Record]]
) -> dict[str, Any]:
    """Whether the best setting is better than the defaults, and the figures behind it.

    ``default``: the trial of the defaults, where that scored higher in the trials.
    """
    name = f"trial {winner.number}"
    counts = {side: len(records) for side, records in sides.items()}
    if min(counts.values()) < FEWEST_FINAL:
        side = min(counts, key=lambda side: counts[side])
        trainings = counted(counts[side], "training")
        sentence = f"no winner between {DEFAULT} and {name}: only {trainings} of the {side} finished"
        return {"pair": None, "beats": False, "sentence": sentence}
    labels = {"default": DEFAULT, "winner": name}
    by = plan.search.objective
    settings = [
        dataclasses.replace(grouped(sides[side], by)[0], label=label) for side, label in labels.items()
    ]
    (pair,) = compare_settings(settings)
    sentence = pair.sentence() if pair.winner == name else f"keep the defaults: {pair.sentence()}"
    if default is not None:
        scores = f"{figure(default.score or 0.0)} against {figure(winner.score or 0.0)}"
        sentence += f"; in the trials {DEFAULT} had scored higher ({scores})"
    return {"pair": pair_as_json(pair), "beats": pair.winner == name, "sentence": sentence}


def _write(plan: Plan, ledger: Ledger, summary: Mapping[str, Any], start: float) -> dict[str, Any]:
    """Writes ``trials.csv`` and ``summary.json`` with the results so far; returns the latter's content."""
    trials = ledger.trials()
    rows = [_row(plan, trial) for trial in trials]
    columns = ["trial", "state", "score", "low", "high", "stopped_at", *(d.name for d in plan.space)]
    columns += ["seconds", "reason"]
    tables.write_table(plan.folder / "trials.csv", columns, [_cells(row) for row in rows])
    content = {
        "env": plan.task.id,
        "backend": plan.task.backend,
        **summary,
        "trials": rows,
        "rungs": list(plan.rungs),
        "seeds": list(plan.seeds),
        "fresh": list(plan.fresh),
        "space": [{**dimension.to_dict(), "words": dimension.words()} for dimension in plan.space],
        "wanted": plan.search.trials,
        "at_once": plan.search.at_once,
        "shared": plan.search.storage is not None,
        "importances": ledger.importances(),
        "steps": plan.config.total_steps,
        "objective": plan.search.objective,
        "seconds": {
            "total": time.perf_counter() - start,
            "trials": sum(trial.seconds for trial in trials),
        },
        "versions": versions(),
    }
    write_text(plan.folder / "summary.json", json.dumps(content, indent=2) + "\n")
    return content


def _row(plan: Plan, trial: TrialRecord) -> dict[str, Any]:
    """One trial as ``summary.json`` describes it."""
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
    options = [format_value(value) for value in row["options"].values()]
    return [row["trial"], row["state"], *numbers, stopped, *options, f"{row['seconds']:.1f}", row["reason"]]
