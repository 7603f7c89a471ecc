"""Everything else that Gymnasium knows, through its vector environments."""

import importlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from jaxtyping import Bool, Float, Int, Shaped

from poise.arrays import ArraysError, fitted
from poise.config import LAST_SEED
from poise.envs.checking import Checked, Crash, EnvFault
from poise.envs.unstable import hear_mujoco
from poise.envs.vector import EnvError, EnvStep, Restored, usual_dtype
from poise.errors import PoiseError
from poise.extras import needs
from poise.interrupts import leave_with_parent
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
    """Whether Gymnasium knows ``id``, or of ``module:name``, whose module is imported, the name.

    A class of that name in the module is made known: without arguments, without a time limit.
    """
    try:
        gym.spec(registered_name(id))
    except gym.error.Error:
        module, _, name = id.rpartition(":")
        kind = getattr(sys.modules.get(module), name, None)
        if not (isinstance(kind, type) and issubclass(kind, gym.Env)):
            return False
        gym.register(registered_name(id), kind)
    return True


def registered_name(id: str) -> str:
    """What ``gymnasium.make`` calls it: of ``module:name`` the name, of a class ``module.Class``."""
    module, _, name = id.rpartition(":")
    return f"{module}.{name}" if module and name not in gym.registry else name


def spec_of(id: str, make: Callable[[], gym.Env]) -> Spec:
    """What is to be known of the environment that ``make`` makes.

    Raises:
        EnvError: one of its spaces is not supported.
    """
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


def make_plain(id: str) -> gym.Env:
    """One environment, as Gymnasium makes it."""
    module = id.rpartition(":")[0]
    if module:  # of a process of its own
        importlib.import_module(module)
        is_registered(id)
    with warnings.catch_warnings():
        # "-v4 is out of date": the user named the version
        warnings.filterwarnings("ignore", message=".*out of date.*")
        return gym.make(registered_name(id), disable_env_checker=True)


def _make_one(id: str, index: int) -> gym.Env:
    """Environment ``index`` of a vector, checked."""
    hear_mujoco()
    try:
        env = make_plain(id)
    except gym.error.DependencyNotInstalled as error:
        text = f"it {needs('box2d')}" if "box2d" in str(error).lower() else str(error)
        raise EnvError(f"{id}: {text}") from error
    except Exception as error:
        raise EnvFault(
            f"{id}, environment {index}: making it raised {type(error).__name__}: {error}"
        ) from error
    hear_mujoco()  # where making it loaded MuJoCo
    return Checked(env, id, index)


def _make_elsewhere(id: str, index: int, parent: int) -> gym.Env:
    """``_make_one`` in a process of its own; ``parent``, a process id, makes one to see its spaces."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent decides
        leave_with_parent()
    try:
        return _make_one(id, index)
    except PoiseError as error:
        if os.getpid() == parent:
            raise
        raise SystemExit(str(error)) from error  # which is printed, without a traceback


class _Tape:
    """The actions of all environments since the oldest unfinished episode began."""

    def __init__(self, space: gym.Space):
        shape, dtype = cast(tuple[int, ...], space.shape), space.dtype
        self._rows = np.empty((256, *shape), dtype)
        self._used = 0
        self._begun = np.zeros(shape[0], np.int64)  # the row of each environment's first action

    def begin(self, mask: Bool[np.ndarray, " N"]) -> None:
        self._begun[mask] = self._used

    def add(self, action: Shaped[np.ndarray, "N ..."]) -> None:
        if self._used == len(self._rows):
            kept = self.rows()
            self._rows = np.empty((max(256, 2 * len(kept)), *kept.shape[1:]), kept.dtype)
            self.put(kept, self.length)
        self._rows[self._used] = action
        self._used += 1

    def put(self, rows: Shaped[np.ndarray, "K N ..."], length: Int[np.ndarray, " N"]) -> None:
        """Has these rows alone, the last ``length[n]`` of them of environment n's episode."""
        if len(rows) > len(self._rows):
            self._rows = np.empty_like(rows)
        self._rows[: len(rows)] = rows
        self._used, self._begun = len(rows), len(rows) - length

    def rows(self) -> Shaped[np.ndarray, "K N ..."]:
        return self._rows[self._begun.min() : self._used].copy()

    def of(self, index: int) -> Shaped[np.ndarray, "K ..."]:
        """Those of one environment's episode."""
        return self._rows[self._begun[index] : self._used, index].copy()

    @property
    def length(self) -> Int[np.ndarray, " N"]:
        """Steps since each episode began."""
        return self._used - self._begun


