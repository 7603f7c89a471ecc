"""N environments in JAX with the interface of the other backends: one compiled call for each step."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Shaped

from poise.arrays import filled, named
from poise.envs.info import finite
from poise.envs.native.jax_env import JaxTask, World, advance, begin, empty_world, observe, with_info
from poise.envs.packing import Obs, map_arrays
from poise.envs.vector import EnvStep, Restored
from poise.system.threads import start_jax


class NativeEnv:
    """N environments in JAX. In training the whole rollout, with the networks, is one call instead."""

    def __init__(self, task: JaxTask, num_envs: int):
        start_jax()
        self.task = task
        self.spec = task.spec
        self.num_envs = num_envs
        self.backend = f"{task.backend} (compiled with the networks)"
        self._world = empty_world(task, num_envs)
        self._seeds = np.zeros(num_envs, np.uint32)  # of the running episodes

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        self._seeds = self._seeds.copy()
        self._seeds[mask] = seeds
        self._world, obs = _begin(self.task, self._world, mask, self._seeds)
        return map_arrays(np.asarray, obs)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        self._world, out = _advance(self.task, self._world, action, self._seeds)
        values: Any = jax.device_get(out)
        return EnvStep(*values)

    def episode_info(self, env: int) -> dict[str, float]:
        return finite({name: np.asarray(values)[env] for name, values in self._world.info.items()})

    def state(self, index: int) -> Any:
        """The state of one environment."""
        return jax.tree.map(lambda x: x[index], self._world.state)

    def snapshot(self) -> dict[str, Any]:
        return {**named(self._world), "seeds": self._seeds}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        seeds = np.asarray(arrays["seeds"], np.uint32)
        own = {name: array for name, array in arrays.items() if name != "seeds"}
        world = filled(self._world, with_info(self._world, own))
        self._world, self._seeds = jax.device_put(world, jax.local_devices()[0]), seeds.copy()
        obs = map_arrays(np.asarray, observe(self.task, self._world))
        return Restored(obs, np.ones(self.num_envs, bool))

    def replay(self, actions: Shaped[np.ndarray, "T N ..."]) -> None:
        """Step the task alone through recorded actions, without resets, in one compiled loop."""
        jax.block_until_ready(_replay(self.task, self._world, actions, self._seeds))

    def close(self) -> None:
        """Nothing to release."""


@partial(jax.jit, static_argnames="task")
def _begin(task: JaxTask, world: World, mask: Any, seeds: Any) -> tuple[World, Any]:
    after = begin(task, world, mask, jax.vmap(jax.random.key)(seeds))
    return after, observe(task, after)


@partial(jax.jit, static_argnames="task")
def _advance(task: JaxTask, world: World, action: Any, seeds: Any) -> tuple[World, EnvStep]:
    return advance(task, world, action, jax.vmap(jax.random.key)(seeds))


@partial(jax.jit, static_argnames="task")
def _replay(task: JaxTask, world: World, actions: Any, seeds: Any) -> World:
    keys = jax.vmap(jax.random.key)(seeds)
    return jax.lax.scan(lambda world, action: (advance(task, world, action, keys)[0], None), world, actions)[
        0
    ]
