"""The training loop, as a generator: it yields after every iteration and reacts to nothing."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from poise.algo.distributions import DiagGaussian
from poise.algo.origin import relative, with_origin
from poise.algo.update import Prepared, TrainState, Updated, init, learn, learning_rate, make_ready
from poise.arrays import ArraysError
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.checking import Crash, EnvFault
from poise.errors import DIVERGED, TOO_LARGE, TrainingError
from poise.spec import Episode
from poise.system.threads import start_jax
from poise.training.acting import ActionScale
from poise.training.clock import Clock
from poise.training.collector import Collector
from poise.training.divergence import first_bad
from poise.training.facts import facts
from poise.training.groups import check_worlds, make_collector
from poise.types import Rollout


@dataclass(frozen=True)
class Progress:
    """One finished iteration. ``state`` is the one after learning; nothing here is used up later."""

    iteration: int  # counted from 1
    steps: int  # environment steps since the start
    state: TrainState
    rollout: Rollout
    prepared: Prepared
    episodes: list[Episode]
    epochs: dict[str, np.ndarray]  # metrics of each epoch, [E]; NaN where target_kl left an epoch out
    metrics: dict[str, float | int | None]  # of the iteration, None where there is nothing to measure
    rollout_seconds: float  # without compilation, as those below
    physics_seconds: float | None  # of these: stepping and resetting; None where that is one with acting
    learn_seconds: float
    prepare_seconds: float  # of these: preparing the rollout, shuffling its rows
    compile_seconds: float  # of this iteration; in the first also what came before it
    world: dict[str, Any] | None  # as ``Start`` takes it; None where the environment cannot tell
    exact: bool  # whether the training is what it would have been without interruption and lost processes
    crashes: tuple[Crash, ...]  # of environments that were made anew
    notes: tuple[str, ...]  # of processes that were made anew, a line each

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
    """Where a training goes on: ``state`` and ``world`` of a ``Progress``, of this process or another."""

    state: TrainState
    world: Mapping[str, Any]


def iterations(
    config: Config, env: VectorEnv | Sequence[VectorEnv] | Collector, start: Start | None = None
) -> Iterator[Progress]:
    """Trains on ``env`` and yields after each of ``config.num_iterations`` iterations.

    ``env``: where ``config.num_shards`` is more than 1, an environment for each shard; or what collects
    from them in its own way.

    From ``start`` on, where one is given: what follows is bit for bit what followed there, if the
    environment repeats itself.

    Raises:
        ArraysError: ``start`` is of another environment or configuration.
        EnvFault: the environment failed, or returned what is no number.
        ConfigError: an option has no meaning for this environment, or ``num_envs`` is not its number.
        TrainingError: a loss, a parameter, or what a network makes of one became infinite or NaN. That
            iteration is not yielded.
    """
    start_jax()
    if not isinstance(env, Collector):
        check_worlds(env)
    if config.num_envs is None and not isinstance(env, Sequence):
        config = dataclasses.replace(config, num_envs=env.num_envs)
    collector = env if isinstance(env, Collector) else make_collector(env, config)
    spec = collector.spec
    config = config.settled(spec)
    clock = Clock()
    try:
        compiled = clock.now().compiling
        scale = ActionScale(spec, normalize=config.normalize.action)
        state = init(spec, config) if start is None else start.state
        exact = start is None or _restored(collector, start, spec.id)
        for iteration in range(int(state.iteration), config.num_iterations):
            begun = clock.now()
            found = collector.collect(state.learner.policy, state.normalizer, iteration)
            episodes, exact = found.episodes, exact and found.exact
            normalizer = with_origin(state.normalizer, found.rollout, config.normalize)
            state = dataclasses.replace(state, normalizer=normalizer)
            rollout = relative(found.rollout, normalizer)
            collected = clock.now()
            ready = make_ready(state, rollout, config=config)
            prepared = clock.now()
            updated, before = learn(state, ready, config=config), state
            state = jax.block_until_ready(updated.state)
            epochs = _epochs(updated, iteration, config)
            learned = clock.now()
            metrics = _metrics(updated, epochs, episodes) | facts(rollout, before.normalizer, scale)
            if (problem := _problem(metrics, updated)) is not None:
                what, cause = problem
                first = first_bad(before, ready, config) if cause == DIVERGED else None
                at = f"in iteration {iteration + 1} of {spec.id}" + (f", {first}" if first else "")
                raise TrainingError(f"{what} {at}. {cause}")
            yield Progress(
                iteration=iteration + 1,
                steps=(iteration + 1) * config.rollout_size,
                state=state,
                rollout=found.rollout,
                prepared=updated.prepared,
                episodes=episodes,
                epochs=epochs,
                metrics=metrics,
                rollout_seconds=collected.since(begun),
                physics_seconds=found.physics_seconds,
                learn_seconds=learned.since(collected),
                prepare_seconds=prepared.since(collected),
                compile_seconds=learned.compiling - compiled,
                world=collector.snapshot(),
                exact=exact,
                crashes=found.crashes,
                notes=found.notes,
            )
            compiled = learned.compiling
    finally:
        clock.close()


def _restored(collector: Collector, start: Start, id: str) -> bool:
    """Whether all is exactly as it was."""
    try:
        return collector.restore(start.world)
    except EnvFault as fault:
        raise ArraysError(f"{id} cannot be brought back to where it was: {fault}") from fault


def _problem(metrics: dict[str, float | int | None], updated: Updated) -> tuple[str, str] | None:
    """What became infinite or NaN, and what that mostly comes of."""
    if not updated.prepared.finite:
        return "the statistics of observations and returns are infinite or NaN", TOO_LARGE
    for name in ("policy/loss", "value/loss"):
        value = metrics[name]
        if value is None or not math.isfinite(value):
            return f"{name} is {value}", DIVERGED
    for name, finite in (("policy", updated.policy_finite), ("value function", updated.value_finite)):
        if not finite:
            return f"after learning, the {name} is infinite or NaN", DIVERGED
    return None


def _epochs(updated: Updated, iteration: int, config: Config) -> dict[str, np.ndarray]:
    policy, value_loss = jax.device_get((updated.policy, updated.value_loss))
    ppo = config.ppo
    rates = {"policy": ppo.policy_learning_rate, "value": ppo.value_learning_rate}
    return {
        "policy/loss": policy.loss,
        "policy/kl": policy.kl,
        "policy/clip_fraction": policy.clip_fraction,
        "policy/entropy": policy.entropy,
        "policy/num_updates": policy.num_updates,
        "value/loss": value_loss,
    } | {
        f"{name}/learning_rate": np.full(ppo.num_epochs, learning_rate(start, iteration, config))
        for name, start in rates.items()
    }


def _metrics(
    updated: Updated, epochs: dict[str, np.ndarray], episodes: list[Episode]
) -> dict[str, float | int | None]:
    """The scalars of one iteration. Of the epochs, the last in which the policy looked at a minibatch."""
    distribution, explained = jax.device_get(
        (updated.prepared.distribution, updated.prepared.explained_variance)
    )
    returns = [e.episodic_return for e in episodes]
    last = np.flatnonzero(np.asarray(updated.policy.num_seen))[-1]  # the first minibatch always is
    return {
        "episode/return": float(np.mean(returns)) if episodes else None,
        "episode/length": float(np.mean([e.length for e in episodes])) if episodes else None,
        "episode/count": len(episodes),
        **{name: float(values[last]) for name, values in epochs.items() if name.startswith("policy/")},
        "policy/num_updates": int(epochs["policy/num_updates"].sum()),
        "policy/std": float(distribution.std.mean()) if isinstance(distribution, DiagGaussian) else None,
        **{name: float(values[-1]) for name, values in epochs.items() if name.startswith("value/")},
        "value/explained_variance": float(explained),
    }
