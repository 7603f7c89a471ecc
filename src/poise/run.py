"""One training from its first step to its folder: the loop that reacts. And how it goes on later."""

import contextlib
import dataclasses
import errno
import json
import re
import shutil
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jax

from poise import cluster, envs
from poise.best import PLACES, Candidate
from poise.checkpoint import (
    CheckpointError,
    Manifest,
    Training,
    checkpoints,
    clear_leftovers,
    load_training,
    read_plain,
    step_folder,
)
from poise.claim import ClaimError, claimed
from poise.compiled import forget_compiled, keep_compiled
from poise.config import Config, ConfigError
from poise.envs.checking import EnvFault
from poise.errors import PoiseError
from poise.evaluation import Evaluation
from poise.interrupts import Guard
from poise.journal import LOGS, JournalError, cut, read_episodes
from poise.live import live
from poise.loop import Progress, Start, iterations
from poise.machine import start_platform
from poise.options import Options
from poise.presets import configure
from poise.recorder import PARTS, Past, Recorder
from poise.replay import write_crash
from poise.rollout import Collector
from poise.sharding import make_collector, shards
from poise.spec import Spec
from poise.streams import TextOut
from poise.update import placed
from poise.workers import Workers, check_workers


class RunError(PoiseError):
    """A run folder that cannot be made, or cannot be gone on with."""


class StorageError(PoiseError):
    """A disk that is full. What was saved before is whole."""

    exit_code = 75


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
    options = Options(
        backend=backend,
        out=Path(out),
        evaluate=evaluate,
        video=video,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        on_crash=on_crash,  # pyright: ignore[reportArgumentType] (checked there)
        env_timeout=env_timeout,
        workers=workers,
        compile_cache=compile_cache,
    )
    id, configured = configure(env, **config)
    return execute(id, configured, options, ray=ray, file=file or sys.stdout)


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
    out = file or sys.stdout
    return proceed(Path(run), total_steps=total_steps, env=env, workers=workers, ray=ray, file=out)


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
    folder: Path | None = None,
    ray: str | None = None,
    guard: Guard | None = None,
    file: TextOut,
) -> Run:
    """``train`` with its records made, into ``folder``, which is there, or a new one.

    ``import_seconds``: what loading took before this call. ``guard``: what sees to it that an interrupt is
    heard (``poise.interrupts``).
    """
    found = envs.resolve(env, options.backend)
    if found.note:
        print(found.note, file=file)
    job = _Job(found, config, options, Past(), Training(), import_seconds, ray)
    return _to_its_end(_session(job, folder, guard or Guard(), file))


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
    found = envs.resolve(env, options.backend)
    guard = guard or Guard()
    if _holds(folder, found, config, options):
        if status(folder) == "finished":
            return Run(folder, json.loads(read_plain(folder / "summary.json", 2**20)), None)
        with contextlib.suppress(CheckpointError):  # its tables do not reach any: nothing is left of it
            return (yield from _proceeding(folder, env=found.id, guard=guard, file=file))
    if found.note:
        print(found.note, file=file)
    job = _Job(found, config, options, Past(), Training(), 0.0)
    return (yield from _session(job, folder, guard, file))


def _holds(folder: Path, found: envs.Resolved, config: Config, options: Options) -> bool:
    """Whether there is a checkpoint of this very training."""
    try:
        (kept, *_) = checkpoints(folder)
        training, manifest = load_training(kept)
        _, chosen = _past(training, manifest, kept)
    except (ValueError, CheckpointError):  # none, or none that is usable
        return False
    same = (manifest.env, manifest.backend) == (found.id, found.backend)
    same = same and manifest.config == config.settled(manifest.spec)
    return same and chosen == dataclasses.replace(options, out=chosen.out)


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
        training, manifest, past, options = _newest_usable(run, file)
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
                f"repeat the name: --env {known} (in Python: env={known!r})"
            )
        if env is not None and env != known:
            raise RunError(f"{run}: its environment is {known}, not {env}")
        print(f"going on from step {steps:,} of {config.total_steps:,}: {run}", file=file, flush=True)
        if config != manifest.config and config.ppo.anneal != "none":
            print("the learning rates go to 0 over the new budget: not the training that", file=file)
            print("this budget would have given from the start", file=file)
        found = envs.resolve(known, manifest.backend)
        if workers is not None:
            options = dataclasses.replace(options, workers=workers)
        job = _Job(found, config, options, past, training, import_seconds, ray)
        return (yield from _session(job, run, guard, file, resumed=manifest))


def status(run: Path) -> str | None:
    """What the summary of a run says of it; None where there is none."""
    path = run / "summary.json"
    if not path.exists():
        return None
    try:
        return str(json.loads(read_plain(path, 2**20))["status"])
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        return None


def newest_unfinished(out: Path) -> Path:
    """The run under ``out`` that was saved last of those that are not finished and not being trained.

    Of one that belongs to an experiment or a sweep, the whole.

    Raises:
        RunError: there is none.
    """
    found = [
        (c[0].stat().st_mtime, p.parent) for p in out.glob("**/checkpoints") if (c := checkpoints(p.parent))
    ]
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


def _newest_usable(run: Path, file: TextOut) -> tuple[Training, Manifest, Past, Options]:
    """The newest checkpoint that is whole and that the tables reach."""
    problem = CheckpointError(f"{run}: no checkpoint is kept there")
    for folder in checkpoints(run):
        try:
            training, manifest = load_training(folder)
            if folder != step_folder(run, manifest.steps):
                raise CheckpointError(f"{folder}: is of step {manifest.steps:,}")
            past, options = _past(training, manifest, folder)
            cut(run, past.position, check=True)
        except (CheckpointError, JournalError) as error:
            problem = error
            print(f"{folder.name} cannot be used: {error}", file=file)
            continue
        return training, manifest, past, options
    raise CheckpointError(f"{run}: no checkpoint can be used: {problem}")


