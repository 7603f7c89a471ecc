"""Everything else that Gymnasium knows, through its vector environments."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from jaxtyping import Bool, Float, Shaped

from poise.envs.checking import Checked, EnvFault
from poise.envs.unstable import hear_mujoco
from poise.envs.vector import EnvError, EnvStep
from poise.errors import PoiseError
from poise.spec import Spec

DISABLED = AutoresetMode.DISABLED  # the caller resets
PATIENCE = 10.0  # seconds that environments in processes of their own have for their close()


def registered_ids() -> list[str]:
    """Every id that ``gymnasium.make`` knows at this moment."""
    return list(gym.registry)


def threshold(id: str) -> float | None:
    """The mean return from which Gymnasium calls ``id`` solved; None where it names none."""
    return gym.registry[id].reward_threshold if id in gym.registry else None


def is_registered(id: str) -> bool:
    """Whether Gymnasium knows ``id``, or of ``module:name``, whose module is imported, the name."""
    try:
        gym.spec(id.rpartition(":")[2])
    except gym.error.Error:
        return False
    return True


def _spec(id: str, make: Callable[[], gym.Env]) -> Spec:
    env = make()
    obs, action = env.observation_space, env.action_space
    limit = env.spec.max_episode_steps if env.spec else None
    with suppress(Exception):  # it was made for a look
        env.close()
    if not isinstance(obs, gym.spaces.Box):
        raise EnvError(f"{id}: observation space {obs} is not supported; supported is Box")
    match action:
        case gym.spaces.Discrete():
            choices = int(action.n)
            return Spec(id, obs.shape, num_choices=choices, first_choice=int(action.start), time_limit=limit)
        case gym.spaces.Box() if np.issubdtype(action.dtype, np.floating):
            low, high = (tuple(bound.astype(float).ravel().tolist()) for bound in (action.low, action.high))
            return Spec(id, obs.shape, action.shape, low, high, time_limit=limit)
        case _:
            raise EnvError(
                f"{id}: action space {action} is not supported; supported are Box of floats and Discrete"
            )


def _make_one(id: str, index: int) -> gym.Env:
    """Environment ``index`` of a vector, checked."""
    hear_mujoco()
    with warnings.catch_warnings():
        # "-v4 is out of date": the user named the version
        warnings.filterwarnings("ignore", message=".*out of date.*")
        try:
            env = gym.make(id, disable_env_checker=True)
        except gym.error.DependencyNotInstalled as error:
            raise EnvError(f"{id}: {error}") from error
        except Exception as error:
            raise EnvFault(
                f"{id}, environment {index}: making it raised {type(error).__name__}: {error}"
            ) from error
    hear_mujoco()  # where making it loaded MuJoCo
    return Checked(env, id, index)


def _make_elsewhere(id: str, index: int, parent: int) -> gym.Env:
    """``_make_one`` in a process of its own; ``parent``, a process id, makes one to see its spaces."""
    try:
        return _make_one(id, index)
    except PoiseError as error:
        if os.getpid() == parent:
            raise
        raise SystemExit(str(error)) from error  # which is printed, without a traceback


class GymnasiumEnv:
    """N Gymnasium environments, in this process or each in a process of its own (spawned)."""

    def __init__(self, id: str, num_envs: int, *, processes: bool = False):
        self.num_envs = num_envs
        self.backend = "gymnasium (one process each)" if processes else "gymnasium (in this process)"
        makers = [partial(_make_one, id, index) for index in range(num_envs)]
        self.spec = _spec(id, makers[0])
        self._id = id
        self._seed: list[int | None] = [None] * num_envs
        self._step = np.zeros(num_envs, np.int64)
        try:
            with _quiet():
                self._env = self._processes() if processes else SyncVectorEnv(makers, autoreset_mode=DISABLED)
        except (EOFError, ConnectionError) as error:
            raise EnvFault(f"{id}: a process ended while its environment was made") from error
        except RuntimeError as error:  # Gymnasium's own check of the spaces
            raise EnvFault(f"{id}: its environments do not have the same spaces: {error}") from error

    def _processes(self) -> AsyncVectorEnv:
        makers = [partial(_make_elsewhere, self._id, i, os.getpid()) for i in range(self.num_envs)]
        return AsyncVectorEnv(makers, autoreset_mode=DISABLED, context="spawn")

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        every: Any = [None] * self.num_envs
        for i, seed in zip(np.flatnonzero(mask), seeds, strict=True):
            every[i] = self._seed[i] = int(seed)
        self._step[mask] = 0
        with _quiet(), self._losses():
            obs, _ = self._env.reset(seed=every, options={"reset_mask": np.asarray(mask)})
        return self._flat(obs)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        space = self._env.action_space
        given = action.reshape(space.shape) + self.spec.first_choice
        self._step += 1
        with _quiet(), self._losses():
            obs, reward, terminated, truncated, _ = self._env.step(given.astype(space.dtype))
        return EnvStep(self._flat(obs), reward, terminated, truncated)

    def close(self) -> None:
        """Closes every environment, also where another one failed, died or hangs."""
        if isinstance(self._env, SyncVectorEnv):
            for env in self._env.envs:
                with suppress(Exception):
                    env.close()
            self._env.closed = True
            return
        # Gymnasium's own would wait for ever for the answer of one that is gone
        for pipe in self._env.parent_pipes:
            if pipe is not None:
                with suppress(OSError):
                    pipe.send(("close", None))
        until = time.monotonic() + PATIENCE
        for process in self._env.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self._env.parent_pipes:
            if pipe is not None:
                pipe.close()
        self._env.closed = True

    @contextmanager
    def _losses(self) -> Iterator[None]:
        """Names the environment whose process ended without a word."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise EnvFault(self._lost()) from error

    def _lost(self) -> str:
        assert isinstance(self._env, AsyncVectorEnv)
        at_work = {p.sentinel: i for i, p in enumerate(self._env.processes)}
        for sentinel in wait(list(at_work), PATIENCE):  # the pipe closes a moment before the process ends
            i = at_work[sentinel]  # pyright: ignore[reportArgumentType]
            ended = self._env.processes[i]
            ended.join(PATIENCE)
            place = f"environment {i}, episode seed {self._seed[i]}, step {self._step[i]}"
            return f"{self._id}, {place}: its process ended with exit code {ended.exitcode}"
        return f"{self._id}: the connection to one of its processes was lost"

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        flat = obs.reshape(self.num_envs, -1)
        return flat if np.issubdtype(flat.dtype, np.floating) else flat.astype(np.float32)


class _quiet:
    """Keeps Gymnasium from printing a worker's traceback: the fault that is raised says it all."""

    def __enter__(self) -> None:
        self._level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1

    def __exit__(self, *_: object) -> None:
        gym.logger.min_level = self._level
