"""The verbs of many trainings: experiment, sweep, reproduce, compare, report, bench."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from poise.checked import ConfigError
from poise.cli.arguments import Json, Ray, RunFolders, Source, World, find_modules_here, unset
from poise.cli.telling import as_json, tell_experiment, tell_sweep, text_output
from poise.config import Config
from poise.runs.options import Options
from poise.settings.files import Settings
from poise.spec import Backend
from poise.studies.sweep.search import Search
from poise.system.streams import quiet_output
from poise.system.terminal import print


@dataclass(frozen=True, kw_only=True)
class Many(Source):
    """How the environments are made, how many trainings there are, and what they are compared with."""

    seeds: int = 5
    """Number of trainings on each task, with consecutive seeds starting at --seed."""
    against: Annotated[Path | None, arg(metavar="EXPERIMENT", help_behavior_hint="")] = None
    """The folder of another experiment to compare the final scores with."""


def experiment_command(settings: Settings) -> Callable[..., None]:
    """``poise experiment``; ``settings``: of ``--config``."""
    default, usual = settings.over(Config()), settings.options_over(Options(video=False))

    def experiment(
        envs: Annotated[tuple[str, ...], Positional, arg(metavar="ENV...", help_behavior_hint="")],
        config: Annotated[Config, arg(name="")] = default,
        options: Annotated[Options, arg(name="")] = usual,
        many: Annotated[Many, arg(name="")] = Many(),
        ray: Ray = None,
        json_: Json = False,
    ) -> None:
        """Train on several tasks with several seeds, on all cores, and report statistics over the seeds.

        Example: poise experiment Reacher-v4 Pendulum-v1 --seeds 10

        Args:
            envs: Environments, for example Reacher-v4 Pendulum-v1.
            config: The settings of the trainings.
            options: The options that do not change what is learned.
            many: How the environments are made, how many trainings, and what they are compared with.
        """
        from poise.studies.experiment import execute_experiment

        file = text_output(json_)
        find_modules_here(config.curriculum, config.own_networks)
        made = [many.of(env, settings) for env in envs]
        with quiet_output():
            finished = execute_experiment(
                made, config, options, num_seeds=many.seeds, against=many.against, ray=ray, file=file
            )
        tell_experiment(finished, json_)

    return experiment


def sweep_command(settings: Settings) -> Callable[..., None]:
    """``poise sweep``; ``settings``: of ``--config``."""
    default, usual = settings.over(Config()), settings.options_over(Options(video=False))

    def sweep(
        env: Annotated[str, Positional, arg(metavar="ENV")],
        search: Annotated[Search, arg(name="")] = Search(),  # noqa: B008 (frozen)
        config: Annotated[Config, arg(name="")] = default,
        options: Annotated[Options, arg(name="")] = usual,
        source: Annotated[Source, arg(name="")] = Source(),  # noqa: B008 (frozen)
        ray: Ray = None,
        json_: Json = False,
    ) -> None:
        """Search settings for a task, and test on fresh seeds whether the best are better than the defaults.

        An option with a value keeps that value and is not searched. Needs the extra sweep (Optuna).

        Example: poise sweep Reacher-v4 --trials 50

        Args:
            env: An environment, for example Reacher-v4.
            search: What is searched.
            config: The settings that all trainings have in common.
            options: The options that do not change what is learned.
            source: How the environment is made, and a file of settings.
        """
        from poise.studies.sweep.sweep import execute_sweep

        find_modules_here(config.curriculum, config.own_networks)
        made = source.of(env, settings)
        with quiet_output():
            finished = execute_sweep(made, config, options, search, ray=ray, file=text_output(json_))
        tell_sweep(finished, json_)

    return sweep


def reproduce(
    figure: Annotated[
        Literal["all", "1", "2", "3", "4", "5"],
        Positional,
        arg(metavar="FIGURE", help="1 to 4: the figures of the paper; 5: the defaults beside its settings."),
    ] = "all",
    quick: bool = False,
    seeds: Annotated[int | None, unset] = None,
    out: Path = Path("reproduction"),
    ray: Ray = None,
    json_: Json = False,
) -> None:
    """Reproduce the student paper that poise began with: every figure, table and best agent, on all cores.

    Example: poise reproduce --quick

    Args:
        quick: Train one seed with a tenth of the steps, to test that everything runs.
        seeds: Trainings of each setting; by default 5, or 1 with --quick.
        out: The folder of the results. Runs that are finished there are not repeated.
    """
    from poise.studies.paper.figures import FIGURES
    from poise.studies.paper.reproduce import USUAL_SEEDS, USUAL_SEEDS_QUICK, Plan, run_plan

    chosen = FIGURES if figure == "all" else tuple(f for f in FIGURES if f.name == f"figure{figure}")
    usual = USUAL_SEEDS_QUICK if quick else USUAL_SEEDS
    plan = Plan(chosen, out / "quick" if quick else out, usual if seeds is None else seeds, quick)
    with quiet_output():
        page = run_plan(plan, ray=ray, file=text_output(json_))
    print(as_json({"page": str(page)}) if json_ else page)


def compare(
    runs: RunFolders,
    plot: Annotated[
        Path | None,
        arg(metavar="FILE.png", help="Draw the learning curves into this file.", help_behavior_hint=""),
    ] = None,
    by: Annotated[
        str,
        arg(
            metavar="NAME",
            help="Judge by this number of the greedy episodes: return, success_rate, or a name in info.",
        ),
    ] = "return",
    json_: Json = False,
) -> None:
    """Compare trainings with confidence intervals: settings if they have several seeds, otherwise agents.

    Example: poise compare runs/Reacher-v4/20261124-120000-0-4 runs/Reacher-v4/20261124-130000-0-4
    """
    from poise.studies.comparison import compare as compare_runs

    compared = compare_runs(runs, by=by, plot=plot)
    print(as_json(compared.to_dict()) if json_ else compared)


def report(
    runs: RunFolders,
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE.html",
            help="The file to write; by default report.html in the folder RUN.",
            help_behavior_hint="",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write an HTML report on one or several trainings or a sweep: curves, health, configuration, video.

    Example: poise report runs/Reacher-v4/20261124-120000-0
    """
    from poise.studies.report.report import report as write
    from poise.studies.sweep.page import write_page
    from poise.studies.unfinished import SWEEP

    is_sweep = len(runs) == 1 and (runs[0] / SWEEP).exists()
    path = write_page(runs[0], out) if is_sweep else write(runs, out)
    print(as_json({"page": str(path)}) if json_ else path)


def bench(
    env: Annotated[str, Positional, arg(metavar="ENV")] = "InvertedPendulum-v5",
    config: Annotated[Config, arg(name="")] = Config(),  # noqa: B008 (frozen)
    backend: Backend = "auto",
    rounds: Annotated[int, arg(metavar="N")] = 3,
    world: Annotated[World, arg(name="")] = World(),  # noqa: B008 (frozen)
    json_: Json = False,
) -> None:
    """Measure the speed of a training on this machine, where its time goes, and how far it is from the limit.

    Example: poise bench Reacher-v5 --num-envs 64

    Args:
        env: An environment.
        config: The settings of the training, as for poise train.
        backend: Library that steps the environments; auto: the fastest that supports ENV.
        rounds: Number of trainings, each in a new process; the medians are printed.
        world: How the environment is made.
    """
    if rounds < 1:
        raise ConfigError(f"rounds = {rounds}: must be >= 1")
    env = world.of(env)
    from poise.studies.bench import measure

    with quiet_output():
        measured = measure(env, config, backend, rounds=rounds, file=sys.stderr)
    print(as_json(measured.to_dict()) if json_ else measured.table())
