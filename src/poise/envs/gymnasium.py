"""Everything else that Gymnasium knows, through its vector environments."""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Bool, Float, Shaped

from poise.envs.vector import EnvError
from poise.spec import Spec
from poise.types import EnvStep


def registered_ids() -> list[str]:
    """Every id that ``gymnasium.make`` knows at this moment."""
    return list(gym.registry)


def is_registered(id: str) -> bool:
    """Whether Gymnasium can find ``id``; for ``module:Name`` it imports the module.

    Raises:
        EnvError: the module of ``module:Name`` cannot be imported.
    """
    module, _, name = id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EnvError(f"{id}: its module cannot be imported: {error}") from error
    try:
        gym.spec(name)
    except gym.error.Error:
        return False
    return True


def _spec(id: str, env: Any) -> Spec:
    obs, action = env.single_observation_space, env.single_action_space
    limit = env.spec.max_episode_steps if env.spec else None
    if not isinstance(obs, gym.spaces.Box):
        raise EnvError(f"{id}: observation space {obs} is not supported; supported is Box")
    match action:
        case gym.spaces.Discrete():
            choices = int(action.n)
            return Spec(id, obs.shape, num_choices=choices, first_choice=int(action.start), time_limit=limit)
        case gym.spaces.Box():
            low, high = (tuple(bound.astype(float).ravel().tolist()) for bound in (action.low, action.high))
            return Spec(id, obs.shape, action.shape, low, high, time_limit=limit)
        case _:
            raise EnvError(f"{id}: action space {action} is not supported; supported are Box and Discrete")


class GymnasiumEnv:
    """N Gymnasium environments, in this process or each in a process of its own (spawned)."""

    def __init__(self, id: str, num_envs: int, *, processes: bool = False):
        self.num_envs = num_envs
        self.backend = "gymnasium (one process each)" if processes else "gymnasium (in this process)"
        kwargs: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}
        if processes:
            kwargs["context"] = "spawn"
        with warnings.catch_warnings():
            # "-v4 is out of date": the user named the version
            warnings.filterwarnings("ignore", message=".*out of date.*")
            try:
                self._env = gym.make_vec(
                    id, num_envs, vectorization_mode="async" if processes else "sync", vector_kwargs=kwargs
                )
            except gym.error.DependencyNotInstalled as error:
                raise EnvError(f"{id}: {error}") from error
        try:
            self.spec = _spec(id, self._env)
        except EnvError:
            self._env.close()
            raise

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        every: Any = [None] * self.num_envs
        for i, seed in zip(np.flatnonzero(mask), seeds, strict=True):
            every[i] = int(seed)
        obs, _ = self._env.reset(seed=every, options={"reset_mask": np.asarray(mask)})
        return self._flat(obs)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        space = self._env.action_space
        given = action.reshape(space.shape) + self.spec.first_choice
        obs, reward, terminated, truncated, _ = self._env.step(given.astype(space.dtype))
        return EnvStep(self._flat(obs), reward, terminated, truncated)

    def close(self) -> None:
        self._env.close()

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        flat = obs.reshape(self.num_envs, -1)
        return flat if np.issubdtype(flat.dtype, np.floating) else flat.astype(np.float32)