class GymnasiumEnv:
    """N Gymnasium environments, in this process or each in a process of its own (spawned).

    ``timeout``: seconds that those in processes of their own have for a step or a reset. ``restart``:
    whether one that fails is made anew, and with it all (``rebuild``). ``first``: the number of the first,
    as faults name them.
    """

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        processes: bool = False,
        timeout: float | None = None,
        restart: bool = False,
        first: int = 0,
    ):
        self.num_envs, self._numbers = num_envs, range(first, first + num_envs)
        self.backend = "gymnasium (one process each)" if processes else "gymnasium (in this process)"
        self.spec = spec_of(id, partial(_make_one, id, first))
        self._id, self._processes, self._timeout, self._restart = id, processes, timeout, restart
        self._env = self._made()
        self._tape = _Tape(self._env.action_space)
        self._seed = np.full(num_envs, -1, np.int64)

    def _made(self) -> AsyncVectorEnv | SyncVectorEnv:
        id, each = self._id, self._numbers
        try:
            with _quiet():
                if not self._processes:
                    return SyncVectorEnv([partial(_make_one, id, i) for i in each], autoreset_mode=DISABLED)
                makers = [partial(_make_elsewhere, id, i, os.getpid()) for i in each]
                return AsyncVectorEnv(makers, autoreset_mode=DISABLED, context="spawn")
        except (EOFError, ConnectionError) as error:
            raise EnvFault(f"{id}: a process ended while its environment was made") from error
        except RuntimeError as error:  # Gymnasium's own check of the spaces
            raise EnvFault(f"{id}: its environments do not have the same spaces: {error}") from error

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        self._seed[mask] = seeds
        self._tape.begin(mask)
        return self._begin(mask, self._timeout)

    def _begin(self, mask: Bool[np.ndarray, " N"], timeout: float | None) -> Float[np.ndarray, "N O"]:
        chosen = zip(self._seed.tolist(), mask, strict=True)
        seeds: Any = [seed if begins else None for seed, begins in chosen]
        options = {"reset_mask": np.asarray(mask)}
        with _quiet(), self._faults():
            if isinstance(self._env, SyncVectorEnv):
                return self._flat(self._env.reset(seed=seeds, options=options)[0])
            self._env.reset_async(seed=seeds, options=options)
            return self._flat(self._env.reset_wait(timeout)[0])

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        space = self._env.action_space
        return self.apply((action.reshape(space.shape) + self.spec.first_choice).astype(space.dtype))

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Of what ``apply`` takes, for one environment."""
        return cast(tuple[int, ...], self._env.single_action_space.shape)

    def apply(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        """``step`` with actions as the environments themselves take them."""
        given = action.astype(self._env.action_space.dtype)
        with _quiet(), self._faults(given):
            if isinstance(self._env, SyncVectorEnv):
                obs, reward, terminated, truncated, _ = self._env.step(given)
            else:
                self._env.step_async(given)
                obs, reward, terminated, truncated, _ = self._env.step_wait(self._timeout)
        self._tape.add(given)
        return EnvStep(self._flat(obs), reward, terminated, truncated)

    def snapshot(self) -> dict[str, np.ndarray]:
        tape = self._tape
        return {"seed": self._seed.copy(), "length": tape.length, "action": tape.rows()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Begins each episode again and repeats all of its actions."""
        mine, rows = self.snapshot(), arrays.get("action", np.empty(0))
        mine["action"] = np.empty((len(rows) if rows.ndim else 0, *mine["action"].shape[1:]), rows.dtype)
        fitted(mine, arrays)
        seed, length = arrays["seed"], arrays["length"]
        if rows.dtype != self._env.action_space.dtype:
            raise ArraysError(f"array action is {rows.dtype}, should be {self._env.action_space.dtype}")
        if not ((seed >= 0) & (seed <= LAST_SEED) & (length >= 0) & (length <= len(rows))).all():
            raise ArraysError("array seed or length holds what is none")
        self._seed[:] = seed
        self._tape.put(rows, length)
        return self._replayed(np.ones(self.num_envs, bool))

    def _replayed(self, mask: Bool[np.ndarray, " N"]) -> Restored:
        """The unfinished episodes of those environments, played again from their beginnings."""
        past = [self._tape.of(i) if replayed else None for i, replayed in enumerate(mask)]
        longest = int(self._tape.length.max())
        with _quiet(), self._faults():
            self._env.set_attr("past", past)
        obs = self._begin(mask, None if self._timeout is None else self._timeout * (longest + 1))
        return Restored(obs, np.array(self._env.get_attr("intact"), bool) & mask)

    def rebuild(self, fault: EnvFault) -> Restored:
        """All environments anew after ``fault``, each where it was but the one that failed.

        That one waits for its reset.

        Raises:
            EnvFault: ``fault`` itself, where the run is to end with it.
        """
        if not self._restart or fault.index is None:
            raise fault
        failed = self._numbers.index(fault.index)
        if isinstance(self._env, AsyncVectorEnv):
            self._env.processes[failed].kill()  # it may hang
        self.close()
        self._env = self._made()
        others = np.arange(self.num_envs) != failed
        if not others.any():
            return Restored(np.zeros((1, self.spec.obs_size), np.float32), others)
        return self._replayed(others)

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
    def _faults(self, given: np.ndarray | None = None) -> Iterator[None]:
        """Adds to a fault the episode that led to it; ``given``: what the environments were to do.

        Names the environment whose process ended without a word, or does not answer.
        """
        try:
            yield
        except EnvFault as fault:
            found = fault
        except multiprocessing.TimeoutError:
            found = self._silent(given)
        except (EOFError, ConnectionError):
            found = self._lost(given)
        else:
            return
        if found.index is not None:
            found.crash = self._crash(found, given)
        raise found

    def _crash(self, fault: EnvFault, given: np.ndarray | None) -> Crash:
        number = cast(int, fault.index)
        index = self._numbers.index(number)
        actions = self._tape.of(index)
        if given is not None:
            actions = np.concatenate([actions, given[index : index + 1]])
        seed = int(self._seed[index])
        return Crash(self._id, number, seed, len(actions), str(fault), fault.trace, actions)

    def _place(self, index: int, given: np.ndarray | None) -> str:
        step = int(self._tape.length[index]) + (given is not None)
        return (
            f"{self._id}, environment {self._numbers[index]}, episode seed {self._seed[index]}, step {step}"
        )

    def _silent(self, given: np.ndarray | None) -> EnvFault:
        pipes = cast(AsyncVectorEnv, self._env).parent_pipes
        index = next(i for i, pipe in enumerate(pipes) if pipe is None or not pipe.poll())
        what = f"{self._place(index, given)}: no answer within {self._timeout:g} s"
        return EnvFault(what, self._numbers[index])

    def _lost(self, given: np.ndarray | None) -> EnvFault:
        processes = cast(AsyncVectorEnv, self._env).processes
        at_work = {p.sentinel: i for i, p in enumerate(processes)}
        for sentinel in wait(list(at_work), PATIENCE):  # the pipe closes a moment before the process ends
            index = at_work[cast(int, sentinel)]
            processes[index].join(PATIENCE)
            how = _ending(processes[index].exitcode)
            return EnvFault(f"{self._place(index, given)}: its process {how}", self._numbers[index])
        return EnvFault(f"{self._id}: the connection to one of its processes was lost")

    def _flat(self, obs: np.ndarray) -> np.ndarray:
        flat = obs.reshape(self.num_envs, -1)
        return flat.astype(usual_dtype(flat.dtype), copy=False)


def _ending(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        return f"was ended by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was ended by signal {-exitcode}"


class _quiet:
    """Keeps Gymnasium from printing a worker's traceback: the fault that is raised says it all."""

    def __enter__(self) -> None:
        self._level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1

    def __exit__(self, *_: object) -> None:
        gym.logger.min_level = self._level