def _take_up(run: Path, past: Past) -> None:
    """Puts the folder back to where the checkpoint was made."""
    clear_leftovers(run)
    for newer in checkpoints(run):
        if int(newer.name) > past.steps:  # which cannot be used, and is not deleted either
            aside = newer.with_name(f"unusable-{newer.name}")
            shutil.rmtree(aside, ignore_errors=True)
            newer.rename(aside)
    cut(run, past.position)
    (run / "summary.json").unlink(missing_ok=True)
    past.episodes = read_episodes(run)


def _past(training: Training, manifest: Manifest, folder: Path) -> tuple[Past, Options]:
    """What the notes of a checkpoint say.

    Raises:
        CheckpointError: they say what cannot be.
    """
    notes = manifest.notes
    try:
        seconds = {part: float(notes["seconds"][part]) for part in (*PARTS, "total")}
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
        )
        return past, options
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'manifest.json'}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{folder / 'manifest.json'}: is damaged: {error!r:.200}") from error


def _session(
    job: _Job, folder: Path | None, guard: Guard, file: TextOut, *, resumed: Manifest | None = None
) -> Session:
    begun = time.perf_counter() - job.import_seconds
    start_platform()
    found, config, options = job.found, job.config, job.options
    keep_compiled(options.compile_cache)
    forget_compiled()
    options.check_against(found.backend)
    check_workers(options, config, found.backend, job.ray)
    with contextlib.ExitStack() as stack:
        world = _world(job, stack, file)
        config.check_against(world.spec)
        if resumed is None:
            config.refuse_idle()
            for warning in config.warnings():
                print(f"warning: {warning}", file=file)
        config = config.settled(world.spec)
        if resumed is not None and world.spec != resumed.spec:
            raise RunError(f"{folder}: {found.id} has changed since: {world.spec}, was {resumed.spec}")
        if resumed is None:
            if folder is None:
                folder = new_folder(options.out, found.id, str(config.seed))
            stack.enter_context(claimed(folder))
            _empty(folder)
            (folder / "checkpoints").mkdir()
        assert folder is not None
        stack.enter_context(_disk_errors(folder))
        if resumed is not None:
            _take_up(folder, job.past)
        recorder = Recorder(folder, options, found, config, world.spec, job.past, begun, guard)
        recorder.seconds["import"] += job.import_seconds
        start = _start(job, recorder)
        print(
            f"{found.id} on {world.backend}, learning on {_devices()}: {config.num_iterations} iterations x "
            f"{config.rollout_size:,} = {recorder.total_steps:,} steps, seed {config.seed}",
            file=file,
        )
        print(_discount(config, world.spec), file=file, flush=True)
        stack.enter_context(guard.saving(recorder.save_at_once))
        return (yield from _react(job, recorder, iterations(config, world, start), guard, file))
    raise AssertionError


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


def _empty(folder: Path) -> None:
    """Removes what is left of another training."""
    for name in (*LOGS, "summary.json"):
        (folder / name).unlink(missing_ok=True)
    if (folder / "checkpoints").exists():
        shutil.rmtree(folder / "checkpoints")


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
    options, folder = job.options, recorder.folder
    evaluation, best = None, None
    try:
        with live(recorder.total_steps, file) as view:
            if job.past.steps:
                view.catch_up(job.past.steps, job.past.episodes)
            for progress in training:
                recorder.record(progress)
                for crash in progress.crashes:
                    path = write_crash(folder, crash)
                    view.say(f"{crash.what}; it was made anew ({path})")
                for note in progress.notes:
                    view.say(note)
                if not progress.exact and job.past.exact:
                    job.past.exact = False
                    view.say(INEXACT)
                view.show(progress.steps, progress.episodes, progress.metrics)
                yield progress
        recorder.save()
        if options.evaluate:
            evaluation, best = recorder.evaluate()
        if options.video:
            recorder.film(file)
    except BaseException as error:
        guard.done()
        if isinstance(error, EnvFault) and error.crash is not None:
            path = write_crash(folder, error.crash)
            print(f"poise check {path} plays the episode that failed again", file=file)
        if isinstance(error, OSError):
            with contextlib.suppress(OSError):
                recorder.close()
            raise
        recorder.save()
        if isinstance(error, KeyboardInterrupt):
            print(
                f"interrupted at step {recorder.steps:,}; to go on: "
                f"poise resume {folder}{cluster.typed(job.ray)}",
                file=file,
                flush=True,
            )
        recorder.finish(_ending(error), evaluation, best)
        raise
    return Run(folder, recorder.finish("finished", evaluation, best), evaluation)


def _ending(error: BaseException) -> str:
    """What a run is that ended with this."""
    if isinstance(error, GeneratorExit):  # nobody asked for more of it
        return "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


EXPERIMENT = "experiment.json"  # in a folder that holds the runs of several seeds, of one task or more
SWEEP = "sweep.json"  # in a folder that holds the trials of a sweep, and the runs of its judgement
INEXACT = (
    "not exact: an environment did not come back to where it was, and began its next episode; "
    "from here on the training is another than it would have been"
)


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Says that the disk is full, and that nothing is lost that was saved; or what else the disk refuses."""
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise RunError(f"{folder}: {type(error).__name__}: {error}") from error
        kept = checkpoints(folder)
        saved = f"the checkpoint of step {int(kept[0].name):,} is whole; " if kept else ""
        raise StorageError(
            f"{folder}: the disk is full ({error.strerror}); {saved}make room, then: poise resume {folder}"
        ) from error
