"""A wrapper around each Gymnasium environment that reports what went wrong, where and when."""

import math
import traceback
from typing import Any

import gymnasium as gym
import numpy as np

from poise.envs.adjusting import Settings, apply_settings
from poise.envs.info import REPORTED, EpisodeInfo
from poise.envs.packing import at, first_of, unpack_action
from poise.envs.replay.inner import Inner
from poise.envs.replay.tape import as_returned, first_sum, next_sum
from poise.envs.spaces import MaskSource, flat_mask, mask_method, native_action, read_spec
from poise.envs.vector import Crash
from poise.errors import PoiseError, message_of, shortened
from poise.spec import MASK, Leaf

LONGEST_TRACE = 20_000  # characters
LARGEST = 1e15  # size of observations and rewards: the sum of many squares must fit a float32


class EnvFault(PoiseError):
    """An environment raised, or returned something invalid.

    The message names the id of the environment, its number, the seed of the episode and the step.
    """

    exit_code = 1

    def __init__(self, message: Any, index: int | None = None, trace: str = ""):
        if isinstance(message, EnvFault):  # Gymnasium wraps what an environment's process raised
            message, index, trace = message.args
        super().__init__(message, index, trace)
        self.index = index  # number of the environment; None if it is not known which one failed
        self.trace = trace  # the traceback; "" if nothing was raised
        self.crash: Crash | None = None  # the episode, if it is known

    def __str__(self) -> str:
        return self.args[0]


