"""The training loop, a generator: it yields after every iteration, and the caller decides what happens."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from poise.algo.state import TrainState
from poise.arrays import ArraysError
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import EnvFault
from poise.placement import two_devices
from poise.spec import Spec
from poise.system.threads import start_jax
from poise.training.clock import Clock
from poise.training.collector import Collector, Starting
from poise.training.groups import check_worlds, make_collector
from poise.training.iteration import Driver, Progress


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
    state = two_devices.init(collector.spec, config) if start is None else start.state
    exact = start is None or _restored(collector, start, collector.spec.id)
    driver = Driver(config, collector, clock, state, exact=exact)
    first, launched = int(state.iteration), None
    for number in range(first, config.num_iterations):
        now = launched or driver.launch(state, ahead=False)
        state, launched = now.after, None
        # The first compiles. From the third on, each is launched before the one before it is landed.
        if first < number < config.num_iterations - 1 and isinstance(collector, Starting):
            launched = driver.launch(state, ahead=True)
        yield driver.land(now)  # the caller records, shows, stops


def _restored(collector: Collector, start: Start, id: str) -> bool:
    """Puts the environments back where they were. Returns whether everything is exactly as it was."""
    try:
        return collector.restore(start.world)
    except EnvFault as fault:
        raise ArraysError(f"{id} cannot be restored: {fault}") from fault
