"""One training from its first step to its folder: the loop that reacts. And how it goes on later."""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import jax

from poise import cluster, envs
from poise.best import PLACES, Candidate
from poise.budget import Budget
from poise.checkpoint import (
    REPLACED,
    CheckpointError,
    Manifest,
    Training,
    checkpoints,
    clear_leftovers,
    load_training,
    read_manifest,
    runs_under,
    step_folder,
)
from poise.claim import LOCK, ClaimError, claimed
from poise.compiled import forget_compiled, keep_compiled
from poise.config import Config, ConfigError, flat
from poise.envs.checking import EnvFault
from poise.errors import PoiseError, StorageError
from poise.evaluation import Evaluation
from poise.files import FileError, check_room, is_full, read_json
from poise.interrupts import Guard, refuse_imported_script
from poise.journal import LOGS, METRICS, JournalError, cut, read_episodes
from poise.live import Live, live
from poise.loop import Progress, Start, iterations
from poise.machine import made_with, start_platform
from poise.options import Options
from poise.presets import configure
from poise.pulse import announced
from poise.recorder import EVALUATION_EPISODES, PARTS, Past, Recorder
from poise.records import read_summary
from poise.replay import write_crash
from poise.rollout import Collector
from poise.sharding import make_collector, shards
from poise.spec import Spec
from poise.streams import Lasting, TextOut
from poise.telling import run_lines
from poise.terminal import print, typed
from poise.update import placed
from poise.workers import Workers, check_workers


