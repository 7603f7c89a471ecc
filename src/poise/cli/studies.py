"""The verbs of many trainings: experiment, sweep, reproduce, compare, report, bench."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from poise.checked import ConfigError
from poise.cli.arguments import Json, Ray, RunFolders, find_modules_here, unset
from poise.cli.telling import as_json, tell_experiment, tell_sweep
from poise.config import Config
from poise.runs.options import Options
from poise.spec import Backend
from poise.system.streams import quiet_output
from poise.system.terminal import print


def experiment(
    envs: Annotated[tuple[str, ...], Positional, arg(metavar="ENV...", help_behavior_hint="")],
    config: Annotated[Config, arg(name="")] = Config(),  # noqa: B008 (frozen)
    options: Annotated[Options, arg(name="")] = Options(video=False),  # noqa: B008 (frozen)
    seeds: int = 5,
    against: Annotated[Path | None, arg(metavar="EXPERIMENT", help_behavior_hint="")] = None,
    ray: Ray = None,
    json_: Json = False,
) -> None:
    """Train on several tasks with several seeds, on all cores, and say what the runs say together.

    Example: poise experiment Reacher-v4 Pendulum-v1 --seeds 10

    Args:
        envs: Environments, for example Reacher-v4 Pendulum-v1.
        config: Everything that decides what is learned.
        options: Everything else.
        seeds: How many trainings on each, with the seeds from --seed on.
        against: The folder of another experiment, to compare the final scores with.
    """
    from poise.studies.experiment import execute_experiment

    file = sys.stderr if json_ else sys.stdout
    for env in envs:
        find_modules_here(env)
    with quiet_output():
        done = execute_experiment(envs, config, options, num_seeds=seeds, against=against, ray=ray, file=file)
    tell_experiment(done, json_, file)


def sweep(
    env: Annotated[str, Positional, arg(metavar="ENV")],
    config: Annotated[Config, arg(name="")] = Config(),  # noqa: B008 (frozen)
    options: Annotated[Options, arg(name="")] = Options(video=False),  # noqa: B008 (frozen)
    search: Annotated[tuple[str, ...], arg(metavar="OPTION[=VALUES]...", help_behavior_hint="")] = (),
    trials: int = 50,
    seeds: int = 3,
    final_seeds: int = 10,
    at_once: int = 4,
    prune: bool = True,
    storage: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None,
    study: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None,
    ray: Ray = None,
    json_: Json = False,
) -> None:
    """Search settings for a task, and say whether the best of them beats the defaults on fresh seeds.

    What is given with a value is held at it, and not searched. Needs the extra sweep (Optuna).

    Example: poise sweep Reacher-v4 --trials 50

    Args:
        env: An environment, for example Reacher-v4.
        config: Everything that decides what is learned.
        options: Everything else.
        search: What to search in place of the usual options: ppo.clip (its usual values), ppo.clip=0.1,0.2,
            ppo.gamma=0.9:0.999:horizon, ppo.policy-learning-rate=1e-4:1e-2:log, ppo.lam=0.9:0.98.
        trials: How many settings, the defaults among them; over all processes that share a storage.
        seeds: How many trainings of each, with the seeds from --seed on; at least 3.
        final_seeds: How many trainings of the best and of the defaults, with the seeds after those.
        at_once: Trials drawn together, before any of them is known; part of what decides the result.
        prune: Whether a trial is stopped that falls behind the median of those before.
        storage: A storage that several machines share, sqlite:///FILE or postgresql://...; each that runs
            the same command takes trials from it, and the result then depends on their timing.
        study: The name of the sweep in that storage; by default the environment's.
    """
    from poise.studies.sweep.sweep import execute_sweep

    file = sys.stderr if json_ else sys.stdout
    find_modules_here(env)
    with quiet_output():
        done = execute_sweep(
            env,
            config,
            options,
            search=search,
            num_trials=trials,
            num_seeds=seeds,
            final_seeds=final_seeds,
            at_once=at_once,
            prune=prune,
            storage=storage,
            study=study,
            ray=ray,
            file=file,
        )
    tell_sweep(done, json_, file)


def reproduce(
    figure: Annotated[
        Literal["all", "1", "2", "3", "4", "5"],
        Positional,
        arg(
            metavar="FIGURE", help="1 to 4 as the paper counts them, 5 for the defaults beside its settings."
        ),
    ] = "all",
    quick: bool = False,
    seeds: Annotated[int | None, unset] = None,
    out: Path = Path("reproduction"),
    ray: Ray = None,
    json_: Json = False,
) -> None:
    """Repeat the paper's experiments: every figure, table and best agent, on all cores.

    Example: poise reproduce --quick

    Args:
        quick: One seed and a tenth of the steps, to see that everything runs.
        seeds: How many of each setting: 5 by default, 1 with --quick.
        out: The folder for everything. Runs that are finished there are not run again.
    """
    from poise.studies.paper.figures import FIGURES
    from poise.studies.paper.reproduce import USUAL_SEEDS, USUAL_SEEDS_QUICK, Plan, run_plan

    chosen = FIGURES if figure == "all" else tuple(f for f in FIGURES if f.name == f"figure{figure}")
    usual = USUAL_SEEDS_QUICK if quick else USUAL_SEEDS
    plan = Plan(chosen, out / "quick" if quick else out, usual if seeds is None else seeds, quick)
    file = sys.stderr if json_ else sys.stdout
    with quiet_output():
        page = run_plan(plan, ray=ray, file=file)
    print(as_json({"page": str(page)}) if json_ else page)


def compare(
    runs: RunFolders,
    plot: Annotated[
        Path | None,
        arg(metavar="FILE.png", help="Where to draw the learning curves.", help_behavior_hint=""),
    ] = None,
    json_: Json = False,
) -> None:
    """Compare trainings: by setting where there are several seeds, else agent by agent, with intervals.

    Example: poise compare runs/Reacher-v4/20261124-120000-0-4 runs/Reacher-v4/20261124-130000-0-4
    """
    from poise.studies.comparison import compare_runs, draw_comparison

    compared = compare_runs(runs)
    if plot is not None:
        draw_comparison(plot, compared)
    print(as_json(compared.to_dict()) if json_ else "\n".join(compared.lines()))


def report(
    runs: RunFolders,
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE.html",
            help="By default report.html in the folder that is named.",
            help_behavior_hint="",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write one HTML file of a training, of several, or of a sweep: curves, health, configuration, video.

    Example: poise report runs/Reacher-v4/20261124-120000-0
    """
    from poise.studies.report.report import report as write
    from poise.studies.sweep.page import write_page
    from poise.studies.unfinished import SWEEP

    alone = len(runs) == 1 and (runs[0] / SWEEP).exists()
    path = write_page(runs[0], out) if alone else write(runs, out)
    print(as_json({"page": str(path)}) if json_ else path)


def bench(
    env: Annotated[str, Positional, arg(metavar="ENV")] = "InvertedPendulum-v5",
    config: Annotated[Config, arg(name="")] = Config(),  # noqa: B008 (frozen)
    backend: Backend = "auto",
    rounds: Annotated[int, arg(metavar="N")] = 3,
    json_: Json = False,
) -> None:
    """Measure a training on this machine: its speed, where its time goes, and how far the limit is.

    Example: poise bench Reacher-v5 --num-envs 64

    Args:
        env: An environment.
        config: As of poise train.
        backend: What steps the environments; auto takes the fastest that has ENV.
        rounds: How many trainings, each a process of its own; the figures are their medians.
    """
    if rounds < 1:
        raise ConfigError(f"rounds = {rounds}: must be >= 1")
    find_modules_here(env)
    from poise.studies.bench import measure

    with quiet_output():
        measured = measure(env, config, backend, rounds=rounds, file=sys.stderr)
    print(as_json(measured.to_dict()) if json_ else measured.table())
