"""The limits of the machine: the environments alone, and the arithmetic of learning alone."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise import envs
from poise.algo.encoders import MLP
from poise.config import Config
from poise.envs import VectorEnv
from poise.envs.packing import Obs
from poise.envs.vector import EnvStep
from poise.store.checkpoint import Trained
from poise.system.cores import num_cores
from poise.training.host import HostCollector

SIDE = 1024  # rows and columns of the two matrices whose product is the peak


def flops_a_step(trained: Trained, config: Config) -> float:
    """Floating-point operations that learning needs for one environment step: all epochs, both networks.

    A layer takes 2 x inputs x outputs for each row forward, the same for the gradient of its weights, and
    the same for the gradient of its inputs, which the first layer does not need. Nothing else is counted.
    """
    per_row = 0
    for network, epochs in zip((trained.policy, trained.value), config.ppo.epochs, strict=True):
        assert isinstance(network.mlp, MLP)
        sizes = [w.size for w in network.mlp.weight]
        per_row += epochs * (6 * sum(sizes) - 2 * sizes[0])
    rows = config.rollout_size // config.minibatch_size * config.minibatch_size
    return per_row * rows / config.rollout_size


def peak() -> float:
    """Floating-point operations per second of the product of two matrices in NumPy, on all cores."""
    left, right = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
    return 2 * SIDE**3 / _seconds(lambda: left @ right)


class Move(NamedTuple):
    """One step of all environments: the resets before it, and the action."""

    action: Shaped[np.ndarray, "N ..."]
    reset: Bool[np.ndarray, " N"] | None  # the environments that were reset before the step; None: none
    seeds: Sequence[int]  # of these resets
    state: Float[np.ndarray, "N S"] | None  # the batch engine's rows after these resets


class _Recording:
    """A vector environment that records resets and actions, and its ``state`` after each reset."""

    def __init__(self, env: VectorEnv, state: Callable[[], np.ndarray] | None):
        self._env, self._state = env, state
        self.spec, self.num_envs, self.backend = env.spec, env.num_envs, env.backend
        self.moves: list[Move] = []
        self._last_reset: tuple[np.ndarray | None, Sequence[int]] = None, ()

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        self._last_reset = mask.copy(), seeds
        return self._env.reset(mask, seeds)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        mask, seeds = self._last_reset
        state = None if self._state is None or mask is None else self._state()
        self.moves.append(Move(np.array(action), mask, seeds, state))
        self._last_reset = None, ()
        return self._env.step(action)

    def close(self) -> None:
        self._env.close()


def record(task: envs.Resolved, config: Config, trained: Trained) -> list[Move]:
    """One rollout of the trained agent with sampled actions, from the starts of episodes."""
    env = envs.make(task.id, config.shape[1], task.backend)
    recording = _Recording(env, getattr(env, "rows", None))
    try:
        HostCollector(recording, config).collect(trained.policy, trained.normalizer, 0)
    finally:
        env.close()
    return recording.moves


def physics_alone(task: envs.Resolved, moves: list[Move]) -> dict[int, float]:
    """Steps per second of the environments alone with recorded actions, by number of threads.

    Batch engine: the engine without observations and rewards, at each number of threads; model fields that
    a task varies keep the model's values. Native: one compiled loop without resets. Atari and
    Gymnasium: the whole step. The last two have no threads to choose; their key is 0.
    """
    num_envs = len(moves[0].action)
    env: Any = envs.make(task.id, num_envs, task.backend)
    try:
        match task.backend:
            case "mujoco":
                threads = range(1, min(num_cores(), num_envs) + 1)
                steps = [(m.action, m.state) for m in moves]
                times = {n: _seconds(partial(env.replay, steps, env.engine(n))) for n in threads}
            case "native" | "mjx":
                actions = np.stack([m.action for m in moves])
                env.reset(moves[0].reset, moves[0].seeds)
                times = {0: _seconds(partial(env.replay, actions))}
            case "atari" | "gymnasium" | "gymnasium-async":
                times = {0: _seconds(partial(_replay, env, moves))}
    finally:
        env.close()
    return {n: len(moves) * num_envs / seconds for n, seconds in times.items()}


def _replay(env: VectorEnv, moves: list[Move]) -> None:
    for move in moves:
        if move.reset is not None:
            env.reset(move.reset, move.seeds)
        env.step(move.action)


def _seconds(work: Callable[[], object]) -> float:
    """The median duration of ``work``, repeated for half a second and at least three times.

    The first call is not counted: it may compile, or fill caches.
    """
    times, start = [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - start < 0.5:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return statistics.median(times[1:])