class RunError(PoiseError):
    """A run folder that cannot be made, or cannot be gone on with."""


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, and what ``summary.json`` in it says."""

    folder: Path
    summary: dict[str, Any]
    evaluation: Evaluation | None


def _devices() -> str:
    """Where policy and value learn."""
    devices = jax.devices()
    return "one device" if devices[0] == devices[-1] else "two devices at once"


def _discount(config: Config, spec: Spec) -> str:
    """The discount of a training, and where it comes from: a limit that is not declared would change it."""
    limit = spec.time_limit
    horizon = "episodes have no time limit" if limit is None else f"episodes end after {limit:,} steps"
    return f"discount {config.ppo.gamma:.4g}; {horizon}"


def new_folder(out: Path, env: str, seeds: str) -> Path:
    """Makes ``out/<env>/<date>-<seeds>``, with a number behind it where that exists already."""
    parent = out / re.sub(r"[^\w.-]+", "-", env)
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{seeds}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for suffix in ["", *(f"-{i}" for i in range(2, 1000))]:
            try:
                (parent / (name + suffix)).mkdir()
            except FileExistsError:
                continue
            return parent / (name + suffix)
    except OSError as error:
        check_room(out, error)
        raise RunError(f"out = {str(out)!r}: no folder can be made there: {error.strerror}") from error
    raise RunError(f"out = {str(out)!r}: it holds a thousand runs of this second")


def train(
    env: str,
    *,
    backend: envs.Backend = "auto",
    out: str | Path = "runs",
    file: TextOut | None = None,
    evaluate: bool = Options.evaluate,
    video: bool = Options.video,
    log_every: int = Options.log_every,
    checkpoint_every: int | None = Options.checkpoint_every,
    eval_every: int | None = Options.eval_every,
    eval_episodes: int = Options.eval_episodes,
    eval_max_steps: int | None = Options.eval_max_steps,
    eval_max_seconds: float | None = Options.eval_max_seconds,
    on_crash: str = Options.on_crash,
    env_timeout: float = Options.env_timeout,
    workers: int = Options.workers,
    ray: str | None = None,
    compile_cache: bool = Options.compile_cache,
    **config: Any,
) -> Run:
    """Trains an agent and leaves a folder with all that there is to know of it.

        run = poise.train("Reacher-v4", total_steps=100_000, ppo={"clip": 0.1})
        agent = poise.load(run.folder)

    In a script, with backend "gymnasium-async", the call stands under ``if __name__ == "__main__":``: Python
    runs the script again in each process that it starts.

    Args:
        env: a Gymnasium id, one of poise's own, or the name of a preset.
        backend: what steps the environments; "auto" takes the fastest that has ``env``.
        out: the root in which the run's folder is made.
        file: where progress is shown; standard output by default.
        evaluate: whether the greedy agent plays 100 episodes at the end, and the best agent is chosen.
        video: whether it is filmed at the end.
        log_every: environment steps between two that TensorBoard shows one by one.
        checkpoint_every: environment steps between two checkpoints; None: one when 10 seconds have passed.
        eval_every: environment steps between two greedy scores while training; None: none.
        eval_episodes: episodes of each of these scores.
        eval_max_steps: environment steps of the score at the end (``Options.eval_max_steps``).
        eval_max_seconds: seconds after which no further episode of it begins (``Options.eval_max_seconds``).
        on_crash: "stop" or "restart" (``Options.on_crash``).
        env_timeout: seconds (``Options.env_timeout``).
        workers: processes of a cluster that step the environments (``Options.workers``).
        ray: the cluster: "HOST:PORT", or "auto" for the one of this machine; None: a local one is started for
            the workers, and stopped at the end (``poise.cluster``).
        compile_cache: whether what JAX compiles is kept in the user's cache folder for the next start
            (``poise.compiled``).
        config: fields of ``Config``: ``total_steps``, ``seed``, ``num_envs``, and the groups ``ppo``,
            ``policy``, ``value``, ``normalize``, each as its record or as a mapping of what changes.

    Raises:
        EnvError: the environment cannot be made.
        ConfigError: an option is unknown, wrong, or has no meaning for this environment.
        EnvFault: the environment failed; the folder holds all up to then.
        TrainingError: training became infinite or NaN; the folder holds all up to then.
        StorageError: the disk is full; the checkpoints before are whole.
        KeyboardInterrupt: interrupted; the folder holds all up to then, and ``resume`` goes on from it.
    """
    refuse_imported_script()
    options = Options(
        backend=backend,
        out=Path(out),
        evaluate=evaluate,
        video=video,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        eval_max_steps=eval_max_steps,
        eval_max_seconds=eval_max_seconds,
        on_crash=on_crash,  # pyright: ignore[reportArgumentType] (checked there)
        env_timeout=env_timeout,
        workers=workers,
        compile_cache=compile_cache,
    )
    id, configured = configure(envs.checked_name(env), **config)
    shown = Lasting(file or sys.stdout, whole=False)
    return _told(execute(id, configured, options, ray=ray, file=shown), shown)


def resume(
    run: str | Path,
    *,
    total_steps: int | None = None,
    env: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
) -> Run:
    """Goes on with a training that was interrupted or killed, from its last checkpoint to its end.

    What comes out is bit for bit what the training would have become without the interruption.

    Args:
        run: its folder.
        total_steps: another budget, also for a training that is finished. Learning rates then go to 0 over
            the new budget: the result is not that of a training that had it from the start.
        env: the environment's name, where that is of a module (``module:Task``): a folder alone never makes
            Python import one.
        workers: another number of processes that step the environments. It changes no bit.
        ray: the cluster of these, as of ``train``.
        file: where progress is shown; standard output by default.

    Raises:
        RunError: there is nothing to go on with, or the environment has changed.
        CheckpointError: no checkpoint is usable.
        ClaimError: another process is training it.
        ConfigError: ``total_steps`` is less than what was done.
        EnvFault, TrainingError, StorageError, KeyboardInterrupt: as of ``train``.
    """
    refuse_imported_script()
    shown = Lasting(file or sys.stdout, whole=False)
    options = {"total_steps": total_steps, "env": env, "workers": workers, "ray": ray}
    return _told(proceed(Path(run), **options, file=shown), shown)


def _told(run: Run, file: TextOut) -> Run:
    """The run, after its score, its health and its folder were shown."""
    lines, _ = run_lines(run.folder, run.summary, run.evaluation)
    print(*lines, run.folder, sep="\n", file=file)
    return run


@dataclass(frozen=True)
class _Job:
    """A training that is about to begin, or to go on."""

    found: envs.Resolved
    config: Config
    options: Options
    past: Past
    training: Training
    import_seconds: float
    ray: str | None = None  # the cluster of its workers


def execute(
    env: str,
    config: Config,
    options: Options,
    *,
    import_seconds: float = 0.0,
    ray: str | None = None,
    guard: Guard | None = None,
    file: TextOut,
) -> Run:
    """``train`` with its records made.

    ``import_seconds``: what loading took before this call. ``guard``: what sees to it that an interrupt is
    heard (``poise.interrupts``).
    """
    found = resolved(env, options.backend)
    if found.note:
        print(found.note, file=file)
    job = _Job(found, config, options, Past(), Training(), import_seconds, ray)
    return _to_its_end(_session(job, None, guard or Guard(), file))


def execute_or_proceed(
    env: str, config: Config, options: Options, *, folder: Path, guard: Guard | None = None, file: TextOut
) -> Run:
    """``execute`` into ``folder``, or what is left of it where that holds the same training."""
    return _to_its_end(session(env, config, options, folder=folder, guard=guard, file=file))


Session = Generator[Progress, None, Run]


def session(
    env: str, config: Config, options: Options, *, folder: Path, guard: Guard | None = None, file: TextOut
) -> Session:
    """``execute_or_proceed`` that yields after each iteration, once its rows are written.

    Who closes it before its end leaves a run that is ``stopped``, with a checkpoint of its last iteration.
    """
    guard = guard or Guard()
    start_platform()
    with claimed(folder):
        found = resolved(env, options.backend)
        if (summary := finished(folder, found, config, options)) is not None:
            return Run(folder, summary, None)
        if kept := checkpoints(folder):
            usable = _newest_usable(folder, file)
            if not (differs := difference(usable.manifest, found, config, options)):
                return (yield from _going_on(folder, usable, env=found.id, guard=guard, file=file))
            aside = set_aside(folder)
            print(f"{kept[0].name} is of another training ({differs}): it is now in {aside}", file=file)
        if found.note:
            print(found.note, file=file)
        job = _Job(found, config, options, Past(), Training(), 0.0)
        return (yield from _session(job, folder, guard, file))
    raise AssertionError


def difference(manifest: Manifest, found: envs.Resolved, config: Config, options: Options) -> str | None:
    """In what the training of a checkpoint differs from this one; None where it is the same.

    Raises:
        CheckpointError: the options in it cannot be read.
    """
    theirs: dict[str, Any] = {"env": manifest.env, "backend": manifest.backend}
    mine: dict[str, Any] = {"env": found.id, "backend": found.backend}
    try:
        theirs |= Options.from_dict(manifest.notes["options"]).to_dict()
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"the options of step {manifest.steps:,}: {error!r:.200}") from error
    theirs, mine = theirs | flat(manifest.config.to_dict()), mine | options.to_dict()
    with contextlib.suppress(ConfigError):  # of another environment: it has no such numbers
        mine |= flat(config.settled(manifest.spec).to_dict())
    differing = [name for name in theirs | mine if theirs.get(name) != mine.get(name)]
    return f"{differing[0]} = {theirs.get(differing[0])!r:.60}" if differing else None


def finished(folder: Path, found: envs.Resolved, config: Config, options: Options) -> dict[str, Any] | None:
    """The summary of a training that ended there; None where none did, or another one.

    What it was is read in its newest checkpoint or, where none can be read, in ``config.json``.
    """
    if status(folder) != "finished":
        return None
    summary = read_summary(folder)
    for kept in checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            return None if difference(read_manifest(kept), found, config, options) else summary
    try:
        data = dict(read_json(folder / "config.json"))
        theirs = {"env": data.pop("env"), "backend": data.pop("backend"), **flat(data)}
    except (FileError, KeyError, TypeError, ValueError):
        return None
    mine = {"env": found.id, "backend": found.backend, **flat(json.loads(json.dumps(config.to_dict())))}
    same = all(theirs.get(name) == value for name, value in mine.items() if value is not None)
    return summary if same else None


def set_aside(folder: Path) -> Path:
    """Moves a training and its tables into a folder in ``folder``, which is then a run folder by itself."""
    numbers = (folder / f"{REPLACED}{i}" for i in itertools.count(1))
    aside = next(path for path in numbers if not os.path.lexists(path))
    moved = [p for p in folder.iterdir() if p.name not in (LOCK, LOG) and not p.name.startswith(REPLACED)]
    aside.mkdir()
    for path in moved:
        path.rename(aside / path.name)
    return aside


def _to_its_end(session: Session) -> Run:
    """What it comes to. An interrupt that is heard outside of it is told to it as well."""
    try:
        while True:
            next(session)
    except StopIteration as end:
        return end.value
    except BaseException as error:
        session.throw(error)
        raise


def proceed(
    run: Path,
    *,
    total_steps: int | None = None,
    env: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    import_seconds: float = 0.0,
    guard: Guard | None = None,
    file: TextOut,
) -> Run:
    """``resume`` for those who know more."""
    asked = {"total_steps": total_steps, "env": env, "workers": workers, "ray": ray}
    return _to_its_end(
        _proceeding(run, **asked, import_seconds=import_seconds, guard=guard or Guard(), file=file)
    )


def _proceeding(
    run: Path,
    *,
    total_steps: int | None = None,
    env: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    import_seconds: float = 0.0,
    guard: Guard,
    file: TextOut,
) -> Session:
    if not (run / "checkpoints").is_dir():
        raise RunError(f"{run}: there is no run to go on with (no checkpoints in it)")
    start_platform()
    with claimed(run):
        usable = _newest_usable(run, file)
        again = {"total_steps": total_steps, "env": env, "workers": workers, "ray": ray}
        return (
            yield from _going_on(run, usable, **again, import_seconds=import_seconds, guard=guard, file=file)
        )
    raise AssertionError


def _going_on(
    run: Path,
    usable: "_Usable",
    *,
    total_steps: int | None = None,
    env: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    import_seconds: float = 0.0,
    guard: Guard,
    file: TextOut,
) -> Session:
    """From a checkpoint of a run that is claimed."""
    manifest, past, options = usable.manifest, usable.past, usable.options
    steps, known = manifest.steps, manifest.env
    if total_steps is None and status(run) == "finished":
        raise RunError(f"{run}: it is finished, {steps:,} steps; --total-steps N goes on to N steps")
    config = manifest.config
    if total_steps is not None:
        config = dataclasses.replace(config, total_steps=total_steps)
        if config.num_iterations * config.rollout_size < steps:
            raise ConfigError(f"total_steps = {total_steps}: the run has {steps:,} steps already")
    if env is None and ":" in known:
        raise RunError(
            f"{run}: its environment {known!r} names a Python module; to import and run it, "
            f"repeat the name: {typed('--env', known)} (in Python: env={known!r})"
        )
    if env is not None and env != known:
        raise RunError(f"{run}: its environment is {known}, not {env}")
    print(f"going on from step {steps:,} of {config.total_steps:,}: {run}", file=file, flush=True)
    if config != manifest.config and config.ppo.anneal != "none":
        print("the learning rates go to 0 over the new budget: not the training that", file=file)
        print("this budget would have given from the start", file=file)
    _compare_machines(past, file)
    found = resolved(known, manifest.backend)
    if workers is not None:
        options = dataclasses.replace(options, workers=workers)
    job = _Job(found, config, options, past, usable.training, import_seconds, ray)
    return (yield from _session(job, run, guard, file, resumed=manifest))


def _compare_machines(past: Past, file: TextOut) -> None:
    """Says it where versions or processor are not those of the checkpoint: the bits may be others then."""
    mine = made_with()
    if not past.made_with or past.made_with[-1]["fingerprint"] == mine["fingerprint"]:
        return
    before, now = ({"processor": one["processor"], **one["versions"]} for one in (past.made_with[-1], mine))
    changed = [f"{n} {now[n]} (was {before.get(n)})" for n in now if before.get(n) != now[n]]
    past.exact = False
    what = ", ".join(changed) or "another system, or number of threads"
    print(
        f"not exact: the checkpoint was made with other versions or on another processor: {what}; from here "
        "on the bits may differ",
        file=file,
        flush=True,
    )


LARGEST_SUMMARY = 2**25  # bytes; that of a sweep of 10,000 trials takes some 10 MB


def status(run: Path) -> str | None:
    """What the summary of a run says of it; None where there is none."""
    try:
        return str(read_json(run / "summary.json", LARGEST_SUMMARY)["status"])
    except (FileError, KeyError, TypeError):
        return None


def newest_unfinished(out: Path) -> Path:
    """The run under ``out`` that was saved last of those that are not finished and not being trained.

    Of one that belongs to an experiment or a sweep, the whole.

    Raises:
        RunError: there is none.
    """
    found = [(c[0].stat().st_mtime, run) for run in runs_under(out) if (c := checkpoints(run))]
    # between two batches a sweep has no unfinished run
    found += [(p.stat().st_mtime, p.parent) for p in out.glob(f"**/{SWEEP}")]
    for _, run in sorted(found, reverse=True):
        whole = _whole(run)
        if "finished" in (status(run), status(whole)):  # whole: a trial of a sweep that is done was stopped
            continue
        with contextlib.suppress(ClaimError), contextlib.ExitStack() as stack:
            for folder in dict.fromkeys((run, whole)):
                stack.enter_context(claimed(folder))
            return whole
    raise RunError(f"{out}: there is no unfinished run under it")


def _whole(run: Path) -> Path:
    """The experiment or the sweep that a run belongs to; itself where it belongs to none."""
    above = (run.parent, run.parent.parent, run.parent.parent.parent)
    return next((p for p in above if (p / EXPERIMENT).exists() or (p / SWEEP).exists()), run)


@dataclass(frozen=True)
class _Usable:
    """A checkpoint from which a training goes on."""

    training: Training
    manifest: Manifest
    past: Past
    options: Options


def _newest_usable(run: Path, file: TextOut) -> _Usable:
    """The newest checkpoint that is whole and that the tables reach. Names those that are not."""
    problem = CheckpointError(f"{run}: no checkpoint is kept there")
    for folder in checkpoints(run):
        try:
            return _usable(run, folder)
        except (CheckpointError, JournalError) as error:
            problem = error
            print(f"{folder.name} cannot be used: {error}", file=file, flush=True)
    raise CheckpointError(f"{run}: no checkpoint can be used: {problem}")


def _usable(run: Path, folder: Path) -> _Usable:
    """
    Raises:
        CheckpointError, JournalError: it is not usable.
    """
    training, manifest = load_training(folder)
    if folder != step_folder(run, manifest.steps):
        raise CheckpointError(f"{folder}: is of step {manifest.steps:,}")
    past, options = _past(training, manifest, folder)
    cut(run, past.position, check=True)
    return _Usable(training, manifest, past, options)


def unusable(place: Path) -> Iterator[str]:
    """A line for each checkpoint below a folder that is newer than the newest usable one of its run."""
    for run in runs_under(place):
        if status(run) == "finished":
            continue
        for folder in checkpoints(run):
            try:
                _usable(run, folder)
                break
            except (CheckpointError, JournalError) as error:
                yield f"{run}: {folder.name} cannot be used: {error}"


def _take_up(run: Path, past: Past) -> None:
    """Puts the folder back to where the checkpoint was made."""
    clear_leftovers(run)
    for newer in checkpoints(run):
        if int(newer.name) > past.steps:  # which cannot be used, and is not deleted either
            names = (f"unusable-{newer.name}{suffix}" for suffix in ["", *(f"-{i}" for i in range(2, 1000))])
            newer.rename(next(path for n in names if not os.path.lexists(path := newer.with_name(n))))
    cut(run, past.position)
    (run / "summary.json").unlink(missing_ok=True)
    past.episodes = read_episodes(run, most=None)


def _past(training: Training, manifest: Manifest, folder: Path) -> tuple[Past, Options]:
    """What the notes of a checkpoint say.

    Raises:
        CheckpointError: they say what cannot be.
    """
    notes = manifest.notes
    try:
        given = {"film": 0.0, **notes["seconds"]}  # which was a part of "log"
        seconds = {part: float(given[part]) for part in (*PARTS, "total")}
        (paced, pace), chosen = notes["pace"], notes["candidates"]
        physics = None if notes["physics"] is None else float(notes["physics"])
        if len(chosen) != len(training.candidates) or len(chosen) > PLACES:
            raise ValueError(f"{len(chosen)} candidates")
        candidates = tuple(
            Candidate(int(steps), float(mean), agent)
            for (steps, mean), agent in zip(chosen, training.candidates, strict=True)
        )
        options = Options.from_dict(notes["options"])
        past = Past(
            steps=manifest.steps,
            seconds=seconds,
            physics=physics,
            pace=(int(paced), float(pace)),
            exact=bool(notes["exact"]),
            resumed=int(notes["resumed"]) + 1,
            crashes=int(notes["crashes"]),
            candidates=candidates,
            position=dict(notes["logs"]),
            made_with=tuple(_machine(one) for one in notes.get("made_with", ())),
        )
        return past, options
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'manifest.json'}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{folder / 'manifest.json'}: is damaged: {error!r:.200}") from error


def _machine(told: Mapping[str, Any]) -> dict[str, Any]:
    """What ``machine.made_with`` said, as a checkpoint tells it."""
    versions = {str(name): str(version) for name, version in told["versions"].items()}
    return {
        "fingerprint": str(told["fingerprint"]),
        "processor": str(told["processor"]),
        "versions": versions,
    }


def _session(
    job: _Job, folder: Path | None, guard: Guard, file: TextOut, *, resumed: Manifest | None = None
) -> Session:
    """Into ``folder``, which is claimed, or a new one."""
    begun = time.perf_counter() - job.import_seconds
    start_platform()
    found, config, options = job.found, job.config, job.options
    out, place = options.out.absolute(), folder and folder.absolute()
    keep_compiled(options.compile_cache)
    forget_compiled()
    options.check_against(found.backend)
    check_workers(options, config, found.backend, job.ray)
    with contextlib.ExitStack() as stack:
        stack.enter_context(same_directory())
        with announced(f"making the environments: {found.id}", partial(print, file=file, flush=True)):
            world = _world(job, stack, file)
        guard.restore()
        config.check_against(world.spec)
        if resumed is None:
            config.refuse_idle()
            for warning in config.warnings():
                print(f"warning: {warning}", file=file)
        config = config.settled(world.spec)
        if resumed is not None and world.spec != resumed.spec:
            raise RunError(f"{folder}: {found.id} has changed since: {world.spec}, was {resumed.spec}")
        if place is None or folder is None:
            place = new_folder(out, found.id, str(config.seed))
            folder = options.out / place.relative_to(out)
            stack.enter_context(claimed(place))
        stack.enter_context(_disk_errors(place, folder))
        if resumed is not None:
            _take_up(place, job.past)
        else:
            _clear(place)
        recorder = Recorder(place, options, found, config, world.spec, job.past, begun, guard)
        guard.began = True
        recorder.shown = folder
        recorder.seconds["import"] += job.import_seconds
        start = _start(job, recorder)
        print(f"{found.id}: {recorder.total_steps:,} steps, seed {config.seed}", file=file)
        print(
            f"on {world.backend}, learning on {_devices()}: "
            f"{config.num_iterations} iterations x {config.rollout_size:,}",
            file=file,
        )
        print(_discount(config, world.spec), file=file, flush=True)
        return (yield from _react(job, recorder, iterations(config, world, start), guard, file))
    raise AssertionError


def resolved(env: str, backend: envs.Backend) -> envs.Resolved:
    """``envs.resolve``, after which the working directory is what it was."""
    with same_directory():
        return envs.resolve(env, backend)
    raise AssertionError


@contextlib.contextmanager
def same_directory() -> Iterator[None]:
    """Comes back to the working directory: an environment may change it to find its files."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # which was removed
            stack.enter_context(contextlib.chdir(os.getcwd()))
        yield


