"""The training loop, a generator: it yields after every iteration, and the caller decides what happens."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.prepare import Prepared
from poise.algo.state import TrainState
from poise.arrays import ArraysError
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import Crash, EnvFault
from poise.placement import two_devices
from poise.spec import Episode, Spec
from poise.system.threads import start_jax
from poise.training.acting import ActionScale
from poise.training.clock import Clock, Instant
from poise.training.collector import Collector
from poise.training.divergence import refuse_infinite
from poise.training.groups import check_worlds, make_collector
from poise.training.measuring import epoch_metrics, iteration_metrics, measure_rollout
from poise.training.measuring_spaces import measure_spaces
from poise.training.origin import relative_to_origin
from poise.types import Rollout


@dataclass(frozen=True)
class Progress:
    """One finished iteration. Later iterations change none of its arrays."""

    iteration: int  # counted from 1
    steps: int  # environment steps since the start
    state: TrainState  # after learning
    rollout: Rollout  # as collected
    prepared: Prepared
    episodes: list[Episode]
    epochs: dict[str, np.ndarray]  # metrics of each epoch, [E]; NaN where target_kl skipped an epoch
    metrics: dict[str, float | int | None]  # of the iteration; None if there is nothing to measure
    rollout_seconds: float  # without compilation, as physics, learn and prepare
    physics_seconds: float | None  # of these: stepping and resetting; None if compiled together with acting
    learn_seconds: float
    prepare_seconds: float  # of these: preparing the rollout and shuffling its rows
    compile_seconds: float  # since the end of the previous learning
    world: dict[str, Any] | None  # for ``Start``; None if the environment cannot report its state
    exact: bool  # False once a resume or a lost process may have changed the result
    crashes: tuple[Crash, ...]  # of environments that were made again
    notes: tuple[str, ...]  # lines for the user, of processes that were started again

    @property
    def times(self) -> dict[str, float | None]:
        """By the names of the metrics."""
        return {
            "time/rollout": self.rollout_seconds,
            "time/physics": self.physics_seconds,
            "time/learn": self.learn_seconds,
            "time/prepare": self.prepare_seconds,
        }


class Start(NamedTuple):
    """Where a training continues: ``state`` and ``world`` of a ``Progress``, from this or another process."""

    state: TrainState
    world: Mapping[str, Any]


def iterations(
    config: Config, env: VectorEnv | Sequence[VectorEnv] | Collector, start: Start | None = None
) -> Iterator[Progress]:
    """Trains on ``env`` and yields after each of ``config.num_iterations`` iterations.

    Args:
        config: the options; what is left open is chosen by environment and budget.
        env: ``config.num_envs`` environments; one such object for each group where ``config.env_groups``
            is more than 1; or a ``Collector``, which has them.
        start: where to continue. The iterations are then bit for bit those that followed there, if the
            environment repeats itself.

    Raises:
        ArraysError: ``start`` is of another environment or configuration.
        EnvFault: the environment failed, or returned infinity or NaN.
        ConfigError: an option has no meaning for this environment, or ``num_envs`` is not its number.
        TrainingError: a loss, a parameter or a network's output became infinite or NaN. That iteration is
            not yielded.
    """
    start_jax()
    if not isinstance(env, Collector):
        check_worlds(env)
    if config.num_envs is None and not isinstance(env, Sequence):
        config = dataclasses.replace(config, num_envs=env.num_envs)
    collector = env if isinstance(env, Collector) else make_collector(env, config)
    config = settle(config, collector.spec, new=start is None)
    yield from settled_iterations(config, collector, start)


def settle(config: Config, spec: Spec, *, new: bool) -> Config:
    """The configuration with a number for every option, checked against its environment.

    This is done once for each training, at its start. ``new``: the training does not resume,
    so options that change nothing are refused.

    Raises:
        ConfigError: an option has no meaning for this environment or, if ``new``, changes nothing.
    """
    config.check_against(spec)
    if new:
        config.refuse_idle()
    return config.settled(spec)


def settled_iterations(config: Config, collector: Collector, start: Start | None) -> Iterator[Progress]:
    """``iterations`` with a configuration from ``settle``."""
    clock = Clock()
    try:
        yield from _train(config, collector, start, clock)
    finally:
        clock.close()


def _train(config: Config, collector: Collector, start: Start | None, clock: Clock) -> Iterator[Progress]:
    """``settled_iterations`` with their clock."""
    spec, compiled = collector.spec, clock.now().compiling
    scale = ActionScale(spec, normalize=config.normalize.action)
    state = two_devices.init(spec, config) if start is None else start.state
    exact = start is None or _restored(collector, start, spec.id)
    for iteration in range(int(state.iteration), config.num_iterations):
        hyper = Hyperparameters.of(config, iteration)
        instants = [clock.now()]

        # 1. Collect: the policy acts in the environments.
        collected = collector.collect(state.learner.policy, state.normalizer, iteration)
        # the state with its origin set, and observations relative to that origin
        before, rollout = relative_to_origin(state, collected.rollout, config.normalize)
        instants.append(clock.now())

        # 2. Prepare: normalize, compute advantages and targets, shuffle.
        ready = two_devices.make_ready(before, rollout, hyper)
        instants.append(clock.now())

        # 3. Learn: all epochs of policy and value function.
        state, measured = jax.block_until_ready(two_devices.learn(before, ready, hyper))
        instants.append(clock.now())

        # 4. Measure, and stop if something became infinite or NaN.
        epochs = epoch_metrics(measured, hyper)
        metrics = iteration_metrics(measured, epochs, collected.episodes)
        metrics |= measure_rollout(rollout, before.normalizer, scale)
        metrics |= measure_spaces(spec, before, rollout, measured.prepared)
        refuse_infinite(metrics, measured, before, ready, hyper, f"iteration {iteration + 1} of {spec.id}")

        # 5. Yield: the caller records, shows, stops.
        exact = exact and collected.exact
        yield Progress(
            iteration=iteration + 1,
            steps=(iteration + 1) * config.rollout_size,
            state=state,
            rollout=collected.rollout,
            prepared=measured.prepared,
            episodes=collected.episodes,
            epochs=epochs,
            metrics=metrics,
            physics_seconds=collected.physics_seconds,
            **_seconds(instants, compiled),
            world=collector.snapshot(),
            exact=exact,
            crashes=collected.crashes,
            notes=collected.notes,
        )
        compiled = instants[-1].compiling


def _seconds(instants: Sequence[Instant], compiled: float) -> dict[str, float]:
    """The durations of an iteration; ``compiled``: seconds of compilation before it."""
    began, collected, prepared, learned = instants
    return {
        "rollout_seconds": collected.since(began),
        "learn_seconds": learned.since(collected),
        "prepare_seconds": prepared.since(collected),
        "compile_seconds": learned.compiling - compiled,
    }


def _restored(collector: Collector, start: Start, id: str) -> bool:
    """Puts the environments back where they were. Returns whether everything is exactly as it was."""
    try:
        return collector.restore(start.world)
    except EnvFault as fault:
        raise ArraysError(f"{id} cannot be restored: {fault}") from fault
