"""The verbs train and resume."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from poise.checked import ConfigError
from poise.cli.arguments import Json, OwnNetwork, Ray, RunEnv, Source, find_modules_here
from poise.cli.telling import tell_experiment, tell_run, tell_sweep, text_output
from poise.config import Config
from poise.runs.options import Options
from poise.runs.peers.options import PeerOptions
from poise.settings.files import NOTHING, Settings
from poise.settings.presets import starting_point
from poise.system.interrupts import Guard
from poise.system.pulse import announced
from poise.system.streams import TextOut, quiet_output
from poise.system.terminal import print

ALONE = PeerOptions()


class _EnvName(Exception):
    """Carries the value of ENV out of the parser, before it parses the other options."""


def env_name(arguments: list[str]) -> str:
    """The value of ENV in the arguments of ``poise train``; "" where they are not complete.

    ENV may be the name of a preset, which decides the defaults of all other options, so it is read first.
    """

    def read(words: list[str]) -> str:
        raise _EnvName(words[0])

    try:
        tyro.cli(
            train_command("", read),
            args=arguments,
            add_help=False,
            console_outputs=False,
            return_unknown_args=True,
        )
    except _EnvName as name:
        return str(name)
    except SystemExit:  # the parse that follows reports the error
        pass
    return ""


@dataclass(frozen=True, kw_only=True)
class Asked(Source):
    """How the environment is made, where the settings come from, and how many trainings there are."""

    seeds: int = 1
    """Number of trainings, with consecutive seeds starting at --seed, side by side on all cores."""


def train_command(
    target: str,
    read: Callable[[list[str]], str] = "".join,
    guard: Guard | None = None,
    settings: Settings = NOTHING,
) -> Callable[..., None]:
    """``poise train`` with the defaults of the preset ``target``, or the usual ones for any other name.

    ``read`` makes ENV from its words. ``guard`` is told of interrupts. ``settings``: of ``--config``.
    """
    default, usual = settings.over(starting_point(target)[1]), settings.options_over(Options())
    name = PrimitiveConstructorSpec(1, "ENV|PRESET", read, lambda value: True, lambda value: [value])
    where = f"(default: {settings.env})" if settings.env else "(required, unless --config names one)"
    named = arg(help_behavior_hint=where)

    def train(
        env: Annotated[str, Positional, name, named] = "",
        config: Annotated[Config, arg(name="")] = default,
        options: Annotated[Options, arg(name="")] = usual,
        meeting: Annotated[PeerOptions, arg(name="")] = ALONE,
        asked: Annotated[Asked, arg(name="")] = Asked(),
        ray: Ray = None,
        json_: Json = False,
    ) -> None:
        """Train an agent, score it, make a video of it, and keep everything in a folder.

        Example: poise train Reacher-v4 --total-steps 200k --seed 1

        Args:
            env: An environment such as InvertedPendulum-v4, or a preset (see poise envs, poise presets).
            config: The settings of the training.
            options: The options that do not change what is learned.
            meeting: The machines of one training.
            asked: How the environment is made, where the settings come from, and how many trainings.
        """
        find_modules_here(config.curriculum, config.own_networks)
        if not env and settings is NOTHING:
            raise ConfigError("ENV is missing; name an environment or a preset (poise envs, poise presets)")
        id, _ = starting_point(asked.of(env or None, settings))
        if asked.seeds == 1:
            _train_one(id, config, options, meeting, guard or Guard(), ray, json_)
            return
        if meeting.others:
            raise ConfigError(f"seeds = {asked.seeds}: must be 1 with coordinator, which is for one training")
        _train_seeds(id, config, options, asked.seeds, ray, json_)

    return train


def _train_one(
    id: str,
    config: Config,
    options: Options,
    meeting: PeerOptions,
    guard: Guard,
    ray: str | None,
    json_: bool,
) -> None:
    """
    Raises:
        ConfigError: a single training shall be one of several.
    """
    if (options.together or 1) > 1:
        raise ConfigError(f"together = {options.together}: is for several seeds; add --seeds")
    start, file = time.perf_counter(), text_output(json_)
    with announced("loading", partial(print, file=file, flush=True)):
        from poise.runs.peers.following import execute_with_peers
        from poise.runs.setup import Conditions

    conditions = Conditions(file, guard, time.perf_counter() - start, ray)
    with quiet_output():
        run = execute_with_peers(id, config, options, conditions, meeting)
    tell_run(run, json_)


def _train_seeds(id: str, config: Config, options: Options, seeds: int, ray: str | None, json_: bool) -> None:
    from poise.studies.experiment import execute_seeds

    with quiet_output():
        experiment = execute_seeds(id, config, options, num_seeds=seeds, ray=ray, file=text_output(json_))
    tell_experiment(experiment, json_)


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What a run folder names and the user has to repeat: a folder alone makes poise neither import a module,
    nor connect to a storage, nor read another folder."""

    env: RunEnv = None
    network: OwnNetwork = ()
    storage: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """The storage of the sweep, repeated where its trials are in one: a folder alone never makes poise
    connect to a storage."""
    against: Annotated[Path | None, arg(metavar="EXPERIMENT", help_behavior_hint="")] = None
    """The folder of the other experiment, repeated where the experiment is compared with one."""
    start_from: Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")] = None
    """The run from which the trainings of an experiment or a sweep start. A single training does not need it
    any more."""
    demonstrations: Annotated[str | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The demonstrations of an experiment or a sweep, likewise."""
    curriculum: Annotated[str | None, arg(metavar="FUNCTION", help_behavior_hint="")] = None
    """The function of the curriculum, repeated if the training has one."""

    def of_run(self) -> dict[str, Any]:
        """What a single training needs of it."""
        return {"env": self.env, "network": self.network, "curriculum": self.curriculum}


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What is changed of a single training."""

    total_steps: int | None = None
    """Another budget, also for a finished training. The learning rates go to 0 over it; None: the same."""
    workers: int | None = None
    """Another number of processes that step the environments of a single training; None: the same."""
    device: Literal["auto", "cpu", "gpu"] | None = None
    """Another device to compute on. From there on, the bits may differ; None: the same."""
    devices: int | None = None
    """Another number of devices that train together; None: the same."""
    stop_at: float | None = None
    """Another mean return (of the last 100 episodes) at which it stops, also for a training that stopped at
    one; None: the same."""
    max_seconds: float | None = None
    """Another time limit, also for a training that it has stopped; None: the same."""


def resume_command(guard: Guard) -> Callable[..., None]:
    """``poise resume``; ``guard`` is told of interrupts."""

    def resume(
        run: Annotated[Path | None, Positional, arg(metavar="[RUN]", help_behavior_hint="")] = None,
        changed: Annotated[Changed, arg(name="")] = Changed(),
        meeting: Annotated[PeerOptions, arg(name="")] = ALONE,
        out: Path = Path("runs"),
        repeated: Annotated[Repeated, arg(name="")] = Repeated(),
        ray: Ray = None,
        json_: Json = False,
    ) -> None:
        """Resume an interrupted training, experiment or sweep. The result is the same as without the
        interruption.

        Example: poise resume runs/Reacher-v4/20261124-120000-0 --total-steps 400k

        Args:
            run: The folder to resume; by default the one under --out that was saved last and is not finished,
                whether it was interrupted, killed or failed.
            changed: What is changed of a single training.
            meeting: The machines of one training.
            out: The folder in which to look for an unfinished run.
        """
        file = text_output(json_)
        start = time.perf_counter()
        from poise.runs.peers.following import proceed_with_peers
        from poise.runs.session import Changes
        from poise.runs.setup import Conditions
        from poise.studies.unfinished import EXPERIMENT, SWEEP

        loaded = time.perf_counter() - start
        find_modules_here(repeated.env, repeated.curriculum, repeated.network)
        follows = meeting.others and meeting.process != 0  # it needs no folder
        folder = _newest(out, file) if run is None and not follows else run or Path()
        kinds = () if follows else (SWEEP, EXPERIMENT)
        kind = next((kind for kind in kinds if (folder / kind).exists()), None)
        _check_kind(repeated, is_sweep=kind == SWEEP, is_experiment=kind == EXPERIMENT)
        if kind is not None:
            _refuse_changes(changed, meeting)
            resume_study = _resume_sweep if kind == SWEEP else _resume_experiment
            resume_study(folder, repeated, ray, json_)
            return
        changes = Changes(**repeated.of_run(), **vars(changed))
        with quiet_output():
            resumed = proceed_with_peers(folder, changes, Conditions(file, guard, loaded, ray), meeting)
        tell_run(resumed, json_)

    return resume


def _newest(out: Path, file: TextOut) -> Path:
    """The unfinished run that was saved last. A line names it, and whether it has failed, as it may again."""
    from poise.runs.folders import status
    from poise.studies.unfinished import newest_unfinished

    folder = newest_unfinished(out)
    failed = ", which has failed" if status(folder) == "failed" else ""
    print(f"the newest unfinished run{failed}: {folder}", file=file, flush=True)
    return folder


def _check_kind(repeated: Repeated, *, is_sweep: bool, is_experiment: bool) -> None:
    if repeated.storage is not None and not is_sweep:
        raise ConfigError("--storage is only for a sweep")
    if repeated.against is not None and not is_experiment:
        raise ConfigError("--against is only for an experiment")
    for option, value in (("start-from", repeated.start_from), ("demonstrations", repeated.demonstrations)):
        if value is not None and not (is_sweep or is_experiment):
            raise ConfigError(
                f"--{option} is only for an experiment or a sweep; a training has its start in its "
                "checkpoints"
            )


def _of_trainings(repeated: Repeated) -> Any:
    """What is repeated of the trainings of a study."""
    from poise.runs.starting.repeating import Repeated as OfTrainings

    names = ("start_from", "demonstrations", "curriculum")
    return OfTrainings(**{name: getattr(repeated, name) for name in names})


def _refuse_changes(changed: Changed, meeting: PeerOptions) -> None:
    """Refuses the options that change a single training."""
    if meeting.others:
        raise ConfigError("--coordinator is for a single training; pass that run's folder")
    if changed.total_steps is not None:
        raise ConfigError("--total-steps changes the budget of a single run; pass that run's folder")
    if changed.workers is not None:
        raise ConfigError("--workers is for a single training; use --ray to spread several trainings")
    ends = (("stop-at", "the end"), ("max-seconds", "the end"))
    for option, what in (("device", "the device"), ("devices", "the devices"), *ends):
        if getattr(changed, option.replace("-", "_")) is not None:
            raise ConfigError(f"--{option} changes {what} of a single run; pass that run's folder")


def _resume_sweep(folder: Path, repeated: Repeated, ray: str | None, json_: bool) -> None:
    from poise.studies.sweep.sweep import proceed_sweep

    asked = {"env": repeated.env, "network": repeated.network, "storage": repeated.storage}
    asked["repeated"] = _of_trainings(repeated)
    with quiet_output():
        sweep = proceed_sweep(folder, **asked, ray=ray, file=text_output(json_))
    tell_sweep(sweep, json_)


def _resume_experiment(folder: Path, repeated: Repeated, ray: str | None, json_: bool) -> None:
    from poise.studies.experiment import proceed_experiment

    asked = {"env": repeated.env, "network": repeated.network, "against": repeated.against}
    asked["repeated"] = _of_trainings(repeated)
    with quiet_output():
        experiment = proceed_experiment(folder, **asked, ray=ray, file=text_output(json_))
    tell_experiment(experiment, json_)