def _world(job: _Job, stack: contextlib.ExitStack, file: TextOut) -> Collector:
    """What collects for a training, here or in the processes of a cluster; ``stack`` closes it."""
    found, config, options = job.found, job.config, job.options
    if options.workers:
        stack.enter_context(cluster.joined(job.ray or cluster.LOCAL, processes=options.workers))
        world = Workers(found, config, options, file)
        stack.callback(world.close)
        return world
    made = []
    for shard in shards(config):
        env = envs.make(
            found.id,
            shard.num_envs,
            found.backend,
            timeout=options.env_timeout,
            restart=options.on_crash == "restart",
            first=shard.first,
        )
        stack.callback(env.close)
        made.append(env)
    return make_collector(made, config)


def _clear(folder: Path) -> None:
    """Makes the folder of a training that begins ready. What is left of another one is set aside."""
    clear_leftovers(folder)
    kept = folder / "checkpoints"
    if kept.is_symlink():
        raise RunError(f"{kept}: is a link; put the folder itself in its place, or remove it")
    metrics = folder / METRICS
    if (kept.exists() and any(kept.iterdir())) or (metrics.exists() and metrics.stat().st_size):
        set_aside(folder)
    for name in (*LOGS, "summary.json"):
        (folder / name).unlink(missing_ok=True)
    kept.mkdir(exist_ok=True)


