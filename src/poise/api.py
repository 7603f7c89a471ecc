"""What Python code calls to train: train, resume, experiment, sweep, with what the command shows."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from poise import envs
from poise.checked import Checked, ConfigError, Place, as_path
from poise.envs.forms.text import parse
from poise.health.telling import run_lines
from poise.own.naming import Network, names_in
from poise.runs.driving.own_loop import OwnLoop
from poise.runs.resuming import saved_env
from poise.runs.session import Changes, Run, execute, executing, proceed
from poise.runs.setup import Conditions
from poise.settings.files import Given
from poise.settings.keywords import SEVERAL, Chosen, Keywords, choose, fields_of, with_keywords
from poise.settings.presets import PRESETS
from poise.studies.sweep.search import Search
from poise.system.interrupts import refuse_imported_script
from poise.system.streams import Lasting, TextOut
from poise.system.terminal import print
from poise.training.iteration import Progress
from poise.training.starting.curriculum import CurriculumState, name_of_function

if TYPE_CHECKING:
    from poise.studies.results import Experiment
    from poise.studies.sweep.results import Sweep


@with_keywords
def train(
    env: Any = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    config: Place | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
    on_iteration: Callable[[Progress], object] | None = None,
    **settings: Unpack[Keywords],
) -> Run:
    """Trains an agent and leaves a folder with all that there is to know of it.

        run = poise.train("Reacher-v4", total_steps=100_000, ppo={"clip": 0.1})
        agent = poise.load(run)

    In a script, with backend "gymnasium-async", the call stands under ``if __name__ == "__main__":``: Python
    runs the script again in each process that it starts.

    Args:
        env: a Gymnasium id, one of poise's own, or the name of a preset; None: the one that ``config`` names.
            Or a class derived from ``gymnasium.Env``, ``poise.Task`` or ``poise.JaxEnv``, a function that
            makes an environment, or an environment that ``gymnasium.make`` has made: it is made again.
        env_kwargs: arguments of its constructor, as JSON has them.
        wrappers: around it, from the innermost on: names (``"my_envs:Clip"``), classes, or functions that
            take an environment. Gymnasium then steps it.
        config: a file of settings (.yaml, .json, .toml), a run or its folder, or "sb3". It overrides a
            preset, and ``settings`` override it.
        ray: the cluster of the workers: "HOST:PORT", or "auto" for the one of this machine; None: a local
            one is started for them, and stopped at the end (``poise.system.cluster``).
        file: where progress is shown; standard output by default.
        on_iteration: is called with each ``Progress``, once its rows are written. To return ``poise.Stop``
            ends the training, as ``poise.StopAt(475)`` does; everything else that it returns is ignored.
            What it raises ends the training with a checkpoint of that iteration, and is raised here.
        settings: every option of ``poise train`` by its name there: the fields of ``poise.Options``, which do
            not change what is learned, and of ``poise.Config``, which do. A group (``ppo``, ``policy``,
            ``value``, ``normalize``) is its record or a mapping of what changes. Only the command has
            ``--seeds``, ``--coordinator`` and ``--json``.

    Raises:
        EnvError: the environment cannot be made.
        ConfigError: an option is unknown, wrong, or has no meaning for this environment.
        PlatformError: JAX cannot use the device.
        EnvFault: the environment failed; the folder holds all up to then.
        TrainingError: training became infinite or NaN; the folder holds all up to then.
        StorageError: the disk is full; the checkpoints before are whole.
        KeyboardInterrupt: interrupted; the folder holds all up to then, and ``resume`` continues it.
    """
    refuse_imported_script()
    chosen = choose(_given(env, env_kwargs, wrappers), config, settings)
    shown = Lasting(file or sys.stdout, whole=False)
    conditions = Conditions(shown, ray=ray, on_iteration=on_iteration)
    return _told(execute(chosen.env, chosen.config, chosen.options, conditions), shown)


@with_keywords
def session(
    env: Any = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    config: Place | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
    **settings: Unpack[Keywords],
) -> OwnLoop:
    """``train`` with a loop of your own: the same run folder, checkpoints, score and video.

        with poise.session("CartPole-v1", total_steps=100_000) as session:
            for progress in session:
                print(progress.steps, progress.mean_return)
                if progress.mean_return > 195:
                    break
        agent = poise.load(session.run)

    With ``run_dir``, the same lines continue a training that was interrupted. ``poise.iterations`` is a loop
    with nothing around it.

    Args:
        env, env_kwargs, wrappers, config, ray, file, settings: as of ``train``.

    Raises:
        Exception: as ``train``, once the loop begins.
    """
    refuse_imported_script()
    chosen = choose(_given(env, env_kwargs, wrappers), config, settings)
    shown = Lasting(file or sys.stdout, whole=False)
    training = executing(chosen.env, chosen.config, chosen.options, Conditions(shown, ray=ray))
    return OwnLoop(training, partial(_told, file=shown))


def resume(
    run: Place,
    *,
    total_steps: int | None = None,
    stop_at: float | None = None,
    max_seconds: float | None = None,
    env: Any = None,
    wrappers: Sequence[Any] = (),
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
    curriculum: str | Callable[[CurriculumState], Any] | None = None,
    network: Network = (),
    ray: str | None = None,
    file: TextOut | None = None,
    on_iteration: Callable[[Progress], object] | None = None,
) -> Run:
    """Resumes a training that was interrupted or killed, from its last checkpoint to its end.

    The result is bit for bit that of the training without the interruption.

    Args:
        run: its folder, or what ``train`` returned.
        total_steps: another budget, also for a training that is finished or was stopped. Learning rates then
            go to 0 over it: the result is not that of a training that had it from the start.
        stop_at, max_seconds: another end of this kind, also for a training that this option has stopped.
        env: the environment once more, where it is of a module (``module:Task``): a folder alone never makes
            Python import one. Or where only the program that trained had it: its class or function.
        wrappers: the wrappers once more, with ``env``, where these are of a module or of that program.
        workers: another number of processes that step the environments. It changes no bit.
        device, devices: others, as of ``train``. On another device the bits may differ.
        curriculum: the function of the curriculum once more, or its name, where the training has one.
        network: networks of your own once more, the classes or their names (``policy.network``).
        ray, file: as of ``train``.
        on_iteration: as of ``train``. It is called from the next iteration on.

    Raises:
        RunError: there is nothing to go on with, or the environment has changed.
        CheckpointError: no checkpoint is usable.
        ClaimError: another process is training it.
        ConfigError: ``total_steps`` is less than was done, no such device, or ``wrappers`` without ``env``.
        PlatformError, EnvFault, TrainingError, StorageError, KeyboardInterrupt: as of ``train``.
    """
    refuse_imported_script()
    shown = Lasting(file or sys.stdout, whole=False)
    folder = as_path("run", run)
    function = name_of_function(curriculum) if callable(curriculum) else curriculum
    others: Any = workers, device, devices, stop_at, max_seconds, function, names_in(network)
    changes = Changes(total_steps, _again(folder, env, wrappers), *others)
    return _told(proceed(folder, changes, Conditions(shown, ray=ray, on_iteration=on_iteration)), shown)


def _given(env: Any, env_kwargs: Mapping[str, Any] | None, wrappers: Sequence[Any]) -> Given:
    return Given(env if env is None else envs.as_text(env), env_kwargs or {}, _texts(wrappers))


def _texts(wrappers: Sequence[Any]) -> tuple[str, ...]:
    if not wrappers:
        return ()
    from poise.envs.forms.given import texts_of

    return texts_of(wrappers)


def _again(run: Path, env: Any, wrappers: Sequence[Any]) -> str | None:
    """The text of the environment that is given once more for a run; None: it is not.

    Raises:
        ConfigError: only its wrappers are.
    """
    if not wrappers and (env is None or isinstance(env, str)):
        return env
    from poise.envs.forms.given import again

    saved = saved_env(run)
    if env is None:
        base = parse(saved).env
        python = "..." if base.name.startswith("<") else repr(str(base))
        raise ConfigError(f"wrappers are given without env: give the environment once more too, env={python}")
    return again(saved, env, wrappers)


def _told(run: Run, file: TextOut) -> Run:
    """The run, after its score, its health and its folder were shown."""
    lines, _ = run_lines(run.folder, run.summary, run.evaluation)
    print(*lines, run.folder, sep="\n", file=file)
    return run


@dataclass(frozen=True, kw_only=True)
class Many(Checked):
    """What an experiment has beside the settings of its trainings."""

    seeds: int = 5
    against: Path | None = None


class ExperimentKeywords(Keywords, total=False):
    """The fields of ``Many`` beside those of ``Keywords``. A test compares them."""

    seeds: int
    against: Place | None


@partial(with_keywords, usual=SEVERAL, beside=Many)
def experiment(
    env: Any,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    config: Place | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
    **settings: Unpack[ExperimentKeywords],
) -> "Experiment":
    """Trains on one task or several with several seeds, on all cores, and reports statistics over the seeds.

        experiment = poise.experiment(["Reacher-v4", "Pendulum-v1"], seeds=10)
        experiment.scores["Reacher-v4"].mean

    Each training is a process of its own: in a script the call stands under ``if __name__ == "__main__":``,
    and an environment of your own is in a module.

    Args:
        env: as of ``train``, or several of them. A name may have arguments and wrappers of its own, as in
            ``"Pendulum-v1(g=5)"``.
        env_kwargs, wrappers: of each environment, as of ``train``.
        config: as of ``train``.
        ray: the cluster to train on, as of ``train``; None: the cores of this machine.
        file: where progress is shown; standard output by default.
        settings: every option of ``poise experiment`` by its name there: ``seeds`` (trainings on each task,
            with consecutive seeds from ``seed`` on), ``against`` (another experiment, or its folder, to
            compare the final scores with), and those of ``train``.

    Returns:
        The folder, and for each task the scores of its seeds with 95% intervals.

    Raises:
        EnvError: an environment cannot be made.
        ConfigError: an option is unknown, wrong, or has no effect in several trainings.
        ExperimentError: a training failed (see ``log.txt`` in its folder), or ``against`` has no results.
        PoolError, UnguardedError: a process was killed, or the call is not under the main guard.
        KeyboardInterrupt: interrupted; the command ``poise resume FOLDER`` trains what is missing.
    """
    refuse_imported_script()
    given, shown = _several(env), Lasting(file or sys.stdout, whole=False)
    each = [choose(_given(one, env_kwargs, wrappers), config, settings, SEVERAL, Many) for one in given]
    done = _train_each(given, each, Many(**fields_of(Many, settings)), ray, shown)
    print(done, done.folder, sep="\n", file=shown)
    return done


def _train_each(
    given: Sequence[Any], each: Sequence[Chosen], many: Many, ray: str | None, shown: TextOut
) -> "Experiment":
    """As the command ``poise experiment``; a preset alone as ``poise train PRESET --seeds N``."""
    from poise.studies.experiment import execute_experiment, execute_seeds

    config, options = each[0].config, each[0].options
    if _is_preset(given[0]) and len(each) == 1 and many.against is None:
        return execute_seeds(each[0].env, config, options, num_seeds=many.seeds, ray=ray, file=shown)
    names = [one if _is_preset(one) else chosen.env for one, chosen in zip(given, each, strict=True)]
    return execute_experiment(
        names, config, options, num_seeds=many.seeds, against=many.against, ray=ray, file=shown
    )


def _several(env: Any) -> Sequence[Any]:
    envs = [env] if isinstance(env, str) or not isinstance(env, Sequence) else env
    if not envs:
        raise ConfigError('env = []: must be one environment or more; write "Reacher-v4"')
    return envs


def _is_preset(env: Any) -> bool:
    return isinstance(env, str) and env in PRESETS


class SweepKeywords(Keywords, total=False):
    """The fields of ``Search`` beside those of ``Keywords``. A test compares them."""

    search: str | Sequence[str]
    trials: int
    seeds: int
    final_seeds: int
    at_once: int
    objective: str
    prune: bool
    storage: str | None
    study: str | None


@partial(with_keywords, usual=SEVERAL, beside=Search)
def sweep(
    env: Any,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    config: Place | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
    **settings: Unpack[SweepKeywords],
) -> "Sweep":
    """Searches settings for a task, and tests on fresh seeds whether the best are better than the defaults.

        sweep = poise.sweep("Reacher-v4", trials=20, search=["ppo.clip", "ppo.lam=0.9:0.98"])
        if sweep.is_better:
            print(sweep.best)

    Needs the extra ``sweep`` (Optuna). Each training runs in a process of its own. So in a script the call
    stands under ``if __name__ == "__main__":``, and an environment of your own is in a module.

    Args:
        env, env_kwargs, wrappers: as of ``train``.
        config: as of ``train``. What differs from the defaults is not searched.
        ray: as of ``experiment``.
        file: where progress is shown; standard output by default.
        settings: every option of ``poise sweep`` by its name there: ``search`` (what is searched),
            ``trials``, ``seeds``, ``final_seeds``, ``at_once``, ``objective``, ``prune``, ``storage``,
            ``study``, and those of ``train``.

    Returns:
        The folder, the trials, the scores on the fresh seeds, the best options and the verdict.

    Raises:
        ConfigError: an option is unknown or wrong, or nothing can be searched.
        StudyError: Optuna is not installed, or the storage cannot be used.
        EnvError: the environment cannot be made.
        SweepError: no trial finished.
        PoolError: a process was killed.
        UnguardedError: the call is not under the main guard.
        KeyboardInterrupt: interrupted; the command ``poise resume FOLDER`` continues.
    """
    refuse_imported_script()
    from poise.studies.sweep.sweep import execute_sweep

    chosen = choose(_given(env, env_kwargs, wrappers), config, settings, SEVERAL, Search)
    search = Search(**fields_of(Search, settings))
    shown = Lasting(file or sys.stdout, whole=False)
    target = env if _is_preset(env) else chosen.env
    done = execute_sweep(target, chosen.config, chosen.options, search, ray=ray, file=shown)
    print(done, done.folder, sep="\n", file=shown)
    return done
