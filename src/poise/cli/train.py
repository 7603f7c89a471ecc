"""The verbs train and resume."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from poise.checked import ConfigError
from poise.cli.arguments import Json, Ray, RunEnv, find_modules_here, unset
from poise.cli.telling import tell_experiment, tell_run, tell_sweep
from poise.config import Config
from poise.runs.options import Options
from poise.runs.presets import starting_point
from poise.system.interrupts import Guard
from poise.system.pulse import announced
from poise.system.streams import quiet_output
from poise.system.terminal import print


class _Named(Exception):
    """The value of ENV, thrown from inside the parser before it makes anything of the other options."""


def env_name(arguments: list[str]) -> str:
    """What the arguments of ``poise train`` give as ENV; "" where they are not complete.

    A preset's name there decides the defaults of all other options, so it has to be known first.
    """

    def found(given: list[str]) -> str:
        raise _Named(given[0])

    try:
        tyro.cli(
            train_command("", found),
            args=arguments,
            add_help=False,
            console_outputs=False,
            return_unknown_args=True,
        )
    except _Named as named:
        return str(named)
    except SystemExit:  # the parse that follows says what is wrong
        pass
    return ""


def train_command(
    named: str, read: Callable[[list[str]], str] = "".join, guard: Guard | None = None
) -> Callable[..., None]:
    """``poise train`` with the defaults of the preset ``named``, or the usual ones for any other name.

    ``read`` gets what was typed for ENV. ``guard`` hears of interrupts.
    """
    _, default = starting_point(named)
    name = PrimitiveConstructorSpec(1, "ENV|PRESET", read, lambda value: True, lambda value: [value])

    def train(
        env: Annotated[str, Positional, name],
        config: Annotated[Config, arg(name="")] = default,
        options: Annotated[Options, arg(name="")] = Options(),  # noqa: B008 (frozen)
        seeds: int = 1,
        ray: Ray = None,
        json_: Json = False,
    ) -> None:
        """Train an agent, score it, film it, and keep everything in a folder.

        Example: poise train Reacher-v4 --total-steps 200k --seed 1

        Args:
            env: An environment, for example InvertedPendulum-v4, or a preset (see poise envs, poise presets).
            config: Everything that decides what is learned.
            options: Everything else.
            seeds: How many trainings, with the seeds from --seed on, side by side on all cores.
        """
        file = sys.stderr if json_ else sys.stdout
        find_modules_here(env)
        id, _ = starting_point(env)
        if seeds != 1:
            from poise.studies.experiment import execute_experiment

            with quiet_output():
                several = execute_experiment(
                    [id], config, options, num_seeds=seeds, name=id, ray=ray, file=file
                )
            tell_experiment(several, json_, file)
            return
        begun = time.perf_counter()
        with announced("loading", partial(print, file=file, flush=True)):
            from poise.runs import session as run

        loaded = time.perf_counter() - begun
        with quiet_output():
            result = run.execute(id, config, options, import_seconds=loaded, ray=ray, guard=guard, file=file)
        tell_run(result, json_, file)

    return train


def resume_command(guard: Guard) -> Callable[..., None]:
    """``poise resume``; ``guard`` hears of interrupts."""

    def resume(
        run: Annotated[Path | None, Positional, arg(metavar="RUN", help_behavior_hint="")] = None,
        total_steps: Annotated[int | None, unset] = None,
        out: Path = Path("runs"),
        env: RunEnv = None,
        workers: Annotated[int | None, unset] = None,
        ray: Ray = None,
        storage: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None,
        against: Annotated[Path | None, arg(metavar="EXPERIMENT", help_behavior_hint="")] = None,
        json_: Json = False,
    ) -> None:
        """Go on with a training that was interrupted or killed, to the same result.

        Example: poise resume runs/Reacher-v4/20261124-120000-0 --total-steps 400k

        Args:
            run: Its folder; by default the unfinished run under --out that was saved last.
            total_steps: Another budget, also for a finished training. The learning rates go to 0 over it.
            out: Where to look for an unfinished run.
            workers: Another number of processes that step the environments of one training.
            storage: Of a sweep whose trials are in a storage, its URL once more: a folder alone never has
                poise connect to anything.
            against: Of an experiment that is compared with another, the other's folder once more.
        """
        file = sys.stderr if json_ else sys.stdout
        begun = time.perf_counter()
        from poise.runs.session import proceed
        from poise.studies.unfinished import EXPERIMENT, SWEEP, newest_unfinished

        loaded = time.perf_counter() - begun
        find_modules_here(env)
        chosen = newest_unfinished(out) if run is None else run
        if run is None:
            print(f"the newest unfinished run: {chosen}", file=file, flush=True)
        is_sweep, is_experiment = (chosen / SWEEP).exists(), (chosen / EXPERIMENT).exists()
        if storage is not None and not is_sweep:
            raise ConfigError("storage: is of a sweep")
        if against is not None and (is_sweep or not is_experiment):
            raise ConfigError("against: is of an experiment")
        if is_sweep or is_experiment:
            if total_steps is not None:
                raise ConfigError("--total-steps changes the budget of a single run; pass that run's folder")
            if workers is not None:
                raise ConfigError("workers: are for one training; several trainings are spread with --ray")
            if is_sweep:
                from poise.studies.sweep.sweep import proceed_sweep

                with quiet_output():
                    swept = proceed_sweep(chosen, env=env, storage=storage, ray=ray, file=file)
                tell_sweep(swept, json_, file)
                return
            from poise.studies.experiment import proceed_experiment

            with quiet_output():
                several = proceed_experiment(chosen, env=env, against=against, ray=ray, file=file)
            tell_experiment(several, json_, file)
            return
        with quiet_output():
            result = proceed(
                chosen,
                total_steps=total_steps,
                env=env,
                workers=workers,
                ray=ray,
                import_seconds=loaded,
                guard=guard,
                file=file,
            )
        tell_run(result, json_, file)

    return resume