def _start(job: _Job, recorder: Recorder) -> Start | None:
    training = job.training
    if training.state is None:
        return None
    state = placed(training.state)
    recorder.go_on(state, training.world)
    return Start(state, training.world)


def _react(
    job: _Job, recorder: Recorder, training: Iterator[Progress], guard: Guard, file: TextOut
) -> Session:
    """The loop, and what follows it; whatever ends it, what was done is kept."""
    with live(recorder.total_steps, file, recorder.dimensions) as view:
        recorder.phase = view.phase

        def leave() -> None:
            """Where the main thread does not come back: compiling takes long."""
            recorder.save_at_once()
            view.close()
            view.say(_interrupted(job, recorder))

        try:
            with guard.saving(leave):
                if job.past.steps:
                    view.catch_up(job.past.steps, job.past.episodes)
                for progress in training:
                    recorder.record(progress)
                    _tell(progress, job, recorder, view)
                    guard.restore()  # from an environment that handles signals itself
                    yield progress
                _after(job.options, recorder, guard, view)
                summary = recorder.finish("finished")
        except BaseException as error:
            guard.done()
            view.close()
            _keep(error, job, recorder, view)
            raise
        view.close()
    return Run(recorder.shown, summary, recorder.evaluation)


def _tell(progress: Progress, job: _Job, recorder: Recorder, view: Live) -> None:
    """Of an iteration, to the person."""
    for crash in progress.crashes:
        path = recorder.shown / write_crash(recorder.folder, crash).name
        view.say(f"{crash.what}; it was made anew ({path})")
    for note in progress.notes:
        view.say(note)
    if not progress.exact and job.past.exact:
        job.past.exact = False
        view.say(INEXACT)
    view.show(progress.steps, progress.episodes, progress.metrics)


