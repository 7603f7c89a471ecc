"""Gymnasium's environments, through its vector environments."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Bool, Shaped

from poise.envs.adjusting import Adjusted, Settings
from poise.envs.checking import Checked, EnvFault
from poise.envs.forms.making import make_plain, registered_name
from poise.envs.info import REPORTED
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.packing import Obs, empty, pack
from poise.envs.processes import PATIENCE, UNKNOWN, Processes, start_env_process
from poise.envs.replay.inner import differing, packed
from poise.envs.replay.unfinished import Unfinished, num_rows
from poise.envs.spaces import MaskSource, mask_source, read_alike, read_spec
from poise.envs.vector import Crash, EnvError, EnvStep, Restored
from poise.errors import PoiseError, message_of
from poise.spec import Spec
from poise.system.extras import needs

DISABLED = AutoresetMode.DISABLED  # the caller resets
UNRECORDED = (
    "the checkpoint is from an earlier version of poise, which did not keep what the unfinished episodes had "
    "returned: whether they were repeated exactly is not known"
)


def registered_ids() -> list[str]:
    """Every id that is registered with Gymnasium now."""
    return list(gym.registry)


def threshold(id: str) -> float | None:
    """The mean return at which Gymnasium calls ``id`` solved; None if it names none."""
    return gym.registry[id].reward_threshold if id in gym.registry else None


def step_limit(id: str) -> int | None:
    """The time limit with which ``id``, or the name in ``module:name``, is registered; None without one."""
    name = registered_name(id)
    return gym.registry[name].max_episode_steps if name in gym.registry else None


def spec_of(
    make: Callable[[], Checked], in_info: Callable[[], bool] | None = None
) -> tuple[Spec, MaskSource | None]:
    """The spec of the environment that ``make`` returns, and where it has masks of its choices.

    ``in_info``: finds out whether its info has a mask; None: by a reset, here.

    Raises:
        EnvError: one of its spaces is not supported.
    """
    env = make()
    try:
        masks = masks_of(env) if in_info is None else mask_source(env.env, in_info)
        return read_spec(env.read.id, env.env, env.read.time_limit, masks), masks
    finally:
        close_quietly(env)


def masks_of(env: Checked) -> MaskSource | None:
    """Where the environment has masks of its choices. It may be reset."""

    def in_info() -> bool:
        env.reset(seed=0)
        return env.has_mask_in_info

    return mask_source(env.env, in_info)


def _in_info_of_process(id: str, index: int, timeout: float | None) -> bool:
    """Whether the info of a first reset has a mask. It is made in a process: it may hang or end it.

    An environment that does so will do it again, where the fault is reported with its place.
    """
    try:
        with _quiet():
            env = Processes(id, [partial(_make_in_process, id, index, None, os.getpid())])
    except (RuntimeError, PoiseError):
        return False
    try:
        with _quiet():
            env.reset_async(seed=[0])
            env.reset_wait(timeout)
            return bool(env.get_attr("has_mask_in_info")[0])
    except (EnvFault, multiprocessing.TimeoutError, EOFError, ConnectionError):
        return False
    finally:
        env.end(PATIENCE)


def _make_one(id: str, index: int, masks: MaskSource | None = None) -> Checked:
    """Environment ``index`` of a vector, checked."""
    hear_mujoco()
    try:
        env = make_plain(id)
    except gym.error.DependencyNotInstalled as error:
        text = f"it {needs('box2d')}" if "box2d" in str(error).lower() else str(error)
        raise EnvError(f"{id}: {text}") from error
    except (KeyboardInterrupt, EnvError):
        raise
    except BaseException as error:  # also SystemExit
        raise EnvFault(f"{id}, environment {index}: making it raised {message_of(error)}") from error
    hear_mujoco()  # again, because making it may have loaded MuJoCo
    return Checked(env, id, index, masks)


def _make_in_process(id: str, index: int, masks: MaskSource | None, parent: int) -> gym.Env:
    """``_make_one`` in a process of its own. The parent (a process id) also calls it, to read the spaces."""
    if os.getpid() == parent:
        return _make_one(id, index, masks)
    start_env_process()
    try:
        env = _make_one(id, index, masks)
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # its constructor may have changed it
        return env
    except PoiseError as error:
        if isinstance(error.__cause__, gym.error.UnregisteredEnv):
            raise SystemExit(UNKNOWN) from error
        raise SystemExit(str(error)) from error  # Python prints the message without a traceback


class GymnasiumEnv:
    """N Gymnasium environments, in this process or each in a spawned process of its own.

    Args:
        id: of the environment.
        num_envs: how many.
        processes: whether each has a process of its own.
        timeout: seconds for a step or a reset, with processes; None: no limit.
        restart: whether ``rebuild`` makes all environments again after one failed.
        first: the number of the first environment in error messages.
        reading: the spec of the agent that acts in them (``poise.envs.Resolved``).
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
        reading: Spec | None = None,
    ):
        self.num_envs, self._numbers = num_envs, range(first, first + num_envs)
        self.backend = "gymnasium (one process each)" if processes else "gymnasium (in this process)"
        in_info = partial(_in_info_of_process, id, first, timeout) if processes else None
        self._masks: MaskSource | None
        self.spec, self._masks = read_alike(*spec_of(partial(_make_one, id, first), in_info), reading)
        self._nested = any(part.path for part in self.spec.action)
        self._first_choice = np.array([first for part in self.spec.choices for first in part.first])
        low, high = self.spec.float32_bounds
        self._narrow = bool((low > high).any())  # in some dimension no float32 lies between the bounds
        self._id, self._processes, self._timeout, self._restart = id, processes, timeout, restart
        self._ended: Any = np.zeros((2, num_envs), bool)  # whose episodes the last step ended
        self._reported: Any = None  # the infos of these, by environment
        self._adjusted, self._told = Adjusted(num_envs), False
        self._env = self._make()
        self._episodes = Unfinished(id, self._env.action_space, self._numbers)

    def _make(self) -> Processes | SyncVectorEnv:
        id, each, masks = self._id, self._numbers, self._masks
        self._told = False
        try:
            with _quiet():
                if not self._processes:
                    makers = [partial(_make_one, id, i, masks) for i in each]
                    return SyncVectorEnv(makers, autoreset_mode=DISABLED)
                return Processes(id, [partial(_make_in_process, id, i, masks, os.getpid()) for i in each])
        except RuntimeError as error:
            if "space" in str(error):  # Gymnasium checks this
                raise EnvFault(f"{id}: its environments do not have the same spaces: {error}") from error
            raise EnvFault(f"{id}: its environments cannot be made: {message_of(error)}") from error

    def adjust(self, settings: Settings) -> None:
        """Change attributes of the environments; each has them from its next episode on."""
        self._adjusted.change(settings)
        self._told = False

    def reset(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> Obs:
        self._adjusted.begin(mask)
        self._episodes.begin(mask, seeds)
        obs = self._begin(mask, self._timeout)
        self._episodes.sums.begin(mask, _arrays(obs))
        return self._packed(obs)

    def _begin(self, mask: Bool[np.ndarray, " N"], timeout: float | None) -> Any:
        """Reset the environments of ``mask``; the observations of all, in their own shapes and dtypes."""
        chosen = zip(self._episodes.seed.tolist(), mask, strict=True)
        seeds: Any = [seed if begins else None for seed, begins in chosen]
        options = {"reset_mask": np.asarray(mask)}
        with _quiet(), self._faults():
            self._tell_settings()
            if isinstance(self._env, SyncVectorEnv):
                return self._env.reset(seed=seeds, options=options)[0]
            self._env.reset_async(seed=seeds, options=options)
            return self._env.reset_wait(timeout)[0]

    def _tell_settings(self) -> None:
        """Give each environment the settings of its episode, before it is reset."""
        if self._adjusted.used and not self._told:
            each = self._adjusted.each()
            self._env.set_attr("settings", each)
            self._told = all(settings == self._adjusted.now for settings in each)

    def step(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        space = self._env.action_space
        if self._nested:
            return self.apply(action)
        if self.spec.choices:
            action = action.reshape(self.num_envs, -1) + self._first_choice
        env_action = action.reshape(space.shape).astype(space.dtype)
        if isinstance(space, gym.spaces.Box) and self._narrow:
            env_action = env_action.clip(space.low, space.high)
        return self.apply(env_action)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """The shape of one environment's action, as ``apply`` takes it."""
        return cast(tuple[int, ...], self._env.single_action_space.shape)

    def apply(self, action: Shaped[np.ndarray, "N ..."]) -> EnvStep:
        """``step`` with actions in the shape and units of the environments themselves."""
        action = action.astype(self._env.action_space.dtype)
        with _quiet(), self._faults(action):
            if isinstance(self._env, SyncVectorEnv):
                obs, reward, terminated, truncated, info = self._env.step(action)
            else:
                self._env.step_async(action)
                obs, reward, terminated, truncated, info = self._env.step_wait(self._timeout)
        self._episodes.add(action, _arrays(obs), reward, terminated, truncated)
        self._ended, self._reported = (terminated, truncated), info.get(REPORTED)
        return EnvStep(self._packed(obs), reward, terminated, truncated)

    def episode_info(self, env: int) -> dict[str, float]:
        if not (self._ended[0][env] or self._ended[1][env]):  # the caller cuts it short
            with _quiet(), self._faults():
                return dict(cast(Any, self._env.get_attr("numbers"))[env])
        found = None if self._reported is None else self._reported[env]
        return {} if found is None else dict(found)

    def snapshot(self) -> dict[str, np.ndarray]:
        """``returned``: checksums of what unfinished episodes returned; ``inner``: hashes of attributes."""
        inner = {"inner": packed(self._inner())}
        return self._episodes.snapshot() | inner | self._adjusted.snapshot()

    def _inner(self) -> Sequence[Mapping[str, int]]:
        with _quiet(), self._faults():
            return cast(Sequence[Mapping[str, int]], self._env.get_attr("inner"))

    def restore(self, arrays: Mapping[str, np.ndarray]) -> Restored:
        """Reset each environment with the seed of its episode, and repeat all actions.

        What this returns is compared with the checksums of the snapshot, and the attributes of the
        environments with its hashes. A snapshot of an earlier version of poise has neither.
        """
        arrays, self._told = self._adjusted.take(arrays), False
        recorded = "returned" in arrays or "inner" in arrays  # either both or neither
        inner = np.empty((num_rows(arrays.get("inner")), 3), np.int64)
        others: dict[str, np.ndarray] = {"returned": self._episodes.seed, "inner": inner}
        self._episodes.put(arrays, others if recorded else {})
        restored = self._replay(np.ones(self.num_envs, bool), arrays.get("returned"))
        unlike = self._differences(arrays["inner"], restored.exact) if recorded else (UNRECORDED,)
        return restored._replace(unlike=unlike)

    def _differences(self, saved: np.ndarray, repeated: Bool[np.ndarray, " N"]) -> tuple[str, ...]:
        """Attributes that differ although the environment repeated its episode, as a sentence."""
        changed = {}
        for name, indices in differing(self._inner(), saved).items():
            if exact := [i for i in indices if repeated[i]]:
                changed[name] = exact
        if not changed:
            return ()
        first, others = next(iter(changed)), len(changed) - 1
        numbers = [self._numbers[i] for i in changed[first]]
        listed = ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")
        more = f", and {others} more" if others else ""
        return (
            f"environment {listed}: {first} is not as it was{more}; it survives a reset, and only the "
            "unfinished episode was repeated",
        )

    def _replay(self, mask: Bool[np.ndarray, " N"], sums: np.ndarray | None) -> Restored:
        """Play the unfinished episodes of the environments in ``mask`` again, from their start.

        ``sums``: checksums of what they returned before; None if unknown.
        """
        past = [self._episodes.tape.of(i) if replayed else None for i, replayed in enumerate(mask)]
        longest = int(self._episodes.tape.length.max())
        with _quiet(), self._faults():
            self._env.set_attr("past", past)
        obs = self._begin(mask, None if self._timeout is None else self._timeout * (longest + 1))
        with _quiet(), self._faults():
            intact = np.array(self._env.get_attr("intact"), bool)
            returned = np.array(self._env.get_attr("returned"), np.int64)
        self._episodes.sums.put(returned)
        same = np.ones_like(mask) if sums is None else returned == sums
        return Restored(self._packed(obs), intact & same & mask)

    def rebuild(self, fault: EnvFault) -> Restored:
        """Make all environments again after ``fault`` and restore them, except the one that failed.

        The one that failed must be reset next.

        Raises:
            EnvFault: ``fault`` itself, without ``restart`` or if it is not known which environment failed.
        """
        if not self._restart or fault.index is None:
            raise fault
        failed, sums = self._numbers.index(fault.index), self._episodes.sums.values()
        if isinstance(self._env, Processes):
            self._env.processes[failed].kill()  # it may hang
        self.close()
        self._env = self._make()
        others = np.arange(self.num_envs) != failed
        if not others.any():
            return Restored(empty(self.spec, 1), others)
        return self._replay(others, sums)

    def close(self) -> None:
        """Close every environment, also if another one failed, died or hangs."""
        if isinstance(self._env, SyncVectorEnv):
            for env in self._env.envs:
                close_quietly(env)
            self._env.closed = True
            return
        self._env.end(PATIENCE)

    @contextmanager
    def _faults(self, action: np.ndarray | None = None) -> Iterator[None]:
        """Raise each failure as an ``EnvFault`` with its episode; ``action``: that of the running step.

        An environment whose process ended or does not answer is found and named.
        """
        try:
            yield
        except EnvFault as error:
            fault = error
        except multiprocessing.TimeoutError:
            fault = self._no_answer(action)
        except (EOFError, ConnectionError):
            fault = self._process_ended(action)
        else:
            return
        if fault.index is not None:
            fault.crash = self._crash(fault, action)
        raise fault

    def _crash(self, fault: EnvFault, action: np.ndarray | None) -> Crash:
        number = cast(int, fault.index)
        index = self._numbers.index(number)
        actions = self._episodes.tape.of(index)
        if action is not None:
            actions = np.concatenate([actions, action[index : index + 1]])
        seed = int(self._episodes.seed[index])
        return Crash(self._id, number, seed, len(actions), str(fault), fault.trace, actions)

    def _no_answer(self, action: np.ndarray | None) -> EnvFault:
        pipes = cast(Processes, self._env).parent_pipes
        index = next(i for i, pipe in enumerate(pipes) if pipe is None or not pipe.poll())
        what = f"{self._episodes.place(index, action)}: no answer within {self._timeout:g} s"
        return EnvFault(what, self._numbers[index])

    def _process_ended(self, action: np.ndarray | None) -> EnvFault:
        processes = cast(Processes, self._env).processes
        by_sentinel = {p.sentinel: i for i, p in enumerate(processes)}
        for sentinel in wait(list(by_sentinel), PATIENCE):  # the pipe closes just before the process ends
            index = by_sentinel[cast(int, sentinel)]
            processes[index].join(PATIENCE)
            how = _ending(processes[index].exitcode)
            return EnvFault(f"{self._episodes.place(index, action)}: its process {how}", self._numbers[index])
        return EnvFault(f"{self._id}: the connection to one of its processes was lost")

    def _packed(self, obs: Any) -> Obs:
        return pack(self.spec, obs, self.num_envs)


def close_quietly(env: Any) -> None:
    """Close the environment; ignore what it raises."""
    try:
        env.close()
    except KeyboardInterrupt:
        raise
    except BaseException:  # also SystemExit
        return


def _arrays(obs: Any) -> list[np.ndarray]:
    """The arrays of an observation of a vector environment."""
    return list(obs.values()) if isinstance(obs, dict) else [obs]


def _ending(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        return f"was ended by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was ended by signal {-exitcode}"


class _quiet:
    """Keep Gymnasium from printing a worker's traceback: the raised fault has all of it."""

    def __enter__(self) -> None:
        self._level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1

    def __exit__(self, *_: object) -> None:
        gym.logger.min_level = self._level
