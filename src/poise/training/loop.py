"""The training loop, a generator: it yields after every iteration, and the caller decides what happens."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from poise.algo.state import TrainState, state_shapes
from poise.arrays import ArraysError
from poise.checked import ConfigError
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import EnvFault
from poise.own.network import OwnNetwork, check_network, import_networks
from poise.placement import two_devices
from poise.placement.joined import place
from poise.placement.lanes import Lanes
from poise.placement.mesh import Layout
from poise.spec import Episode, Spec
from poise.system.threads import start_jax
from poise.training.blocks import BlockDriver, Program
from poise.training.clock import Clock
from poise.training.collector import Collector, Starting
from poise.training.compiled import NativeCollector
from poise.training.groups import check_native_minibatch, check_together, check_worlds, make_collector
from poise.training.iteration import RECENT, Driver, Progress
from poise.training.starting.curriculum import with_curriculum


class Start(NamedTuple):
    """Where a training continues: ``state`` and ``world`` of a ``Progress``, from this or another process.

        poise.iterations(config, env, poise.Start(progress.state, progress.world))

    Also in another environment with the same spaces: its episodes then start again, and ``Progress.exact`` is
    False. ``world`` is None where the environments begin anew.
    """

    state: TrainState
    world: Mapping[str, Any] | None = None


class Around(NamedTuple):
    """What surrounds the iterations of one training.

    Attributes:
        tell: where the devices are those of several processes: what tells the others, which ``follow``, the
            iterations before each program and those of it.
        stopped: whether the training ends with the iteration that was yielded last.
        past: the episodes before ``start``.
    """

    tell: Callable[[int, int], None] = lambda number, count: None
    stopped: Callable[[], bool] = lambda: False
    past: Sequence[Episode] = ()


ALONE = Around()


def iterations(
    config: Config,
    env: VectorEnv | Sequence[VectorEnv] | Collector,
    start: Start | None = None,
    *,
    devices: int = 1,
) -> Iterator[Progress]:
    """Trains on ``env`` and yields after each of ``config.num_iterations`` iterations.

    On a GPU or on several devices, some iterations of environments in JAX are one program: then it yields
    after each such program, with a row for each iteration.

    Args:
        config: the options; what is left open is chosen by environment and budget.
        env: ``config.num_envs`` environments; one such object for each group where ``config.env_groups``
            is more than 1; or a ``Collector``, which has them.
        start: where to continue. The iterations are then bit for bit those that followed there, if the
            environment repeats itself.
        devices: of JAX that learn together, each from some of the ``config.env_groups`` groups.

    Raises:
        ArraysError: ``start`` is of another environment or configuration.
        EnvFault: the environment failed, or returned infinity or NaN.
        ConfigError: an option has no meaning for this environment, or ``num_envs`` is not its number.
        TrainingError: a loss, a parameter or a network's output became infinite or NaN. That iteration is
            not yielded.
    """
    for option in ("start_from", "demonstrations"):
        if (given := getattr(config, option)) is not None:
            raise ConfigError(f"{option} = {given!r}: has no effect here; poise.session reads it")
    start_jax()
    import_networks(config)
    if not isinstance(env, Collector):
        check_worlds(env)
    if config.num_envs is None and not isinstance(env, Sequence):
        config = dataclasses.replace(config, num_envs=env.num_envs)
    if isinstance(env, Collector):
        collector = env
    else:
        worlds = env if isinstance(env, Sequence) else [env]
        collector = with_curriculum(make_collector(env, config), worlds, config)
    config = settle(config, collector.spec, new=start is None)
    layout = choose_layout(config, collector, devices)
    for progress in settled_iterations(config, collector, start, layout=layout):
        if progress is not None:
            yield progress


def settle(config: Config, spec: Spec, *, new: bool) -> Config:
    """The configuration with a number for every option, checked against its environment.

    This is done once for each training, at its start. ``new``: the training does not resume,
    so options that change nothing are refused.

    Raises:
        ConfigError: an option has no meaning for this environment or, if ``new``, changes nothing; or a
            network of the user fails its check.
    """
    config.check_against(spec)
    if new:
        config.without_unused(spec).refuse_idle()
    config = config.settled(spec)
    if config.own_networks:
        learner = state_shapes(spec, config).learner
        for network in (learner.policy.mlp, learner.value.mlp):
            if isinstance(network, OwnNetwork):
                check_network(network)
    return config


def settled_iterations(
    config: Config,
    collector: Collector,
    start: Start | None,
    *,
    layout: Layout | None = None,
    pauses: Iterable[int] = (),
    lanes: Lanes | None = None,
    around: Around = ALONE,
) -> Iterator[Progress | None]:
    """``iterations`` with a configuration from ``settle``.

    Args:
        layout: by ``choose_layout``.
        pauses: numbers of environment steps. Where several iterations are one program, it ends at their
            multiples.
        lanes: the program of several trainings, which differ in their seeds. Each of them yields None where
            the others have to come to the same place before its next iterations are computed.
        around: what stops it, say.
    """
    clock = Clock()
    state, exact = _begin(config, collector, start)
    first = int(state.iteration)
    if layout is None:
        state = two_devices.place(state)
        driver = Driver(config, collector, clock, state, exact=exact)
    else:
        assert isinstance(collector, NativeCollector)
        state = place(state, layout)
        program = Program(layout, lanes or Lanes(1), around.tell)
        driver = BlockDriver(config, collector, clock, program, pauses=pauses, exact=exact)
    try:
        numbers, can_start = range(first, config.num_iterations), isinstance(collector, Starting)
        yield from _with_recent(_driven(driver, state, numbers, can_start, around.stopped), around.past)
    finally:
        clock.close()


def follow(
    config: Config,
    collector: Collector,
    start: Start | None,
    layout: Layout,
    commands: Iterable[tuple[int, int]],
) -> int:
    """The part of a process that does not lead: it computes what the leader's ``settled_iterations`` tells.

    Returns the iterations of the training at the end of ``commands``.
    """
    assert isinstance(collector, NativeCollector)
    clock = Clock()
    state, _ = _begin(config, collector, start)
    number = int(state.iteration)
    try:
        driver = BlockDriver(config, collector, clock, Program(layout, Lanes(1)))
        return driver.follow(place(state, layout), number, commands)
    finally:
        clock.close()


def _begin(config: Config, collector: Collector, start: Start | None) -> tuple[TrainState, bool]:
    """The first state, and whether everything is exactly as it was."""
    if start is None:
        return two_devices.init(collector.spec, config), True
    if start.world is None:
        return start.state, True
    return start.state, _restored(collector, start.world, collector.spec.id)


def _with_recent(training: Iterator[Progress | None], past: Sequence[Episode]) -> Iterator[Progress | None]:
    """The same, with the episodes that ended last. ``past``: those before."""
    recent = deque(past[-RECENT:], RECENT)
    for progress in training:
        if progress is not None:
            recent.extend(progress.episodes)
            progress = dataclasses.replace(progress, recent=tuple(recent))
        yield progress


def _driven(
    driver: Driver | BlockDriver,
    state: TrainState,
    numbers: range,
    can_start: bool,
    stopped: Callable[[], bool],
) -> Iterator[Progress | None]:
    """The iterations of those numbers. ``can_start``: the next may begin before the last is landed."""
    number, launched = numbers.start, None
    while number < numbers.stop and not stopped():
        now: Any = launched or (yield from _launched(driver, state, number, ahead=False))
        state, number, launched = now.after, now.end, None
        # The first compiles. From the third on, each is launched before the one before it is landed.
        if can_start and now.first > numbers.start and number < numbers.stop:
            launched = yield from _launched(driver, state, number, ahead=True)
        yield from driver.landed(now)  # the caller records, shows, stops
    if launched is not None:
        driver.drop(launched)


def _launched(
    driver: Driver | BlockDriver, state: TrainState, number: int, *, ahead: bool
) -> Generator[None, None, Any]:
    """The next iteration, or block of iterations, which has been started."""
    if isinstance(driver, Driver):
        return driver.launch(state, number, ahead=ahead)
    return (yield from driver.launch(state, number))


def choose_layout(config: Config, collector: Collector, devices: int, together: int = 1) -> Layout | None:
    """The devices that whole iterations run on as one program; None: their parts are compiled apart.

    One program is faster where a device works faster than this process can ask it to, so on a GPU. On a CPU
    policy and value function learn at the same time instead (``two_devices``). Groups of environments in JAX
    are always one program, and so are ``together`` trainings.

    Raises:
        ConfigError: ``devices`` has no meaning here, or the groups cannot be shared equally.
    """
    if not isinstance(collector, NativeCollector):
        for name, value in (("devices", devices), ("together", together)):
            if value > 1:
                raise ConfigError(
                    f"{name} = {value}: must be 1 on backend {collector.backend}; it is for environments in "
                    "JAX"
                )
        return None
    check_native_minibatch(config, collector.spec)
    groups, there = config.env_groups, jax.local_devices()
    check_devices(groups, devices, jax.process_count())
    each = devices // jax.process_count()
    if each > len(there):
        raise ConfigError(f"devices = {devices}: JAX has {len(there)} here ({there[0].device_kind})")
    if together > 1:
        check_together(together, config)
    elif groups == 1 and jax.default_backend() == "cpu":
        return None
    places = [jax.local_devices(process)[:each] for process in range(jax.process_count())]
    return Layout.of(groups, list(itertools.chain(*places)))


def check_devices(groups: int, devices: int, processes: int) -> None:
    """Raises ConfigError if processes cannot share devices equally, or these the groups."""
    if groups % devices:
        raise ConfigError(
            f"devices = {devices}: must divide env_groups = {groups}; choose a multiple of {devices}"
        )
    if devices % processes:
        raise ConfigError(f"devices = {devices}: must be a multiple of {processes}, the processes")


def _restored(collector: Collector, world: Mapping[str, Any], id: str) -> bool:
    """Puts the environments back where they were. Returns whether everything is exactly as it was."""
    try:
        return collector.restore(world)
    except EnvFault as fault:
        raise ArraysError(f"{id} cannot be restored: {fault}") from fault
