"""One training from its first step to its folder, new or resumed."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax

from poise import envs
from poise.agents.best import slice_of
from poise.checked import ConfigError
from poise.config import Config
from poise.envs.forms.text import parse
from poise.envs.naming import JAX_PACKAGES, reaches_outside, refuse_in_processes
from poise.own.naming import check_networks, import_named
from poise.own.network import import_networks
from poise.placement import device
from poise.placement.lanes import Lanes
from poise.placement.mesh import Layout
from poise.runs.driving.run_dir import holds_training, make_run_dir, refuse_another
from poise.runs.driving.stops import Stops, look_every
from poise.runs.folders import RunError, clear, disk_errors, new_folder, same_directory, set_aside, status
from poise.runs.journal import read_greedy
from poise.runs.options import STOPS, Options
from poise.runs.peers.meeting import announce, job, led, send_start, teller
from poise.runs.reacting import Run, Session, end_by, react
from poise.runs.recorder import Recorder
from poise.runs.records import read_score, read_summary
from poise.runs.resuming import (
    Usable,
    difference,
    finished,
    newest_usable,
    same_machine,
    same_networks,
    take_up,
)
from poise.runs.setup import Conditions, Past, Setup, Stopped
from poise.runs.starting.initial import Arrays, first_start, read_start
from poise.runs.starting.repeating import Repeated, check_repeated, refuse_missing
from poise.runs.starting.source import read_source_manifest
from poise.runs.writers.tally import Tally
from poise.spec import IN_JAX, Spec
from poise.store.checkpoint import CheckpointError, checkpoints, read_manifest
from poise.store.claim import claimed
from poise.store.files import read_json
from poise.store.places import instead_of_run
from poise.system import cluster
from poise.system.compile_cache import keep_compiled
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print, typed
from poise.system.threads import THREADS
from poise.training.collector import Collector
from poise.training.groups import collected_groups, make_collector
from poise.training.loop import Around, Start, choose_layout, settle, settled_iterations
from poise.training.starting.curriculum import refuse_curriculum, with_curriculum
from poise.training.workers import Workers, WorkerSettings, check_workers
from poise.wording import counted

MOST_CPU_DEVICES = 64


@dataclass(frozen=True)
class Changes:
    """What changes when a training resumes; None: nothing.

    Attributes:
        total_steps: another budget, also for a training that is finished.
        env: the environment's name. It must be repeated if it names a Python module.
        workers: another number of processes that step the environments.
        device: another device to compute on.
        devices: another number of devices that train together.
        stop_at: another mean return at which it stops.
        max_seconds: another number of seconds after which it stops.
        curriculum: the function of its curriculum. It must be repeated, since it is in a Python module.
        network: the names of the networks of the user, which must be repeated (``module:Class``).
    """

    total_steps: int | None = None
    env: str | None = None
    workers: int | None = None
    device: Literal["auto", "cpu", "gpu"] | None = None
    devices: int | None = None
    stop_at: float | None = None
    max_seconds: float | None = None
    curriculum: str | None = None
    network: tuple[str, ...] = ()

    def of(self, options: Options) -> Options:
        """The options with what changes."""
        names = ("workers", "device", "devices", *STOPS)
        changed = {name: value for name in names if (value := getattr(self, name)) is not None}
        return dataclasses.replace(options, **changed)

    def lifts(self, stopped: Stopped) -> bool:
        """Whether a training that was stopped by this continues."""
        return self.total_steps is not None or getattr(self, stopped.by, None) is not None


@dataclass(frozen=True)
class Job:
    """A training that is about to begin, or to resume from ``resumed``."""

    task: envs.Resolved
    config: Config
    options: Options
    placed: device.Choice
    resumed: Usable | None = None


def execute(env: str, config: Config, options: Options, conditions: Conditions) -> Run:
    """``poise.train`` for a caller that has the records."""
    return _to_its_end(executing(env, config, options, conditions), conditions)


def executing(env: str, config: Config, options: Options, conditions: Conditions) -> Session:
    """``execute``, which yields after each iteration, once its rows are written."""
    options = options.settled()
    with same_directory():
        import_networks(config)
    if options.run_dir is not None:
        return (yield from _in_run_dir(env, config, options, options.run_dir, conditions))
    return (yield from _session(_new_job(env, config, options, conditions), None, conditions))


def _new_job(env: str, config: Config, options: Options, conditions: Conditions) -> Job:
    """A new training. Starts JAX on the device that suits it."""
    with same_directory():
        decide = partial(device.decide, env, options.backend, config)
        placed = device.start(options.device, decide, cpu_devices(env, options.backend, config, options))
    task = resolved(env, options.backend)
    if task.note:
        print(task.note, file=conditions.file)
    return Job(task, config, options, placed)


def _in_run_dir(env: str, config: Config, options: Options, folder: Path, conditions: Conditions) -> Session:
    """The training in exactly this folder: new, or the rest of it, or nothing if it is finished."""
    task = resolved(env, options.backend)
    make_run_dir(folder)
    with claimed(folder):
        if not holds_training(folder):
            return (yield from _session(_new_job(env, config, options, conditions), folder, conditions))
        refuse_another(folder, task, config, options)
        alone = dataclasses.replace(conditions, peers=None)  # the others have heard of it already
        if status(folder) == "finished":
            if conditions.peers is not None:  # JAX starts in the others, which need this process for that
                _placed_again(folder, Changes(env=task.id), alone)
            print(f"it is finished already: {folder}", file=conditions.file, flush=True)
            return _finished_run(folder)
        placed = _placed_again(folder, Changes(env=task.id), alone)
        usable = newest_usable(folder, conditions.file)
        again = Changes(env=task.id, curriculum=config.curriculum)
        return (yield from _resumed(folder, usable, again, placed, conditions))
    raise AssertionError


def _finished_run(folder: Path) -> Run:
    summary = read_summary(folder)  # which is checked, and has entries that earlier versions did not write
    return Run(folder, {**summary, **read_json(folder / "summary.json")}, read_score(folder, summary))


def execute_or_proceed(
    env: str, config: Config, options: Options, folder: Path, conditions: Conditions
) -> Run:
    """``execute`` into ``folder``. If the same training is there, it is resumed."""
    return _to_its_end(session(env, config, options, folder, conditions), conditions)


def session(env: str, config: Config, options: Options, folder: Path, conditions: Conditions) -> Session:
    """``execute_or_proceed`` that yields after each iteration, once its rows are written.

    It is one of several trainings side by side, which may follow each other in one process: so all of them
    compute on the same device.

    To close it before its end leaves a run that is ``stopped``, with a checkpoint of its last iteration.
    """
    options = options.settled()
    with same_directory():
        import_networks(config)
    count = cpu_devices(env, options.backend, config, options)
    placed = device.start(options.device, lambda: device.SIDE_BY_SIDE, count)
    with claimed(folder):
        task = resolved(env, options.backend)
        if (summary := finished(folder, task, config, options)) is not None:
            return Run(folder, summary, None)
        if saved := checkpoints(folder):
            usable = newest_usable(folder, conditions.file)
            if not (differs := difference(usable.manifest, task, config, options)):
                again = Changes(env=task.id, curriculum=config.curriculum)
                return (yield from _resumed(folder, usable, again, placed, conditions))
            aside = set_aside(folder)
            other = f"{saved[0].name} is of another training ({differs})"
            print(f"{other}: it is now in {aside}", file=conditions.file)
        if task.note:
            print(task.note, file=conditions.file)
        return (yield from _session(Job(task, config, options, placed), folder, conditions))
    raise AssertionError


def _to_its_end(session: Session, conditions: Conditions) -> Run:
    """Runs the session to its end. What ``on_iteration`` raises is forwarded to it, as is an interrupt."""
    answer, hear = None, conditions.on_iteration
    try:
        while True:
            progress = session.send(answer)
            answer = None if progress is None or hear is None else hear(progress)
    except StopIteration as end:
        return end.value
    except BaseException as error:
        end_by(session, error)
        raise


def proceed(run: Path, changes: Changes, conditions: Conditions) -> Run:
    """``poise.resume`` for a caller that has the records."""
    return _to_its_end(_proceeding(run, changes, conditions), conditions)


def _proceeding(run: Path, changes: Changes, conditions: Conditions) -> Session:
    if not (run / "checkpoints").is_dir():
        raise RunError(f"{run}: {instead_of_run(run) or 'no run to resume (no checkpoints in it)'}")
    with same_directory():
        import_named(changes.network)
    _refuse_missing_names(run, changes)
    with claimed(run):
        placed = _placed_again(run, changes, conditions)
        usable = newest_usable(run, conditions.file)
        return (yield from _resumed(run, usable, changes, placed, conditions))
    raise AssertionError


def _refuse_missing_names(run: Path, changes: Changes) -> None:
    """Refuses a resume that lacks several names at once, by the newest checkpoint that can be read."""
    for checkpoint in checkpoints(run):
        with contextlib.suppress(CheckpointError, ConfigError):
            manifest = read_manifest(checkpoint)
            break
    else:  # what is wrong with them is said when one is loaded
        return
    asked = {name: value for name, value in vars(changes).items() if value is not None and value != ()}
    numbers = {name: value for name, value in asked.items() if name not in ("env", "curriculum", "network")}
    words = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", f"{value}")]
    refuse_missing(run, manifest.env, manifest.config, asked.keys(), *words)


def _placed_again(run: Path, changes: Changes, conditions: Conditions) -> device.Choice:
    """Starts JAX on the device of the training, before a checkpoint is loaded, which needs it."""
    for checkpoint in checkpoints(run):
        with contextlib.suppress(CheckpointError, ConfigError, LookupError, TypeError, AttributeError):
            manifest = read_manifest(checkpoint)
            options = changes.of(Options.from_dict(manifest.notes["options"]))
            on_cpu = manifest.notes["made_with"][-1].get("device", "cpu") == "cpu"
            break
    else:  # what is wrong with them is said when one is loaded
        if conditions.peers is not None:
            raise CheckpointError(f"{run}: no checkpoint can be used")
        return device.start("cpu" if changes.device is None else changes.device, lambda: device.SIDE_BY_SIDE)
    check_networks(changes.network, manifest.config.own_networks, run)
    check_name(run, manifest.env, changes.env)  # before anything asks for the environment, which imports it
    decide = partial(device.decide_with, manifest.spec, manifest.backend, manifest.config)
    if on_cpu and changes.device is None:  # ``auto`` stays where it began
        decide = partial(device.Choice, False, "the training began on it")
        options = dataclasses.replace(options, device="cpu") if conditions.peers is not None else options
    if conditions.peers is not None:
        announce(conditions.peers, job("resume", manifest.env, manifest.backend, manifest.config, options))
    count = cpu_devices(manifest.env, manifest.backend, manifest.config, options)
    return device.start(options.device, decide, count)


def _resumed(
    run: Path, usable: Usable, changes: Changes, placed: device.Choice, conditions: Conditions
) -> Session:
    """The rest of a training, from a checkpoint of a run that is claimed."""
    manifest, file = usable.manifest, conditions.file
    steps, total_steps, stopped = manifest.steps, changes.total_steps, usable.past.stopped
    if status(run) == "finished":
        _refuse_finished(run, steps, stopped, changes)
    if stopped is not None and changes.lifts(stopped):
        usable = _without_stop(usable, stopped)
    config = manifest.config
    if total_steps is not None:
        config = dataclasses.replace(config, total_steps=total_steps)
        if config.num_iterations * config.rollout_size < steps:
            raise ConfigError(f"total_steps = {total_steps}: the run has {steps:,} steps already")
    check_name(run, manifest.env, changes.env)
    check_repeated(run, config, Repeated(curriculum=changes.curriculum))
    print(f"resuming from step {steps:,} of {config.total_steps:,}: {run}", file=file, flush=True)
    if config != manifest.config and (config.ppo.has_schedule or config.curriculum):
        print("note: schedules now follow the new budget, so the result differs from a run", file=file)
        print("that had it from the start", file=file)
    if not (same_machine(usable.past, file) and same_networks(usable, file)):
        usable = dataclasses.replace(usable, past=dataclasses.replace(usable.past, exact=False))
    task = resolved(manifest.env, manifest.backend)._replace(reading=manifest.spec)
    options = changes.of(usable.options)
    if not placed.on_gpu:  # it may have begun on a GPU
        options = dataclasses.replace(options, matmul_precision=Options.matmul_precision)
    return (yield from _session(Job(task, config, options, placed, usable), run, conditions))


def _refuse_finished(run: Path, steps: int, stopped: Stopped | None, changes: Changes) -> None:
    """
    Raises:
        RunError: nothing of ``changes`` continues a finished training.
    """
    if changes.total_steps is not None or (stopped is not None and changes.lifts(stopped)):
        return
    ended = f"{steps:,} steps" if stopped is None else f"stopped at step {steps:,} by {stopped.describe()}"
    again = "--total-steps N continues it to N steps"
    if stopped is not None and stopped.by in STOPS:
        again = f"{again}, --{stopped.by.replace('_', '-')} N to another end"
    raise RunError(f"{run}: it is finished, {ended}; {again}")


def _without_stop(usable: Usable, stopped: Stopped) -> Usable:
    """The checkpoint without what has stopped the training there."""
    options = usable.options
    if stopped.by in STOPS:
        options = dataclasses.replace(options, **{stopped.by: None})
    return dataclasses.replace(usable, options=options, past=dataclasses.replace(usable.past, stopped=None))


def check_name(run: Path, saved: str, env: str | None) -> None:
    """Refuses to import a module because ``run`` names it. ``env``: the name that the user repeats."""
    if env is None and (why := reaches_outside(saved)):
        raise RunError(
            f"{run}: its environment {saved!r} {why}, repeat the name: {typed('--env', saved)} "
            f"(in Python: env={saved!r})"
        )
    if env is not None and parse(env) != parse(saved):
        raise RunError(f"{run}: its environment is {saved}, not {env}")


def _session(job: Job, folder: Path | None, conditions: Conditions) -> Session:
    """A training in ``folder``, which is claimed; None: in a new one."""
    began = time.perf_counter() - conditions.import_seconds
    task, options, file = job.task, job.options, conditions.file
    out, place = options.out.absolute(), folder and folder.absolute()
    keep_compiled(options.compile_cache)
    options.check_against(task.backend)
    check_workers(options.workers, job.config, task.backend, conditions.ray)
    if options.workers:
        refuse_in_processes(task.id, "--workers")
    with contextlib.ExitStack() as stack:
        stack.enter_context(device.precision(options.matmul_precision, on_gpu=job.placed.on_gpu))
        stack.enter_context(same_directory())
        with announced(f"making the environments: {task.id}", partial(print, file=file, flush=True)):
            world = made_world(_read_alike(job), conditions, stack)
        conditions.guard.restore()
        setup, initial = _started(job, _setup(job, world.spec, folder, conditions), file)
        lanes = conditions.lanes or Lanes(options.together or 1)
        layout = choose_layout(setup.config, world, options.devices, lanes.count)
        if place is None or folder is None:
            place = new_folder(out, task.id, str(setup.config.seed), options.name)
            folder = options.out / place.relative_to(out)
            stack.enter_context(claimed(place))
        stack.enter_context(disk_errors(place, folder))
        past = Past() if job.resumed is None else take_up(place, job.resumed.past)
        if job.resumed is None:
            clear(place)
        # From the first file in the folder to where an interrupt is handled, it waits: else a folder would be
        # left that does not say how its training ended.
        waiting = stack.enter_context(contextlib.ExitStack())
        waiting.enter_context(conditions.guard.deferred())
        tally = Tally(past, began, conditions.import_seconds)
        recorder = Recorder(place, folder, setup, past, tally=tally, guard=conditions.guard, initial=initial)
        conditions.guard.began = True
        start = _start(job, recorder, initial)
        send_start(conditions, setup, start)
        _announce(setup, world, job.placed, layout, conditions)
        stops = Stops(setup, past, in_blocks=layout is not None, seconds=tally.total_seconds)
        stops.resume(past, read_greedy(place))
        training = settled_iterations(
            setup.config,
            world,
            start,
            layout=layout,
            pauses=_pauses(setup),
            lanes=lanes,
            around=Around(teller(conditions.peers), stops.is_stopped, past.episodes),
        )
        return (yield from react(led(training, conditions.peers), recorder, stops, conditions, waiting.close))
    raise AssertionError


def _pauses(setup: Setup) -> list[int]:
    """Numbers of environment steps at whose multiples something looks at the state of a training."""
    options, total_steps = setup.options, setup.total_steps
    looks = None if options.stop_at is None else look_every(total_steps)
    pauses = (options.checkpoint_every, options.eval_every, slice_of(total_steps), looks)
    return [every for every in pauses if every is not None]


def cpu_devices(env: str, backend: envs.Backend, config: Config, options: Options) -> int:
    """The devices that JAX starts with on a CPU, each with a thread.

    As many for any number of devices that learn together, since the last bits of long sums depend on the
    number of threads. A task of a user's module is not looked at: to import it might start JAX.
    """
    if config.env_groups == 1:
        return THREADS
    name = parse(env).env.name
    package = name.partition(":")[0] if ":" in name else None
    in_jax = package in JAX_PACKAGES or (package is None and resolved(env, backend).backend in IN_JAX)
    return min(config.env_groups, MOST_CPU_DEVICES) if in_jax or options.devices > 1 else THREADS


def resolved(env: str, backend: envs.Backend) -> envs.Resolved:
    """``envs.resolve``, after which the working directory is what it was."""
    with same_directory():
        return envs.resolve(env, backend)
    raise AssertionError


def made_world(job: Job, conditions: Conditions, stack: contextlib.ExitStack) -> Collector:
    """Makes what collects for a training, here or in the processes of a cluster; ``stack`` closes it."""
    task, config, options = job.task, job.config, job.options
    if options.workers:
        refuse_curriculum(config, f"workers = {options.workers}")
        stack.enter_context(cluster.joined(conditions.ray or cluster.LOCAL, processes=options.workers))
        settings = WorkerSettings(options.workers, options.env_timeout, options.on_crash == "restart")
        world = Workers(task, config, settings, conditions.file)
        stack.callback(world.close)
        return world
    made = []
    for group in collected_groups(config, in_jax=task.backend in IN_JAX):
        env = envs.make(
            task.id,
            group.num_envs,
            task.backend,
            timeout=options.env_timeout,
            restart=options.on_crash == "restart",
            first=group.first,
            reading=task.reading,
        )
        stack.callback(env.close)
        made.append(env)
    return with_curriculum(make_collector(made, config), made, config)


def _setup(job: Job, spec: Spec, folder: Path | None, conditions: Conditions) -> Setup:
    """The training with a number for every option, checked against its environment."""
    resumed = job.resumed
    config = settle(job.config, spec, new=resumed is None)
    if resumed is None:
        for warning in job.config.warnings():
            print(f"warning: {warning}", file=conditions.file)
        for path, (_, _, why) in job.config.without_effect(spec).items():
            print(f"note: {path} has no effect on {why}: skipped", file=conditions.file)
    elif spec != resumed.manifest.spec:
        raise RunError(f"{folder}: {job.task.id} has changed since: {spec}, was {resumed.manifest.spec}")
    return Setup(job.task, spec, config, job.options)


def _read_alike(job: Job) -> Job:
    """The job with an environment that is read as the agent reads it from which it starts."""
    if job.resumed is not None or job.config.start_from is None:
        return job
    spec = read_source_manifest(job.config.start_from).spec
    return dataclasses.replace(job, task=job.task._replace(reading=spec))


def _started(job: Job, setup: Setup, file: TextOut) -> tuple[Setup, Arrays]:
    """``read_start`` of a new training. One that resumes has all of it in its checkpoint."""
    if job.resumed is None:
        return read_start(setup, file)
    return setup, job.resumed.training.initial


def _start(job: Job, recorder: Recorder, initial: Arrays) -> Start | None:
    """What the training resumes from or starts with; None: random networks."""
    training = None if job.resumed is None else job.resumed.training
    if training is None or training.state is None:
        return first_start(recorder.setup, initial)
    recorder.resume(training.state, training.world)
    return Start(training.state, training.world)


def _announce(
    setup: Setup, world: Collector, placed: device.Choice, layout: Layout | None, conditions: Conditions
) -> None:
    """Shows what is about to be trained, on what, and with which discount."""
    config, limit = setup.config, setup.spec.time_limit
    devices = jax.local_devices()
    learners = "one device" if devices[0] == devices[-1] else "two devices at once"
    if layout is not None:
        count = len(layout.devices)
        learners = "one device" if count == 1 else f"{count} devices"
        learners += "" if conditions.peers is None else f" of {conditions.peers.count} processes"
        learners += ", whole iterations as one program"
        learners += f" of {layout.groups} groups" if layout.groups > 1 else ""
        together = setup.options.together or 1
        learners += f" of {together} seeds" if together > 1 else ""
    # A time limit that the environment does not declare would give another discount.
    horizon = "no time limit is declared" if limit is None else f"episodes end after {limit:,} steps"
    lines = [
        f"{setup.task.id}: {setup.total_steps:,} steps, seed {config.seed}",
        f"on {world.backend}, learning on {learners}: "
        f"{counted(config.num_iterations, 'iteration')} x {config.rollout_size:,}",
        f"discount {config.ppo.gamma:.4g}; {horizon}",
    ]
    if placed.reason is not None:
        lines.insert(2, f"device: {placed.describe()}")
    lines += [*_spaces_in_words(setup.spec), *_memories_in_words(config)]
    print(*lines, sep="\n", file=conditions.file, flush=True)


def _spaces_in_words(spec: Spec) -> list[str]:
    """How spaces are read that are more than one vector, one box or one choice; and what is left out."""
    lines = [f"note: {sentence}" for sentence in spec.left_out]
    if len(spec.obs) > 1 or any(leaf.kind != "vector" for leaf in spec.obs):
        lines.append(f"observes {spec.describe_obs()}")
    if len(spec.action) > 1:
        lines.append(f"acts by {spec.describe_action()}")
    return lines


def _memories_in_words(config: Config) -> list[str]:
    """Which networks remember, and what they learn from. ``config`` is settled."""
    if config.history > 1:
        return [f"reads the last {config.history} observations, side by side"]
    sizes = {"policy": config.policy, "value function": config.value}
    kinds = {n: f"{x.memory} of {x.memory_size}" for n, x in sizes.items() if x.memory != "none"}
    if not kinds:
        return []
    who = ", ".join(f"{name}: {kind} units" for name, kind in kinds.items())
    return [f"memory ({who}), learning from sequences of {config.ppo.sequence_length} steps"]
