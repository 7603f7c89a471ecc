"""What Python code calls: train and resume, with what the command shows."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from poise import envs
from poise.health.telling import run_lines
from poise.runs.driving.own_loop import OwnLoop
from poise.runs.resuming import saved_env
from poise.runs.session import Changes, Run, execute, executing, proceed
from poise.runs.setup import Conditions
from poise.settings.files import Given
from poise.settings.keywords import Keywords, choose, with_keywords
from poise.system.interrupts import refuse_imported_script
from poise.system.streams import Lasting, TextOut
from poise.system.terminal import print
from poise.training.iteration import Progress
from poise.training.starting.curriculum import CurriculumState, name_of_function


@with_keywords
def train(
    env: Any = None,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    config: str | Path | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
    on_iteration: Callable[[Progress], object] | None = None,
    **settings: Unpack[Keywords],
) -> Run:
    """Trains an agent and leaves a folder with all that there is to know of it.

        run = poise.train("Reacher-v4", total_steps=100_000, ppo={"clip": 0.1})
        agent = poise.load(run.folder)

    In a script, with backend "gymnasium-async", the call stands under ``if __name__ == "__main__":``: Python
    runs the script again in each process that it starts.

    Args:
        env: a Gymnasium id, one of poise's own, or the name of a preset; None: the one that ``config`` names.
            Or a class derived from ``gymnasium.Env``, ``poise.Task`` or ``poise.JaxEnv``, a function that
            makes an environment, or an environment that ``gymnasium.make`` has made: it is made again.
        env_kwargs: arguments of its constructor, as JSON has them.
        wrappers: around it, from the innermost on: names (``"my_envs:Clip"``), classes, or functions that
            take an environment. Gymnasium then steps it.
        config: a file of settings (.yaml, .json, .toml), the folder of a run, or "sb3". It overrides a
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
    config: str | Path | None = None,
    ray: str | None = None,
    file: TextOut | None = None,
    **settings: Unpack[Keywords],
) -> OwnLoop:
    """``train`` with a loop of your own: the same run folder, checkpoints, score and film.

        with poise.session("CartPole-v1", total_steps=100_000) as session:
            for progress in session:
                print(progress.steps, progress.mean_return)
                if progress.mean_return > 195:
                    break
        agent = poise.load(session.run.folder)

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
    run: str | Path,
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
    ray: str | None = None,
    file: TextOut | None = None,
    on_iteration: Callable[[Progress], object] | None = None,
) -> Run:
    """Resumes a training that was interrupted or killed, from its last checkpoint to its end.

    The result is bit for bit that of the training without the interruption.

    Args:
        run: its folder.
        total_steps: another budget, also for a training that is finished or was stopped. Learning rates then
            go to 0 over it: the result is not that of a training that had it from the start.
        stop_at, max_seconds: another end of this kind, also for a training that this option has stopped.
        env: the environment once more, where it is of a module (``module:Task``): a folder alone never makes
            Python import one. Or where only the program that trained had it: its class or function.
        wrappers: the wrappers once more, with ``env``, where these are of a module or of that program.
        workers: another number of processes that step the environments. It changes no bit.
        device: another device, as of ``train``. The bits may then differ.
        devices: another number of devices that train together, as of ``train``.
        curriculum: the function of the curriculum, or its name, where the training has one: a folder alone
            never makes Python import a module.
        ray: the cluster of these, as of ``train``.
        file: where progress is shown; standard output by default.
        on_iteration: as of ``train``. It is called from the next iteration on.

    Raises:
        RunError: there is nothing to go on with, or the environment has changed.
        CheckpointError: no checkpoint is usable.
        ClaimError: another process is training it.
        ConfigError: ``total_steps`` is less than what was done, or there is no such device.
        PlatformError: as of ``train``.
        EnvFault, TrainingError, StorageError, KeyboardInterrupt: as of ``train``.
    """
    refuse_imported_script()
    shown = Lasting(file or sys.stdout, whole=False)
    env = None if env is None else _again(Path(run), env, wrappers)
    places = workers, device, devices
    function = name_of_function(curriculum) if callable(curriculum) else curriculum
    changes = Changes(total_steps, env, *places, stop_at, max_seconds, function)  # pyright: ignore[reportArgumentType]
    conditions = Conditions(shown, ray=ray, on_iteration=on_iteration)
    return _told(proceed(Path(run), changes, conditions), shown)


def _given(env: Any, env_kwargs: Mapping[str, Any] | None, wrappers: Sequence[Any]) -> Given:
    return Given(env if env is None else envs.as_text(env), env_kwargs or {}, _texts(wrappers))


def _texts(wrappers: Sequence[Any]) -> tuple[str, ...]:
    if not wrappers:
        return ()
    from poise.envs.forms.given import texts_of

    return texts_of(wrappers)


def _again(run: Path, env: Any, wrappers: Sequence[Any]) -> str:
    """The text of the environment that is given once more for a run."""
    if isinstance(env, str) and not wrappers:
        return env
    from poise.envs.forms.given import again

    return again(saved_env(run), env, wrappers)


def _told(run: Run, file: TextOut) -> Run:
    """The run, after its score, its health and its folder were shown."""
    lines, _ = run_lines(run.folder, run.summary, run.evaluation)
    print(*lines, run.folder, sep="\n", file=file)
    return run
