"""Everything else that Gymnasium knows, through its vector environments."""

import importlib
import math
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Bool, Float, Shaped

from poise.arrays import ArraysError, fitted
from poise.config import LAST_SEED
from poise.envs.checking import Checked, Crash, EnvFault
from poise.envs.inner import differing, packed
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.processes import PATIENCE, UNKNOWN, Processes, begin_elsewhere
from poise.envs.tape import LARGEST as LARGEST_TAPE
from poise.envs.tape import Sums, Tape, TapeFull
from poise.envs.vector import EnvError, EnvStep, Restored, usual_dtype
from poise.errors import PoiseError, message_of, shortened
from poise.spec import Spec
from poise.system.extras import needs

DISABLED = AutoresetMode.DISABLED  # the caller resets
UNRECORDED = (
    "the checkpoint is of an earlier poise, which did not keep what the unfinished episodes had returned: "
    "whether they were repeated exactly is not known"
)


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
    close_quietly(env)  # it was made for a look
    if not isinstance(obs, gym.spaces.Box):
        raise EnvError(_unsupported_obs(id, limit, obs))
    if not math.prod(obs.shape):
        raise EnvError(f"{id}: observation space {obs} has no numbers; nothing can be learned from it")
    match action:
        case gym.spaces.Discrete():
            choices = int(action.n)
            return Spec(id, obs.shape, num_choices=choices, first_choice=int(action.start), time_limit=limit)
        case gym.spaces.Box() if np.issubdtype(action.dtype, np.floating):
            low, high = (tuple(bound.astype(float).ravel().tolist()) for bound in (action.low, action.high))
            if all(a == b for a, b in zip(low, high, strict=True)):  # also where there are none
                raise EnvError(_nothing_to_choose(id, action))
            return Spec(id, obs.shape, action.shape, low, high, time_limit=limit)
        case _:
            raise EnvError(_unsupported_action(id, limit, action))


def _shown(space: gym.Space) -> str:
    return shortened(str(space), 200)


def _wrapped(id: str, limit: int | None, wrapper: str, rest: str = "") -> str:
    """How an environment whose spaces are not supported is trained on: wrapped, under an id of its own."""
    module, _, name = id.rpartition(":")
    own = bool(module) and name not in gym.registry  # a class
    made, place = (f"{name}()", f"from {module} import {name}; ") if own else (f'gymnasium.make("{id}")', "")
    limited = "" if limit is None else f", max_episode_steps={limit}"
    return (
        f"Wrap it in a module, my_envs.py: {place}from gymnasium.wrappers import {wrapper}; "
        f'gymnasium.register("Mine-v0", lambda: {wrapper}({made}{rest}){limited}), then type my_envs:Mine-v0'
    )


def _unsupported_obs(id: str, limit: int | None, space: gym.Space) -> str:
    said = f"{id}: observation space {_shown(space)} is not supported; supported is Box"
    try:
        flat = isinstance(gym.spaces.flatten_space(space), gym.spaces.Box)
    except Exception:  # a space that cannot be flattened, or somebody's own
        flat = False
    return f"{said}. {_wrapped(id, limit, 'FlattenObservation')}" if flat else said


def _unsupported_action(id: str, limit: int | None, space: gym.Space) -> str:
    said = f"{id}: action space {_shown(space)} is not supported; supported are Box of floats and Discrete"
    match space:
        case gym.spaces.MultiDiscrete():
            sizes = space.nvec.ravel().tolist()
            into, chosen = f"Discrete({math.prod(sizes)})", f"numpy.unravel_index(a, {sizes})"
        case gym.spaces.MultiBinary():
            into, chosen = f"Box(0, 1, {space.shape})", "(a > 0.5).astype(numpy.int8)"
        case gym.spaces.Box():
            into, chosen = f"Box(low, high, {space.shape})", f"numpy.rint(a).astype(numpy.{space.dtype})"
        case _:
            return said
    rest = f", lambda a: {chosen}, gymnasium.spaces.{into}"
    return f"{said}. {_wrapped(id, limit, 'TransformAction', rest)}"


