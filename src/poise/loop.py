"""The training loop, as a generator: it yields after every iteration and reacts to nothing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from poise.clock import Clock
from poise.config import Config
from poise.envs import VectorEnv
from poise.errors import PoiseError
from poise.rollout import make_collector
from poise.spec import Episode
from poise.types import Rollout
from poise.update import PolicyEpochs, Prepared, TrainState, Updated, init, learning_rate, update


class TrainingError(PoiseError):
    """A training that cannot go on."""

    exit_code = 1


@dataclass(frozen=True)
class Progress:
    """One finished iteration. ``state`` is the one after learning; nothing here is used up later."""

    iteration: int  # counted from 1
    steps: int  # environment steps since the start
    state: TrainState
    rollout: Rollout
    prepared: Prepared
    episodes: list[Episode]
    policy_epochs: PolicyEpochs  # NumPy arrays
    value_loss: np.ndarray  # per epoch
    metrics: dict[str, float | int | None]
    rollout_seconds: float  # without compilation
    learn_seconds: float  # without compilation
    compile_seconds: float  # of this iteration; in the first also what came before it


def iterations(config: Config, env: VectorEnv) -> Iterator[Progress]:
    """Trains on ``env`` and yields after each of ``config.num_iterations`` iterations.

    Raises:
        ConfigError: an option has no meaning for this environment.
        TrainingError: a loss became infinite or NaN.
    """
    clock = Clock()
    try:
        compiled = clock.now().compiling
        state = init(env.spec, config)
        collector = make_collector(env, config)
        for iteration in range(config.num_iterations):
            begun = clock.now()
            rollout, episodes = collector.collect(state.learner.policy, state.normalizer, iteration)
            collected = clock.now()
            updated = update(state, rollout, config=config)
            state = jax.block_until_ready(updated.state)
            policy_epochs, value_loss = jax.device_get((updated.policy, updated.value_loss))
            learned = clock.now()
            metrics = _metrics(updated, policy_epochs, value_loss, episodes, iteration, config)
            _check(metrics, iteration, env)
            yield Progress(
                iteration=iteration + 1,
                steps=(iteration + 1) * config.rollout_size,
                state=state,
                rollout=rollout,
                prepared=updated.prepared,
                episodes=episodes,
                policy_epochs=policy_epochs,
                value_loss=value_loss,
                metrics=metrics,
                rollout_seconds=collected.since(begun),
                learn_seconds=learned.since(collected),
                compile_seconds=learned.compiling - compiled,
            )
            compiled = learned.compiling
    finally:
        clock.close()


def _check(metrics: dict[str, float | int | None], iteration: int, env: VectorEnv) -> None:
    for name in ("policy/loss", "value/loss"):
        value = metrics[name]
        if value is None or not math.isfinite(value):
            raise TrainingError(f"{name} is {value} in iteration {iteration + 1} of {env.spec.id}")


def _metrics(
    updated: Updated,
    policy: PolicyEpochs,
    value_loss: np.ndarray,
    episodes: list[Episode],
    iteration: int,
    config: Config,
) -> dict[str, float | int | None]:
    """The scalars of one iteration; of the epochs, the last in which any minibatch was seen.

    None where there is nothing to measure.
    """
    # target_kl may leave epochs out; their means are NaN
    seen = np.flatnonzero(np.isfinite(policy.kl))
    last = seen[-1] if len(seen) else -1
    std, explained = jax.device_get((updated.prepared.std, updated.prepared.explained_variance))
    returns = [e.episodic_return for e in episodes]
    ppo = config.ppo
    return {
        "episode/return": float(np.mean(returns)) if episodes else None,
        "episode/length": float(np.mean([e.length for e in episodes])) if episodes else None,
        "episode/count": len(episodes),
        "policy/loss": float(policy.loss[last]),
        "policy/kl": float(policy.kl[last]),
        "policy/clip_fraction": float(policy.clip_fraction[last]),
        "policy/entropy": float(policy.entropy[last]),
        "policy/std": None if math.isnan(std) else float(std),
        "policy/num_updates": int(policy.num_updates.sum()),
        "policy/learning_rate": learning_rate(ppo.policy_learning_rate, iteration, config),
        "value/loss": float(value_loss[-1]),
        "value/explained_variance": float(explained),
        "value/learning_rate": learning_rate(ppo.value_learning_rate, iteration, config),
    }
