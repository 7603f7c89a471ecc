"""The command ``poise``."""

import contextlib
import dataclasses
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from poise.cli.arguments import registry, unset
from poise.cli.mistyped import refuse_unknown
from poise.config import Config, ConfigError, flat
from poise.errors import PoiseError, StorageError, shortened
from poise.runs.options import Options
from poise.runs.presets import PRESETS, starting_point
from poise.spec import Backend
from poise.store.files import is_full
from poise.system.interrupts import Guard, guarded
from poise.system.pulse import announced
from poise.system.streams import TextOut, lasting_output, quiet_output
from poise.system.terminal import print

if TYPE_CHECKING:
    from poise.runs.session import Run
    from poise.studies.experiment import Experiment
    from poise.studies.sweep.sweep import Sweep

LONGEST_ERROR = 4000  # characters on the terminal

Json = Annotated[
    bool,
    arg(name="json", help="Print the result as JSON on standard output, all else on standard error."),
    FlagCreatePairsOff,
]
WhichAgent = Annotated[
    Literal["last", "best"],
    arg(help="The agent at the end of the training, or the one that scored best then."),
]
RunFolder = Annotated[
    Path,
    Positional,
    arg(metavar="RUN", help="The folder that poise train printed, or one of its checkpoints."),
]
RunFolders = Annotated[
    tuple[Path, ...],
    Positional,
    arg(metavar="RUN...", help="Folders of runs, seeds or experiments.", help_behavior_hint=""),
]
Env = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="Another environment with the same spaces. Where the run's own is of a module (module:Task), "
        "its name has to be repeated here.",
        help_behavior_hint="",
    ),
]


RunEnv = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="The run's own environment. Where that is of a module (module:Task), it has to be repeated: a "
        "folder alone never makes poise import one.",
        help_behavior_hint="",
    ),
]


Ray = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[ADDRESS]",
        instance_from_str=lambda given: _address(given),
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [] if value is None else [value],
    ),
    arg(
        help="Work on a Ray cluster (extra cluster): the one at HOST:PORT, auto for that of this machine; "
        "without ADDRESS a local one is started and stopped again.",
        help_behavior_hint="",
    ),
]


def _address(given: list[str]) -> str:
    from poise.system.cluster import LOCAL, checked_address

    return checked_address(" ".join(given) or LOCAL) or LOCAL


class _Named(Exception):
    """The value of ENV, thrown from inside the parser before it makes anything of the other options."""


