"""One training from its first step to its folder: the loop that reacts. And how it goes on later."""

import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from poise import envs
from poise.agents.evaluation import Evaluation
from poise.checked import ConfigError
from poise.config import Config
from poise.envs.checking import EnvFault
from poise.placement import two_devices
from poise.runs.budget import Budget
from poise.runs.crash import write_crash
from poise.runs.folders import RunError, disk_errors, new_folder, same_directory, set_aside, status
from poise.runs.journal import LOGS, METRICS
from poise.runs.live import Live, live
from poise.runs.options import Options
from poise.runs.recorder import EVALUATION_EPISODES, Past, Recorder
from poise.runs.resuming import Usable, compare_machines, difference, finished, newest_usable, take_up
from poise.spec import Spec
from poise.store.checkpoint import (
    Manifest,
    Training,
    checkpoints,
    clear_leftovers,
)
from poise.store.claim import claimed
from poise.system import cluster
from poise.system.compile_cache import keep_compiled
from poise.system.interrupts import Guard
from poise.system.machine import start_platform
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print, typed
from poise.training.collector import Collector
from poise.training.groups import make_collector, shards
from poise.training.loop import Progress, Start, iterations
from poise.training.workers import Workers, WorkerSettings, check_workers


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
    heard (``poise.system.interrupts``).
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
            usable = newest_usable(folder, file)
            if not (differs := difference(usable.manifest, found, config, options)):
                return (yield from _going_on(folder, usable, env=found.id, guard=guard, file=file))
            aside = set_aside(folder)
            print(f"{kept[0].name} is of another training ({differs}): it is now in {aside}", file=file)
        if found.note:
            print(found.note, file=file)
        job = _Job(found, config, options, Past(), Training(), 0.0)
        return (yield from _session(job, folder, guard, file))
    raise AssertionError


def _to_its_end(session: Session) -> Run:
    """Run the session to its end. An interrupt between iterations is forwarded to it."""
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
    """`resume` with the arguments that only the command line has."""
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
        raise RunError(f"{run}: no run to resume (no checkpoints in it)")
    start_platform()
    with claimed(run):
        usable = newest_usable(run, file)
        again = {"total_steps": total_steps, "env": env, "workers": workers, "ray": ray}
        return (
            yield from _going_on(run, usable, **again, import_seconds=import_seconds, guard=guard, file=file)
        )
    raise AssertionError


def _going_on(
    run: Path,
    usable: Usable,
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
    print(f"resuming from step {steps:,} of {config.total_steps:,}: {run}", file=file, flush=True)
    if config != manifest.config and config.ppo.anneal != "none":
        print("the learning rates go to 0 over the new budget: not the training that", file=file)
        print("this budget would have given from the start", file=file)
    compare_machines(past, file)
    found = resolved(known, manifest.backend)
    if workers is not None:
        options = dataclasses.replace(options, workers=workers)
    job = _Job(found, config, options, past, usable.training, import_seconds, ray)
    return (yield from _session(job, run, guard, file, resumed=manifest))


def _session(
    job: _Job, folder: Path | None, guard: Guard, file: TextOut, *, resumed: Manifest | None = None
) -> Session:
    """Into ``folder``, which is claimed, or a new one."""
    begun = time.perf_counter() - job.import_seconds
    start_platform()
    found, config, options = job.found, job.config, job.options
    out, place = options.out.absolute(), folder and folder.absolute()
    keep_compiled(options.compile_cache)
    options.check_against(found.backend)
    check_workers(options.workers, config, found.backend, job.ray)
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
        stack.enter_context(disk_errors(place, folder))
        if resumed is not None:
            take_up(place, job.past)
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


def _world(job: _Job, stack: contextlib.ExitStack, file: TextOut) -> Collector:
    """What collects for a training, here or in the processes of a cluster; ``stack`` closes it."""
    found, config, options = job.found, job.config, job.options
    if options.workers:
        stack.enter_context(cluster.joined(job.ray or cluster.LOCAL, processes=options.workers))
        settings = WorkerSettings(options.workers, options.env_timeout, options.on_crash == "restart")
        world = Workers(found, config, settings, file)
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
    state = two_devices.place(training.state)
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
        view.say(f"{crash.what}; it was made again ({path})")
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


INEXACT = "not exact: from here on the training may be another than it would have been"
