"""Environments that a program has made itself: one of Gymnasium, or a vector of them, as ``VectorEnv``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from jaxtyping import Bool, Shaped

from poise.envs.adjusting import Settings
from poise.envs.checking import LARGEST, Checked, EnvFault, described
from poise.envs.forms.making import advice_for_own
from poise.envs.gymnasium import close_quietly, masks_of
from poise.envs.info import EpisodeInfo
from poise.envs.packing import Obs, arrays_of, first_of, map_arrays, pack, read_leaves, unpack_action
from poise.envs.spaces import flat_mask, native_action, read_alike, read_spec
from poise.envs.vector import EnvError, EnvStep, VectorEnv
from poise.spec import MASK, Spec

KINDS = gym.Env | gym.vector.VectorEnv | VectorEnv


@contextmanager
def opened_object(env: Any, reading: Spec) -> Iterator[VectorEnv]:
    """An environment, a vector environment, or a function that makes one, as one of poise's backends.

    What a function makes is closed at the end; what is given stays open.

    Args:
        reading: the spec of the agent that acts in it (``poise.envs.Resolved``).

    Raises:
        EnvError: it is something else, or has other spaces than ``reading``.
    """
    made = callable(env) and (isinstance(env, type) or not isinstance(env, KINDS))
    own: Any = env() if made else env  # pyright: ignore[reportCallIssue]
    try:
        world = _wrapped(own, reading)
        if problem := reading.problem_with(world.spec):
            raise EnvError(f"{world.spec.id} has {problem}")
        yield world
    finally:
        if made and isinstance(own, KINDS):
            close_quietly(own)


def _wrapped(env: Any, reading: Spec) -> VectorEnv:
    if isinstance(env, gym.Env):
        return SingleEnv(env, _id_of(env), reading)
    if isinstance(env, gym.vector.VectorEnv):
        return ManyEnvs(env, _id_of(env), reading)
    if isinstance(env, VectorEnv) and isinstance(env.spec, Spec):
        return env
    raise EnvError(
        f"env is an object ({type(env).__name__}): must be a name, an environment or a vector environment of "
        f"Gymnasium, or a function that makes one{advice_for_own(env)}"
    )


def _id_of(env: gym.Env | gym.vector.VectorEnv) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


class SingleEnv:
    """One environment of Gymnasium, checked, as a vector of one. It is reset when this is made."""

    num_envs, backend = 1, "gymnasium (an object)"

    def __init__(self, env: gym.Env, id: str, reading: Spec | None):
        masks = masks_of(Checked(env, id, 0))
        self.spec, masks = read_alike(Checked(env, id, 0, masks).read, masks, reading)
        self._env = Checked(env, id, 0, masks)
        self._nested = any(part.path for part in self.spec.action)

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        if mask.any():
            self._obs = self._packed(self._env.reset(seed=seeds[0])[0])
        return self._obs

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        space = self._env.action_space
        own = action[0] if self._nested else native_action(space, first_of(unpack_action(self.spec, action)))
        obs, reward, terminated, truncated, _ = self._env.step(own)
        self._obs = self._packed(obs)
        return EnvStep(self._obs, np.array([reward]), np.array([terminated]), np.array([truncated]))

    def info(self, env: int) -> dict[str, Any]:
        return self._env.info

    def episode_info(self, env: int) -> dict[str, float]:
        return self._env.numbers

    def adjust(self, settings: Settings) -> None:
        """Change attributes of the environment, from its next episode on."""
        self._env.settings = {**self._env.settings, **settings}

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()

    def _packed(self, obs: Any) -> Obs:
        return pack(self.spec, map_arrays(lambda array: np.asarray(array)[None], obs), 1)


class ManyEnvs:
    """A vector environment of Gymnasium that resets each of its environments when and as it is asked.

    So its autoreset never begins an episode: an environment whose episode has ended is reset before the next
    step. Where it has been reset in the same step, that reset is discarded.

    Raises:
        EnvError: it cannot reset some of its environments, or its spaces are not supported.
    """

    backend = "gymnasium (a vector environment)"

    def __init__(self, env: gym.vector.VectorEnv, id: str, reading: Spec):
        if not isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            raise EnvError(
                f"{id}: {type(env.unwrapped).__name__} does not reset its environments one by one, each with "
                "its own seed; give one environment, a function that makes it, or a SyncVectorEnv "
                '(gymnasium.make_vec(..., vectorization_mode="sync"))'
            )
        self._env, self.num_envs, self._infos = env, env.num_envs, {}
        self._numbers = [EpisodeInfo() for _ in range(env.num_envs)]
        masked = reading.masked and not any(x.path for x in reading.obs if x.kind == "mask")
        spaces: Any = SimpleNamespace(
            observation_space=env.single_observation_space, action_space=env.single_action_space
        )
        limit = env.spec.max_episode_steps if env.spec else None
        spec = read_spec(id, spaces, limit, "info" if masked else None)
        self.spec, masks = read_alike(spec, "info" if masked else None, reading)
        self._mask = None if masks is None else np.ones((self.num_envs, spec.num_logits), bool)

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        rest = iter(seeds)
        for lane in map(int, np.flatnonzero(mask)):
            self._numbers[lane].begin()
        each: Any = [next(rest) if begins else None for begins in mask]
        with self._faults("reset"):
            obs, self._infos = self._env.reset(seed=each, options={"reset_mask": np.array(mask)})
        return self._packed(obs, mask)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        own = native_action(self._env.action_space, unpack_action(self.spec, action))
        with self._faults("step"):
            obs, reward, terminated, truncated, self._infos = self._env.step(own)
        self._check("reward", reward)
        packed = self._packed(obs, np.ones(self.num_envs, bool))
        if "final_obs" in self._infos:  # it was reset in this step
            packed = map_arrays(np.array, packed)
            for lane in np.flatnonzero(terminated | truncated):
                final = self._infos["final_obs"][lane]
                leaves = {n: np.asarray(x)[None] for n, x in read_leaves(self.spec, final).items()}
                if self._mask is not None:
                    leaves[MASK] = self._mask[lane : lane + 1]
                for name, array in arrays_of(pack(self.spec, leaves, 1)).items():
                    arrays_of(packed)[name][lane] = array[0]
        for lane, numbers in enumerate(self._numbers):
            numbers.add(self.info(lane))
        return EnvStep(packed, reward, terminated, truncated)

    def episode_info(self, env: int) -> dict[str, float]:
        return self._numbers[env].values()

    def info(self, env: int) -> dict[str, Any]:
        row = _row_of_infos(self._infos, env)
        return row.get("final_info", row)  # where it was reset in this step, the rest is of the reset

    def close(self) -> None:
        self._env.close()

    def _packed(self, obs: Any, changed: Bool[np.ndarray, " N"]) -> Obs:
        """The observations. ``changed``: whose masks are new."""
        leaves = read_leaves(self.spec, obs)
        if self._mask is not None:
            called = None if MASK in self._infos else cast(Any, self._env.unwrapped).call("action_masks")
            for lane in map(int, np.flatnonzero(changed)):
                mask = _row_of_infos(self._infos, lane)[MASK] if called is None else called[lane]
                self._mask[lane] = flat_mask(mask, self.spec)
            leaves[MASK] = self._mask.copy()
        packed = pack(self.spec, leaves, self.num_envs)
        for array in arrays_of(packed).values():
            self._check("obs", array)
        return packed

    def _check(self, what: str, array: np.ndarray) -> None:
        """Refuses infinity, NaN, and numbers whose squares a float32 cannot add up."""
        if array.dtype.kind == "f" and not (usable := np.abs(array) <= LARGEST).all():
            raise EnvFault(f"{self.spec.id}: {what} is {array[~usable][0]}")

    @contextmanager
    def _faults(self, method: str) -> Iterator[None]:
        """Raises what its environments raise as an ``EnvFault``."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit
            raise EnvFault(f"{self.spec.id}: {method} raised {described(error)}") from error


def _row_of_infos(infos: dict[str, Any], lane: int) -> dict[str, Any]:
    """What one environment returned; ``_name`` says which environments returned ``name``."""
    row = {}
    for name, values in infos.items():
        if f"_{name}" in infos and infos[f"_{name}"][lane]:
            row[name] = _row_of_infos(values, lane) if isinstance(values, dict) else values[lane]
    return row