def _after(options: Options, recorder: Recorder, guard: Guard, view: Live) -> None:
    """What follows the last iteration: the score and the film."""
    view.phase("writing the last checkpoint")
    recorder.save()
    if options.evaluate:
        view.say(_announcement(recorder.budget()))
        view.phase("making the environments of the score")
        recorder.evaluate()
        guard.restore()
    if options.video:
        view.phase("filming")
        recorder.film(view.say)
        guard.restore()


def _announcement(budget: Budget) -> str:
    """What the score may take, said before it begins."""
    most = "" if budget.seconds is None else f" and about {budget.seconds:.0f} s"
    return (
        f"score: up to {EVALUATION_EPISODES} episodes of at most {budget.longest:,} steps; with the choice "
        f"of the best of {budget.rivals} agents {budget.total_steps():,} steps{most} at most"
    )


def _keep(error: BaseException, job: _Job, recorder: Recorder, view: Live) -> None:
    """What a training that ended with ``error`` leaves."""
    if isinstance(error, EnvFault) and error.crash is not None:
        path = recorder.shown / write_crash(recorder.folder, error.crash).name
        view.say(f"{typed('poise', 'check', path)} plays the episode that failed again")
    if isinstance(error, OSError):
        with contextlib.suppress(OSError):
            recorder.close()
        return
    with _second_to(error, view):
        recorder.save()
        if isinstance(error, KeyboardInterrupt | cluster.LostCluster):
            view.say(_interrupted(job, recorder, _ending(error)))
        recorder.finish(_ending(error))