def _nothing_to_choose(id: str, space: gym.spaces.Box) -> str:
    said = f"{id}: action space {_shown(space)} leaves nothing to choose"
    if not space.shape or not math.prod(space.shape):
        return f"{said}: it has no numbers"
    return (
        f"{said}: low = high for every action. In a model of MuJoCo an actuator without ctrlrange has these "
        'bounds; give it one: <motor joint="hip" ctrlrange="-1 1"/>'
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # of sys.exit, too
        raise EnvFault(f"{id}, environment {index}: making it raised {message_of(error)}") from error
    hear_mujoco()  # where making it loaded MuJoCo
    return Checked(env, id, index)


def _make_elsewhere(id: str, index: int, parent: int) -> gym.Env:
    """``_make_one`` in a process of its own; ``parent``, a process id, makes one to see its spaces."""
    if os.getpid() == parent:
        return _make_one(id, index)
    begin_elsewhere()
    try:
        env = _make_one(id, index)
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # whatever its constructor made of it
        return env
    except PoiseError as error:
        if isinstance(error.__cause__, gym.error.UnregisteredEnv):
            raise SystemExit(UNKNOWN) from error
        raise SystemExit(str(error)) from error  # which is printed, without a traceback


class GymnasiumEnv:
    """N Gymnasium environments, in this process or each in a process of its own (spawned).

    ``timeout``: seconds that those in processes of their own have for a step or a reset. ``restart``:
    whether one that fails is made again, and all others with it (``rebuild``). ``first``: the number of the
    first, as faults name them.
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
        low, high = self.spec.float32_bounds
        self._narrow = bool((low > high).any())  # the policy's float32 cannot reach some dimension
        self._id, self._processes, self._timeout, self._restart = id, processes, timeout, restart
        self._env = self._made()
        self._tape, self._sums = Tape(self._env.action_space), Sums(num_envs)
        self._seed = np.full(num_envs, -1, np.int64)

    def _made(self) -> Processes | SyncVectorEnv:
        id, each = self._id, self._numbers
        try:
            with _quiet():
                if not self._processes:
                    return SyncVectorEnv([partial(_make_one, id, i) for i in each], autoreset_mode=DISABLED)
                return Processes(id, [partial(_make_elsewhere, id, i, os.getpid()) for i in each])
        except RuntimeError as error:
            if "space" in str(error):  # Gymnasium's own check
                raise EnvFault(f"{id}: its environments do not have the same spaces: {error}") from error
            raise EnvFault(f"{id}: its environments cannot be made: {message_of(error)}") from error

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Float[np.ndarray, "N O"]:
        self._seed[mask] = seeds
        self._tape.begin(mask)
        obs = self._begin(mask, self._timeout)
        self._sums.begin(mask, obs)
        return self._flat(obs)

    def _begin(self, mask: Bool[np.ndarray, " N"], timeout: float | None) -> np.ndarray:
        """Resets those, and returns the observations of all as the environments gave them."""
        chosen = zip(self._seed.tolist(), mask, strict=True)
        seeds: Any = [seed if begins else None for seed, begins in chosen]
        options = {"reset_mask": np.asarray(mask)}
        with _quiet(), self._faults():
            if isinstance(self._env, SyncVectorEnv):
                return cast(np.ndarray, self._env.reset(seed=seeds, options=options)[0])
            self._env.reset_async(seed=seeds, options=options)
            return cast(np.ndarray, self._env.reset_wait(timeout)[0])

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        space = self._env.action_space
        given = (action.reshape(space.shape) + self.spec.first_choice).astype(space.dtype)
        if isinstance(space, gym.spaces.Box) and self._narrow:
            given = given.clip(space.low, space.high)
        return self.apply(given)

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
        self._add(given)
        self._sums.add(obs, reward, terminated, truncated)
        return EnvStep(self._flat(obs), reward, terminated, truncated)

    def _add(self, given: Shaped[np.ndarray, "N ..."]) -> None:
        try:
            self._tape.add(given)
        except TapeFull:
            longest = int(self._tape.length.argmax())
            raise EnvFault(
                f"{self._place(longest, None)}: this episode does not end, and the actions of the unfinished "
                f"episodes, which a resumed training repeats, have reached {LARGEST_TAPE // 2**20} MiB. Give "
                "the environment a time limit: gymnasium.register(..., max_episode_steps=1000)"
            ) from None

    def snapshot(self) -> dict[str, np.ndarray]:
        """``returned``: a sum of what each unfinished episode returned; ``inner``: hashes of attributes."""
        tape = self._tape
        return {
            "seed": self._seed.copy(),
            "length": tape.length,
            "action": tape.rows(),
            "returned": self._sums.values(),
            "inner": packed(self._inner()),
        }

    def _inner(self) -> Sequence[Mapping[str, int]]:
        with _quiet(), self._faults():
            return cast(Sequence[Mapping[str, int]], self._env.get_attr("inner"))

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Begins each episode again and repeats all of its actions.

        What that returned is compared with the sums of the snapshot, and the attributes of the environments
        with its hashes. A snapshot of an earlier poise has neither.
        """
        rows = arrays.get("action", np.empty(0))
        recorded = "returned" in arrays or "inner" in arrays  # if one is, both are
        mine: dict[str, np.ndarray] = {"seed": self._seed, "length": self._seed}
        mine["action"] = np.empty((_length(rows), *self._tape.rows().shape[1:]), rows.dtype)
        if recorded:
            mine["returned"] = self._seed
            mine["inner"] = np.empty((_length(arrays.get("inner")), 3), np.int64)
        fitted(mine, arrays)
        seed, length = arrays["seed"], arrays["length"]
        if rows.dtype != self._env.action_space.dtype:
            raise ArraysError(f"array action is {rows.dtype}, should be {self._env.action_space.dtype}")
        if not ((seed >= 0) & (seed <= LAST_SEED) & (length >= 0) & (length <= len(rows))).all():
            raise ArraysError("array 'seed' or 'length': a value is out of range")
        self._seed[:] = seed
        self._tape.put(rows, length)
        back = self._replayed(np.ones(self.num_envs, bool), arrays.get("returned"))
        unlike = self._differences(arrays["inner"], back.exact) if recorded else (UNRECORDED,)
        return back._replace(unlike=unlike)

    def _differences(self, saved: np.ndarray, repeated: Bool[np.ndarray, " N"]) -> tuple[str, ...]:
        """What of the environments that repeated their episode is not as it was."""
        found = {name: [i for i in of if repeated[i]] for name, of in differing(self._inner(), saved).items()}
        found = {name: of for name, of in found.items() if of}
        if not found:
            return ()
        first, others = next(iter(found)), len(found) - 1
        which = [self._numbers[i] for i in found[first]]
        numbers = ", ".join(map(str, which[:3])) + (", ..." if len(which) > 3 else "")
        more = f", and {others} more" if others else ""
        return (
            f"environment {numbers}: {first} is not as it was{more}; it survives a reset, and only the "
            "unfinished episode was repeated",
        )

    def _replayed(self, mask: Bool[np.ndarray, " N"], sums: np.ndarray | None) -> Restored:
        """The unfinished episodes of those environments, played again from their beginnings.

        ``sums``: of what they returned then; None where that is not known.
        """
        past = [self._tape.of(i) if replayed else None for i, replayed in enumerate(mask)]
        longest = int(self._tape.length.max())
        with _quiet(), self._faults():
            self._env.set_attr("past", past)
        obs = self._begin(mask, None if self._timeout is None else self._timeout * (longest + 1))
        with _quiet(), self._faults():
            intact = np.array(self._env.get_attr("intact"), bool)
            returned = np.array(self._env.get_attr("returned"), np.int64)
        self._sums.put(returned)
        same = np.ones_like(mask) if sums is None else returned == sums
        return Restored(self._flat(obs), intact & same & mask)

    def rebuild(self, fault: EnvFault) -> Restored:
        """All environments anew after ``fault``, each where it was but the one that failed.

        That one waits for its reset.

        Raises:
            EnvFault: ``fault`` itself, where the run is to end with it.
        """
        if not self._restart or fault.index is None:
            raise fault
        failed, sums = self._numbers.index(fault.index), self._sums.values()
        if isinstance(self._env, Processes):
            self._env.processes[failed].kill()  # it may hang
        self.close()
        self._env = self._made()
        others = np.arange(self.num_envs) != failed
        if not others.any():
            return Restored(np.zeros((1, self.spec.obs_size), np.float32), others)
        return self._replayed(others, sums)

    def close(self) -> None:
        """Closes every environment, also where another one failed, died or hangs."""
        if isinstance(self._env, SyncVectorEnv):
            for env in self._env.envs:
                close_quietly(env)
            self._env.closed = True
            return
        self._env.end(PATIENCE)

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
        pipes = cast(Processes, self._env).parent_pipes
        index = next(i for i, pipe in enumerate(pipes) if pipe is None or not pipe.poll())
        what = f"{self._place(index, given)}: no answer within {self._timeout:g} s"
        return EnvFault(what, self._numbers[index])

    def _lost(self, given: np.ndarray | None) -> EnvFault:
        processes = cast(Processes, self._env).processes
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


def close_quietly(env: gym.Env) -> None:
    """Closes what is no longer needed, whatever that raises."""
    try:
        env.close()
    except KeyboardInterrupt:
        raise
    except BaseException:  # of sys.exit, too
        return


def _length(array: np.ndarray | None) -> int:
    return 0 if array is None or not array.ndim else len(array)


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
