"""Environments written in JAX: the whole rollout, including the networks, is one compiled call."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from poise.arrays import filled, named
from poise.envs.vector import EnvStep, Restored
from poise.spec import Spec
from poise.system.threads import start_jax


class NativeTask(eqx.Module):
    """An environment as pure functions of one state. Frozen and hashable; its fields are settings."""

    @property
    @abstractmethod
    def spec(self) -> Spec: ...

    @abstractmethod
    def reset(self, *, key: PRNGKeyArray) -> PyTree:
        """The first state of an episode."""

    @abstractmethod
    def observe(self, state: PyTree) -> Float[Array, " O"]: ...

    @abstractmethod
    def step(
        self, state: PyTree, action: Shaped[Array, " *A"]
    ) -> tuple[PyTree, Float[Array, ""], Bool[Array, ""]]:
        """Next state, reward, and whether the task ended. The time limit is applied elsewhere."""


class World(eqx.Module):
    """N states, and the number of steps since each episode began."""

    state: PyTree[Shaped[Array, "N ..."]]
    elapsed: Int[Array, " N"]


def begin(task: NativeTask, world: World, mask: Bool[Array, " N"], keys: Shaped[Array, " N"]) -> World:
    """The world with a new episode in each environment of ``mask``."""
    fresh = jax.vmap(lambda key: task.reset(key=key))(keys)

    def choose(new, old):
        return jnp.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return World(jax.tree.map(choose, fresh, world.state), jnp.where(mask, 0, world.elapsed))


def empty_world(task: NativeTask, num_envs: int) -> World:
    """A world in which no episode has begun: all zeros."""
    keys = jax.random.split(jax.random.key(0), num_envs)
    state = jax.vmap(lambda key: task.reset(key=key))(keys)
    return World(jax.tree.map(jnp.zeros_like, state), jnp.zeros(num_envs, jnp.int32))


def observe(task: NativeTask, world: World) -> Float[Array, "N O"]:
    return jax.vmap(task.observe)(world.state)


def advance(task: NativeTask, world: World, action: Shaped[Array, "N ..."]) -> tuple[World, EnvStep]:
    """One step of all N environments, with the time limit."""
    state, reward, terminated = jax.vmap(task.step)(world.state, action)
    after = World(state, world.elapsed + 1)
    limit = task.spec.time_limit
    truncated = jnp.zeros_like(terminated) if limit is None else after.elapsed >= limit
    return after, EnvStep(observe(task, after), reward, terminated, truncated)


@partial(jax.jit, static_argnames="task")
def _begin(task, world, mask, seeds):
    after = begin(task, world, mask, jax.vmap(jax.random.key)(seeds))
    return after, observe(task, after)


_advance = jax.jit(advance, static_argnames="task")


@partial(jax.jit, static_argnames="task")
def _replay(task: NativeTask, world: World, actions: Shaped[Array, "T N ..."]) -> World:
    return jax.lax.scan(lambda world, action: (advance(task, world, action)[0], None), world, actions)[0]


class NativeEnv:
    """A native task with the interface of the other backends: one compiled call for each step."""

    def __init__(self, task: NativeTask, num_envs: int):
        start_jax()
        self.task = task
        self.spec = task.spec
        self.num_envs = num_envs
        self.backend = "native (compiled with the networks)"
        self._world = empty_world(task, num_envs)

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        all_seeds = np.zeros(self.num_envs, np.uint32)
        all_seeds[mask] = seeds
        self._world, obs = _begin(self.task, self._world, mask, all_seeds)
        return np.asarray(obs)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        self._world, out = _advance(self.task, self._world, action)
        values: Any = jax.device_get(out)
        return EnvStep(*values)

    def snapshot(self) -> dict[str, Any]:
        return named(self._world)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        self._world = jax.device_put(filled(self._world, arrays), jax.devices()[0])
        obs = np.asarray(observe(self.task, self._world))
        return Restored(obs, np.ones(self.num_envs, bool))

    def replay(self, actions: Shaped[np.ndarray, "T N ..."]) -> None:
        """Step the task alone through recorded actions, without resets, in one compiled loop."""
        jax.block_until_ready(_replay(self.task, self._world, actions))

    def close(self) -> None:
        """Nothing to release."""