def _env_name(arguments: list[str]) -> str:
    """What the arguments of ``poise train`` give as ENV; "" where they are not complete.

    A preset's name there decides the defaults of all other options, so it has to be known first.
    """

    def found(given: list[str]) -> str:
        raise _Named(given[0])

    try:
        tyro.cli(
            _train_command("", found),
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


def _train_command(
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
        _find_modules_here(env)
        id, _ = starting_point(env)
        if seeds != 1:
            from poise.studies.experiment import execute_experiment

            with quiet_output():
                several = execute_experiment(
                    [id], config, options, num_seeds=seeds, name=id, ray=ray, file=file
                )
            _tell_experiment(several, json_, file)
            return
        begun = time.perf_counter()
        with announced("loading", partial(print, file=file, flush=True)):
            from poise.runs import session as run

        loaded = time.perf_counter() - begun
        with quiet_output():
            result = run.execute(id, config, options, import_seconds=loaded, ray=ray, guard=guard, file=file)
        _tell(result, json_, file)

    return train


def _tell(result: "Run", json_: bool, file: TextOut) -> None:
    """What a training came to; its folder last."""
    from poise.health.telling import run_lines

    lines, findings = run_lines(result.folder, result.summary, result.evaluation)
    print(*lines, sep="\n", file=file)
    health = [finding.to_dict() for finding in findings]
    told = {**result.summary, "health": health, "folder": str(result.folder)}
    print(_json(told) if json_ else result.folder)


def doctor(
    runs: RunFolders,
    json_: Json = False,
) -> None:
    """Say whether a training was healthy, and if not, what was seen, what it means, and what to try.

    Example: poise doctor runs/Reacher-v4/20261124-120000-0
    """
    from poise.health.diagnosis import examine, verdict
    from poise.runs.records import read_record
    from poise.studies.comparison import find_runs

    told = []
    for run in (found := find_runs(runs)):
        record = read_record(run)
        findings = examine(record)
        told.append({"run": str(run), "findings": [finding.to_dict() for finding in findings]})
        if json_:
            continue
        if len(found) > 1:
            print(run)
        for finding in findings:
            print(*finding.lines(), sep="\n", end="\n\n")
        if not findings:
            print(verdict(record, findings))
    if json_:
        print(_json(told))


def _resume_command(guard: Guard) -> Callable[..., None]:
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
        _find_modules_here(env)
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
                _tell_sweep(swept, json_, file)
                return
            from poise.studies.experiment import proceed_experiment

            with quiet_output():
                several = proceed_experiment(chosen, env=env, against=against, ray=ray, file=file)
            _tell_experiment(several, json_, file)
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
        _tell(result, json_, file)

    return resume


def _find_modules_here(env: str | None) -> None:
    """Has ``module:Task`` find a module beside the user, as ``python -m`` would."""
    if env and ":" in env:
        sys.path.insert(0, os.getcwd())


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
        _find_modules_here(env)
    with quiet_output():
        done = execute_experiment(envs, config, options, num_seeds=seeds, against=against, ray=ray, file=file)
    _tell_experiment(done, json_, file)


def _tell_experiment(experiment: "Experiment", json_: bool, file: TextOut) -> None:
    """What several trainings came to; their folder last."""
    from poise.studies.experiment import report

    summary = experiment.summary
    print(*report(summary), sep="\n", file=file)
    count = len(summary["seeds"]) * len(summary["tasks"])
    print(f"{count} x {summary['steps']:,} steps in {summary['seconds']['total']:.1f} s", file=file)
    print(_json({**summary, "folder": str(experiment.folder)}) if json_ else experiment.folder)


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
    _find_modules_here(env)
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
    _tell_sweep(done, json_, file)


def _tell_sweep(sweep: "Sweep", json_: bool, file: TextOut) -> None:
    """What a sweep came to; its folder last."""
    from poise.studies.sweep.sweep import report_lines

    print(*report_lines(sweep.summary), sep="\n", file=file)
    print(_json({**sweep.summary, "folder": str(sweep.folder)}) if json_ else sweep.folder)


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
    print(_json({"page": str(page)}) if json_ else page)


def evaluate(
    run: RunFolder,
    episodes: int = 100,
    seed: Annotated[int | None, unset] = None,
    which: WhichAgent = "last",
    env: Env = None,
    json_: Json = False,
) -> None:
    """Score a trained agent: greedy episodes, each played to its end.

    Example: poise evaluate runs/Reacher-v4/20261124-120000-0 --episodes 500

    Args:
        episodes: How many episodes.
        seed: What the episodes derive from; by default the run's own seed, which repeats its score.
    """
    from poise.agents.agent import load
    from poise.agents.evaluation import Limits
    from poise.health.telling import score_lines

    _find_modules_here(env)
    with announced("loading the agent", _to_standard_error) as pulse, quiet_output():

        def watch(ended: int, of: int, steps: int) -> None:
            pulse.doing(f"{ended} / {of} episodes, {steps:,} steps")

        agent = load(run, which)
        evaluation = agent.evaluate(episodes, seed=seed, env=env, limits=Limits(watch=watch))
    lines = score_lines(evaluation)
    if which == "best":
        lines[0] = f"the best agent, from step {agent.steps:,}: {lines[0]}"
    print(_json(evaluation.summary()) if json_ else "\n".join(lines))


def video(run: RunFolder, which: WhichAgent = "last", env: Env = None, json_: Json = False) -> None:
    """Film the greedy agent of a run: video.mp4 (of the best agent video_best.mp4) in its folder.

    Without an encoder it is a GIF.

    Example: poise video runs/Reacher-v4/20261124-120000-0 --which best
    """
    from poise.agents.agent import load
    from poise.agents.film import film

    _find_modules_here(env)
    name = "video" if which == "last" else "video_best"
    with announced("filming", _to_standard_error), quiet_output():
        path = film(load(run, which), run / name, env=env)
    print(_json({"video": str(path)}) if json_ else path)


def export(
    run: RunFolder,
    format: Annotated[
        Literal["numpy", "onnx"],
        arg(help="A Python file that needs NumPy alone, or an ONNX graph (extra onnx)."),
    ] = "numpy",
    which: WhichAgent = "last",
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="By default policy.py or policy.onnx in the run's folder.",
            help_behavior_hint="",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Write the greedy policy as a file of its own: raw observation in, the environment's action out.

    Example: poise export runs/Reacher-v4/20261124-120000-0 --format onnx
    """
    from poise.agents.export import ROWS
    from poise.agents.export import export as write

    exported = write(run, format=format, which=which, out=out)
    if json_:
        print(_json(exported.to_dict()))
        return
    print(f"compared with the agent on {ROWS:,} observations: largest difference {exported.difference:.1g}")
    print(exported.path)


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
    _find_modules_here(env)
    from poise.studies.bench import measure

    with quiet_output():
        measured = measure(env, config, backend, rounds=rounds, file=sys.stderr)
    print(_json(measured.to_dict()) if json_ else measured.table())


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
    print(_json(compared.to_dict()) if json_ else "\n".join(compared.lines()))


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
    print(_json({"page": str(path)}) if json_ else path)


def diff(
    run: RunFolder,
    other: Annotated[Path, Positional, arg(metavar="RUN", help="The run to compare it with.")],
    json_: Json = False,
) -> None:
    """Name the first iteration in which two runs differ, and in what (exit code 1); or that none does.

    Example: poise diff runs/Reacher-v4/20261124-120000-0 runs/Reacher-v4/20261124-130000-0
    """
    from poise.health.difference import compare

    found = compare(run, other)
    print(_json(found.to_dict()) if json_ else "\n".join(found.lines()))
    if not found.same:
        sys.exit(1)


def check(
    env_or_crash: Annotated[
        str,
        Positional,
        arg(
            metavar="ENV|CRASH",
            help="An environment: its id, or module:Class of your own. Or a crash.json, or the run folder "
            "that holds one.",
        ),
    ],
    env: Env = None,
    env_timeout: float = 60.0,
    json_: Json = False,
) -> None:
    """Play an environment and report problems that would break training; or repeat a failed episode.

    Exit code 1 where a training would be wrong, or where the episode fails again.

    Example: poise check my_robot:MyRobot

    Args:
        env_timeout: Seconds after which a step or a reset counts as hanging.
    """
    given = Path(env_or_crash)
    if given.is_file() or (given / "crash.json").exists() or given.suffix == ".json":
        _check_crash(given, env, env_timeout, json_)
        return
    if env is not None:
        raise ConfigError("--env is only for a crash.json; to check an environment, pass its name alone")
    from poise.health.inspection import inspect

    _find_modules_here(env_or_crash)
    with quiet_output():
        inspection = inspect(env_or_crash, timeout=env_timeout)
    print(_json(inspection.to_dict()) if json_ else "\n".join(inspection.lines()))
    if not inspection.ok:
        sys.exit(1)


def _check_crash(path: Path, env: str | None, timeout: float, json_: bool) -> None:
    """Plays the episode of a crash again."""
    from poise.runs.crash import replay

    _find_modules_here(env)
    with quiet_output():
        replayed = replay(path, env=env, timeout=timeout)
    if json_:
        print(_json(replayed.to_dict()))
    elif replayed.fault is None:
        print(f"it does not fail: {replayed.crash.step} steps of {replayed.crash.env}")
        print(f"what had failed: {replayed.crash.what}")
    else:
        print(f"it fails again: {replayed.fault}")
    if replayed.fault is not None:
        sys.exit(1)


def presets(json_: Json = False) -> None:
    """List the presets that poise train understands, and what they change.

    Example: poise presets
    """
    usual = flat(Config().to_dict())
    rows = []
    for name, preset in PRESETS.items():
        mine = flat(preset.config.to_dict())
        changes = {path: value for path, value in mine.items() if value != usual[path]}
        rows.append({"name": name, "env": preset.env, "about": preset.about, "changes": changes})
    if json_:
        print(_json(rows))
        return
    for row in rows:
        print(f"{row['name']}  ({row['env']})\n  {row['about']}")
        print(
            "  "
            + ", ".join(f"{path.replace('_', '-')} {value}" for path, value in row["changes"].items())
            + "\n"
        )


def envs(json_: Json = False) -> None:
    """List the environments: backend, spaces, time limit, and the mean return that counts as solved.

    Example: poise envs
    """
    from poise.envs.listing import list_envs

    with quiet_output():
        listed, refused = list_envs()
    if json_:
        print(_json([dataclasses.asdict(row) for row in listed]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("environment", "backend", "obs", "action", "limit", "solved"):
        table.add_column(title, justify="right" if title in ("limit", "solved") else "left", no_wrap=True)
    for row in listed:
        bar = "" if row.solved is None else f"{row.solved:g}"
        table.add_row(row.id, row.backend, row.obs, row.action, str(row.time_limit or ""), bar)
    Console().print(table)
    print(
        "\nobs, action: their numbers; limit: steps of an episode; solved: a mean return that counts as that"
    )
    print(f"{len(refused)} more ids are known to Gymnasium and need another package, or have other spaces.")
    print("Any id that Gymnasium can make will do, also module:Task of a module of yours.")


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], Positional, arg(metavar="SHELL")]) -> None:
    """Print the shell completion script.

    Example: poise completion bash > ~/.local/share/bash-completion/completions/poise

    Args:
        shell: Which shell.
    """
    raise _Completion(shell)


class _Completion(Exception):
    """The shell whose completion is wanted, thrown from inside the parser, which has to make it."""


def _to_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _until_first_words() -> Iterator[None]:
    """Says "loading" on a terminal every few seconds, until the verb says something itself.

    JAX alone takes seconds to load on a busy machine.
    """
    streams = sys.stdout, sys.stderr
    if not sys.stderr.isatty():
        yield
        return

    def say(line: str) -> None:
        if not any(getattr(stream, "was_written", False) for stream in streams):
            os.write(2, f"{line}\n".encode())

    with announced("loading", say):
        yield


def _json(result: Any) -> str:
    """ASCII alone. JSON lets the character 127 stand as it is, a terminal should not see it."""
    return json.dumps(result, indent=2).replace("\x7f", "\\u007f")


def _refuse_values_of_flags(arguments: list[str]) -> None:
    """``--normalize.obs=no`` would be said to be unrecognized, without its name.

    Raises:
        ConfigError: a flag has a value.
    """
    flags = {"json", "prune"}
    for record in (Config(), Options()):
        flags |= {name for name, value in flat(dataclasses.asdict(record)).items() if isinstance(value, bool)}
    for argument in arguments:
        name, equals, value = argument.removeprefix("--").partition("=")
        if equals and argument.startswith("--") and name.replace("-", "_") in flags:
            group, dot, last = name.rpartition(".")
            raise ConfigError(
                f"{name} = {value!r}: it takes no value; write --{name} or --{group}{dot}no-{last}"
            )


def _run(arguments: list[str], guard: Guard) -> None:
    """Runs the verb."""
    verb, *options = arguments or [""]
    _refuse_values_of_flags(options)
    may_be_preset = verb == "train" and not PRESETS.keys().isdisjoint(options)
    commands: dict[str, Callable[..., Any]] = {
        "train": _train_command(_env_name(options) if may_be_preset else "", guard=guard),
        "resume": _resume_command(guard),
        "evaluate": evaluate,
        "doctor": doctor,
        "video": video,
        "export": export,
        "experiment": experiment,
        "sweep": sweep,
        "reproduce": reproduce,
        "compare": compare,
        "report": report,
        "diff": diff,
        "check": check,
        "bench": bench,
        "presets": presets,
        "envs": envs,
        "completion": completion,
    }
    if verb in commands and verb != "completion":
        refuse_unknown(verb, commands[verb], options)
        tyro.cli(commands[verb], prog=f"poise {verb}", args=options)
        return
    brief = commands if verb == "completion" else {n: _in_a_line(command) for n, command in commands.items()}

    def parse(arguments: list[str]) -> None:
        tyro.extras.subcommand_cli_from_dict(
            brief,
            prog="poise",
            description="Proximal Policy Optimization: train an agent with one command.",
            args=arguments,
        )

    try:
        parse(arguments or ["--help"])
    except _Completion as wanted:
        parse(["--tyro-print-completion", str(wanted)])


def _run_verb(arguments: list[str], guard: Guard) -> None:
    """``_run``; where JAX finds no platform, what it raises gets words."""
    try:
        _run(arguments, guard)
    except PoiseError:
        raise
    except Exception:
        if "jax" in sys.modules:
            from poise.system.machine import check_platform

            check_platform()
        raise


def _in_a_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a list of all: of its help only what it does."""

    @functools.wraps(command)
    def brief(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    brief.__doc__ = (command.__doc__ or "").split("\n\n")[0]
    return brief


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    0 done; 1 the run or its environment failed; 2 wrong arguments or files; 75 the disk is full, worth trying
    again; 130 interrupted by Ctrl-C and 143 by SIGTERM.
    """
    heard: Guard | None = None
    given = sys.argv[1:] if arguments is None else arguments
    with lasting_output():
        try:
            with guarded() as guard, registry, _until_first_words():
                heard = guard
                _run_verb(given, guard)
        except PoiseError as error:
            print(f"poise: {shortened(str(error), LONGEST_ERROR)}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:  # Ray raises one of its own, whatever the signal was
            early = given[:1] == ["train"] and heard is not None and not heard.began
            more = " before the training began: there is nothing to resume" if early else ""
            print(f"poise: interrupted{more}", file=sys.stderr)
            return 128 + ((heard and heard.number) or signal.SIGINT)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):  # of JAX
                raise
            print("poise: there is not enough memory", file=sys.stderr)
            return 1
        except OSError as error:
            if not is_full(error):
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(f"poise: {where}the disk is full; make room and try again", file=sys.stderr)
            return StorageError.exit_code
        return 0
