"""What Python code calls: train and resume, with what the command shows."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poise import envs
from poise.health.telling import run_lines
from poise.runs.options import Options
from poise.runs.session import Changes, Run, execute, proceed
from poise.runs.setup import Conditions
from poise.settings.presets import configure
from poise.system.interrupts import refuse_imported_script
from poise.system.streams import Lasting, TextOut
from poise.system.terminal import print


def train(
    env: str,
    *,
    backend: envs.Backend = "auto",
    device: str = Options.device,
    matmul_precision: str = Options.matmul_precision,
    out: str | Path = "runs",
    file: TextOut | None = None,
    evaluate: bool = Options.evaluate,
    video: bool = Options.video,
    log_every: int = Options.log_every,
    checkpoint_every: int | None = Options.checkpoint_every,
    eval_every: int | None = Options.eval_every,
    eval_episodes: int = Options.eval_episodes,
    eval_max_steps: int | None = Options.eval_max_steps,
    eval_max_seconds: float | None = Options.eval_max_seconds,
    on_crash: str = Options.on_crash,
    env_timeout: float = Options.env_timeout,
    workers: int = Options.workers,
    devices: int = Options.devices,
    together: int | None = Options.together,
    ray: str | None = None,
    compile_cache: bool = Options.compile_cache,
    name: str | None = None,
    tag: Sequence[str] = (),
    note: str | None = None,
    **config: Any,
) -> Run:
    """Trains an agent and leaves a folder with all that there is to know of it.

        run = poise.train("Reacher-v4", total_steps=100_000, ppo={"clip": 0.1})
        agent = poise.load(run.folder)

    In a script, with backend "gymnasium-async", the call stands under ``if __name__ == "__main__":``: Python
    runs the script again in each process that it starts.

    Args:
        env: a Gymnasium id, one of poise's own, or the name of a preset.
        backend: what steps the environments; "auto" takes the fastest that has ``env``.
        device: "auto", "cpu" or "gpu" (``Options.device``). JAX must not have started before in this process,
            or on that device.
        matmul_precision: "float32", "tf32" or "bfloat16", on a GPU (``Options.matmul_precision``).
        out: the root in which the run's folder is made.
        file: where progress is shown; standard output by default.
        evaluate: whether the greedy agent plays 100 episodes at the end, and the best agent is chosen.
        video: whether it is filmed at the end.
        log_every: log every n-th environment step to TensorBoard.
        checkpoint_every: environment steps between two checkpoints; None: one when 10 seconds have passed.
        eval_every: environment steps between two greedy scores while training; None: none.
        eval_episodes: episodes of each of these scores.
        eval_max_steps: environment steps of the score at the end (``Options.eval_max_steps``).
        eval_max_seconds: seconds after which no further episode of it begins (``Options.eval_max_seconds``).
        on_crash: "stop" or "restart" (``Options.on_crash``).
        env_timeout: seconds (``Options.env_timeout``).
        workers: processes of a cluster that step the environments (``Options.workers``).
        devices: of JAX that train together (``Options.devices``).
        together: lanes of the program (``Options.together``). Copies of this training fill the others: it
            repeats one of so many seeds that were trained together.
        ray: the cluster: "HOST:PORT", or "auto" for the one of this machine; None: a local one is started for
            the workers, and stopped at the end (``poise.system.cluster``).
        compile_cache: whether what JAX compiles is kept in the user's cache folder for the next start
            (``poise.system.compile_cache``).
        name: of the run, for the name of its folder, tables and legends.
        tag: words by which ``poise runs`` finds it.
        note: about it.
        config: fields of ``Config``: ``total_steps``, ``seed``, ``num_envs``, and the groups ``ppo``,
            ``policy``, ``value``, ``normalize``, each as its record or as a mapping of what changes.

    Raises:
        EnvError: the environment cannot be made.
        ConfigError: an option is unknown, wrong, or has no meaning for this environment.
        PlatformError: JAX cannot use the device.
        EnvFault: the environment failed; the folder holds all up to then.
        TrainingError: training became infinite or NaN; the folder holds all up to then.
        StorageError: the disk is full; the checkpoints before are whole.
        KeyboardInterrupt: interrupted; the folder holds all up to then, and ``resume`` goes on from it.
    """
    refuse_imported_script()
    options = Options(
        backend=backend,
        device=device,  # pyright: ignore[reportArgumentType] (checked there, as the next and on_crash)
        matmul_precision=matmul_precision,  # pyright: ignore[reportArgumentType]
        out=Path(out),
        evaluate=evaluate,
        video=video,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        eval_max_steps=eval_max_steps,
        eval_max_seconds=eval_max_seconds,
        on_crash=on_crash,  # pyright: ignore[reportArgumentType]
        env_timeout=env_timeout,
        workers=workers,
        devices=devices,
        together=together,
        compile_cache=compile_cache,
        name=name,
        tag=tuple(tag),
        note=note,
    )
    id, configured = configure(envs.checked_name(env), **config)
    shown = Lasting(file or sys.stdout, whole=False)
    return _told(execute(id, configured, options, Conditions(shown, ray=ray)), shown)


def resume(
    run: str | Path,
    *,
    total_steps: int | None = None,
    env: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    devices: int | None = None,
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
        device: another device, as of ``train``. The bits may then differ.
        devices: another number of devices that train together, as of ``train``.
        ray: the cluster of these, as of ``train``.
        file: where progress is shown; standard output by default.

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
    changes = Changes(total_steps, env, workers, device, devices)  # pyright: ignore[reportArgumentType]
    return _told(proceed(Path(run), changes, Conditions(shown, ray=ray)), shown)


def _told(run: Run, file: TextOut) -> Run:
    """The run, after its score, its health and its folder were shown."""
    lines, _ = run_lines(run.folder, run.summary, run.evaluation)
    print(*lines, run.folder, sep="\n", file=file)
    return run