def _interrupted(job: _Job, recorder: Recorder, ending: str = "interrupted") -> str:
    """Where a training was interrupted, or lost its cluster, and how to resume it."""
    again = f"{typed('poise', 'resume', recorder.shown)}{cluster.typed(job.ray)}"
    score = recorder.evaluation
    scored = f"; greedy return {score.mean:.2f} over {len(score.length)} episodes so far" if score else ""
    return f"{ending} at step {recorder.steps:,}{scored}; to resume: {again}"


@contextlib.contextmanager
def _second_to(error: BaseException, view: Live) -> Iterator[None]:
    """What fails within is printed, and does not hide ``error``, which ended the training.

    Where memory or disk run out, one failure is followed by others. An interrupt is not a failure: then it is
    raised.
    """
    try:
        yield
    except Exception as later:
        if not isinstance(error, Exception):
            raise
        view.say(f"the run folder is not complete: {type(later).__name__}: {later}")


def _ending(error: BaseException) -> str:
    """What a run is that ended with this."""
    if isinstance(error, GeneratorExit):  # nobody asked for more of it
        return "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


LOG = "log.txt"  # of a training that is one of several: what it printed
EXPERIMENT = "experiment.json"  # in a folder that holds the runs of several seeds, of one task or more
SWEEP = "sweep.json"  # in a folder that holds the trials of a sweep, and the runs of its judgement
INEXACT = "not exact: from here on the training may be another than it would have been"


@contextlib.contextmanager
def _disk_errors(place: Path, folder: Path) -> Iterator[None]:
    """Says that the disk is full, and that nothing is lost that was saved; or what else the disk refuses.

    ``folder``: ``place``, as it is shown.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise RunError(f"{folder}: {type(error).__name__}: {error}") from error
        kept = checkpoints(place)
        saved = f"the checkpoint of step {int(kept[0].name):,} is whole; " if kept else ""
        again = typed("poise", "resume", folder)
        raise StorageError(
            f"{folder}: the disk is full ({error.strerror}); {saved}make room, then: {again}"
        ) from error