class Checked(gym.Wrapper):
    """Checks what ``reset`` and ``step`` return: types, shapes, dtypes, and that numbers are usable.

    The bounds of the observation space are not checked: many environments that work well leave them. Of the
    info dictionaries, the numbers are kept for each episode, and passed on with its last step.

    Nested spaces become flat ones, which Gymnasium's vector environments handle fast: observations are
    dictionaries of the arrays that networks read, by their names, and an action is a row of float32
    (``poise.spec.Spec``). Plain spaces stay as they are.

    Attributes:
        read: the spec of the environment.
        info: of the last reset or step.
    """

    def __init__(self, env: gym.Env, id: str, index: int, masks: MaskSource | None = None):
        super().__init__(env)
        limit = env.spec.max_episode_steps if env.spec else None
        self.read, self._masks, self.info = read_spec(id, env, limit, masks), masks, {}
        self._plain = len(self.read.obs) == 1 and not self.read.obs[0].path
        if not self._plain:
            spaces = {x.name: _leaf_space(env.observation_space, x) for x in self.read.obs}
            self.observation_space = gym.spaces.Dict(spaces)
        self._nested = any(part.path for part in self.read.action)
        if self._nested:
            self.action_space = gym.spaces.Box(-np.inf, np.inf, self.read.action_row, np.float32)
        self._id, self._index = id, index
        self._seed: int | None = None
        self._step = 0
        self.past: Any = None  # actions to replay after the next reset, once
        self.intact = True  # whether the last replay reached its last action
        self.returned = 0  # checksum of everything that the replay returned
        self.settings: Settings = {}  # attributes of the environment that the next reset sets
        self._inner = Inner(env)
        self._numbers = EpisodeInfo()

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers in the infos of the running episode (``poise.envs.info``)."""
        return self._numbers.values()

    @property
    def has_mask_in_info(self) -> bool:
        """Whether the info of the last reset or step has a mask of the choices."""
        return self.info.get(MASK) is not None

    def inner(self) -> dict[str, int]:
        """A hash of each attribute (``poise.envs.replay.inner``)."""
        return self._inner.state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        self._seed, self._step = seed, 0
        self._numbers.begin()
        if self.settings:
            apply_settings(self.settings, self.unwrapped)
        generators = self._inner.before_call()
        try:
            returned = self.env.reset(seed=seed, options=options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: an environment must not end a training
            raise self._fault(f"reset raised {described(error)}", error) from error
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise self._fault(f"reset returned {_brief(returned)}, should be (obs, info)")
        self._inner.after_call(generators)
        obs = self._obs(*returned)
        past, self.past = self.past, None
        return obs if past is None else self._replay(obs, past), {}

    def _replay(self, obs: Any, past: Any) -> Any:
        space = self.observation_space
        self.intact, value = True, first_sum(as_returned(obs, space))
        for action in past:
            if not self.intact:
                break
            obs, reward, terminated, truncated, _ = self.step(action)
            value = next_sum(value, as_returned(obs, space), reward, terminated, truncated)
            self.intact = not (terminated or truncated)
        self.returned = value
        return obs

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self._step += 1
        native = self._native(action) if self._nested else action
        generators = self._inner.before_call()
        try:
            returned = self.env.step(native)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._fault(f"step raised {described(error)}", error) from error
        if not isinstance(returned, tuple) or len(returned) != 5:
            shown = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else _brief(returned)
            raise self._fault(f"step returned {shown}, should be (obs, reward, terminated, truncated, info)")
        self._inner.after_call(generators)
        obs, reward, terminated, truncated, info = returned
        obs, reward = self._obs(obs, info), self._number(reward)
        ends = self._flag("terminated", terminated), self._flag("truncated", truncated)
        if self.info:
            self._numbers.add(self.info)
        numbers = self.numbers if ends[0] or ends[1] else {}
        return obs, reward, *ends, {REPORTED: tuple(numbers.items())} if numbers else {}

    def _native(self, row: np.ndarray) -> Any:
        """The environment's own action for a row."""
        batch = unpack_action(self.read, np.asarray(row)[None])
        return native_action(self.env.action_space, first_of(batch))

    def _obs(self, obs: Any, info: Any) -> np.ndarray | dict[str, np.ndarray]:
        self.info = info if isinstance(info, dict) else {}
        if self._plain:
            return self._array("obs", obs, self.read.obs[0], self.observation_space)
        arrays = {}
        for leaf in self.read.obs:
            if leaf.kind == "mask":
                arrays[MASK] = self._mask(obs, leaf)
                continue
            what = f"obs[{']['.join(map(repr, leaf.path))}]" if leaf.path else "obs"
            try:
                value = at(obs, leaf.path)
            except (LookupError, TypeError) as error:
                raise self._fault(f"{what} is missing: obs is {_brief(obs)}") from error
            arrays[leaf.name] = self._array(what, value, leaf, at(self.observation_space, (leaf.name,)))
        return arrays

    def _array(self, what: str, value: Any, leaf: Leaf, space: gym.Space) -> np.ndarray:
        """One array of an observation, checked; ``what``: its name in a message."""
        if not isinstance(value, np.ndarray | list | tuple | float | int | np.generic):
            raise self._fault(f"{what} is {_brief(value)}, should be an array")
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise self._fault(f"{what} is not an array: {error}") from error
        if array.shape != space.shape:
            raise self._fault(f"{what} has shape {array.shape}, the observation space has {space.shape}")
        if array.dtype.kind not in "fiub" or not np.can_cast(array.dtype, np.dtype(space.dtype), "same_kind"):
            raise self._fault(f"{what} has dtype {array.dtype}, the observation space has {space.dtype}")
        if leaf.kind == "one_hot":
            first = np.array(leaf.first)
            if not ((array.ravel() >= first) & (array.ravel() < first + leaf.sizes)).all():
                raise self._fault(f"{what} is {_brief(value)}, its space is {space}")
        elif array.dtype.itemsize > 2 or array.dtype.kind == "f":  # smaller whole numbers always are usable
            usable = np.abs(array.astype(np.float64)) <= LARGEST  # also false for NaN
            if not usable.all():
                where = np.argwhere(~usable)[0].tolist()
                raise self._fault(f"{what}{where} is {_unusable(array[tuple(where)])}")
        return array

    def _mask(self, obs: Any, leaf: Leaf) -> np.ndarray:
        """The mask of the choices, checked: each choice has a value that is allowed."""
        try:
            match self._masks:
                case "method":
                    mask = mask_method(self.env)()
                case "info":
                    mask = self.info[MASK]
                case _:
                    mask = at(obs, leaf.path)
            flags = flat_mask(mask, self.read)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the method is the user's
            raise self._fault(f"{MASK}: {described(error)}", error) from error
        starts = np.cumsum((0, *self.read.sizes[:-1]))
        if not np.logical_or.reduceat(flags, starts).all():
            raise self._fault(f"{MASK} allows no action")
        return flags.astype(np.int8)

    def _number(self, reward: Any) -> float:
        try:
            if isinstance(reward, complex | np.complexfloating):
                raise TypeError("complex")
            value = float(reward)
        except Exception as error:  # __float__ may raise anything
            raise self._fault(f"reward is {_brief(reward)}, should be a number") from error
        if not abs(value) <= LARGEST:
            raise self._fault(f"reward is {_unusable(value)}")
        return value

    def _flag(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise self._fault(f"{name} is {_brief(value)}, should be True or False")
        return bool(value)

    def _fault(self, what: str, raised: BaseException | None = None) -> EnvFault:
        trace = shortened("".join(traceback.format_exception(raised)), LONGEST_TRACE) if raised else ""
        place = f"{self._id}, environment {self._index}, episode seed {self._seed}, step {self._step}"
        return EnvFault(f"{place}: {what}", self._index, trace)


def _leaf_space(space: Any, leaf: Leaf) -> gym.Space:
    """The space of one array of an observation."""
    if leaf.kind == "mask" and not leaf.path:
        return gym.spaces.MultiBinary(leaf.shape)
    space = at(space, leaf.path)
    return gym.spaces.MultiBinary(math.prod(leaf.shape)) if leaf.kind == "mask" else space


def _unusable(value: Any) -> str:
    return f"{value}, beyond {LARGEST:g}" if math.isfinite(value) else f"{value}"


def _brief(value: Any) -> str:
    if value is None:
        return "None"
    try:
        return f"{type(value).__name__} {value!r:.60}"
    except Exception:  # its repr failed, for example because it has too many digits
        return type(value).__name__


def described(error: BaseException) -> str:
    """The exception and the line that raised it."""
    trace, last = error.__traceback__, None
    while trace is not None:
        last, trace = trace, trace.tb_next
    where = f" (line {last.tb_lineno} of {last.tb_frame.f_code.co_filename})" if last else ""
    return f"{message_of(error)}{where}"
