"""Records of unfinished episodes, to repeat them: the actions, and a checksum of what they returned."""

import struct
import zlib
from collections.abc import Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

LARGEST = 2**28  # bytes of actions of unfinished episodes; each checkpoint contains them
_BUFFERED = 2**22  # bytes of observations that are buffered before they are added to the sums


class TapeFull(Exception):
    """The unfinished episodes have more actions than a checkpoint may contain."""


class Tape:
    """The actions of all environments since the start of the oldest unfinished episode.

    Rows are only appended, so ``rows`` can return a view: its values never change.
    """

    def __init__(self, space: gym.Space):
        shape, dtype = cast(tuple[int, ...], space.shape), space.dtype
        self._rows = np.empty((256, *shape), dtype)
        self._used = 0
        self._first = np.zeros(shape[0], np.int64)  # the row of each environment's first action

    def begin(self, mask: Bool[np.ndarray, " N"]) -> None:
        self._first[mask] = self._used

    def add(self, action: Shaped[np.ndarray, "N ..."]) -> None:
        """Append one action for each environment.

        Raises:
            TapeFull: the actions would be larger than ``LARGEST``.
        """
        if self._used == len(self._rows):
            needed = self.rows()
            if needed.nbytes >= LARGEST:
                raise TapeFull
            length = self.length
            self._rows = np.empty((max(256, 2 * len(needed)), *needed.shape[1:]), needed.dtype)
            self._rows[: len(needed)] = needed
            self._used, self._first = len(needed), len(needed) - length
        self._rows[self._used] = action
        self._used += 1

    def put(self, rows: Shaped[np.ndarray, "K N ..."], length: Int[np.ndarray, " N"]) -> None:
        """Replace all rows; the last ``length[n]`` of them belong to the episode of environment n."""
        self._rows = np.array(rows)
        self._used, self._first = len(rows), len(rows) - length

    def rows(self) -> Shaped[np.ndarray, "K N ..."]:
        return self._rows[self._first.min() : self._used]

    def of(self, index: int) -> Shaped[np.ndarray, "K ..."]:
        """The actions of one environment's episode, copied."""
        return self._rows[self._first[index] : self._used, index].copy()

    @property
    def length(self) -> Int[np.ndarray, " N"]:
        """Steps since the start of each episode."""
        return self._used - self._first


class Sums:
    """A CRC-32 of everything that each environment returned in its current episode.

    Two different episodes have the same sum once in 4e9 cases: this detects faults, not attacks. Steps are
    buffered and added in blocks, which costs a tenth of adding them one by one.
    """

    def __init__(self, num_envs: int):
        self._sum = [0] * num_envs
        self._steps: list[tuple[np.ndarray, ...]] = []
        self._first = np.zeros(num_envs, np.int64)  # index in _steps of the first step of each episode

    def begin(self, mask: Bool[np.ndarray, " N"], obs: Sequence[Shaped[np.ndarray, "N ..."]]) -> None:
        for i in np.flatnonzero(mask).tolist():
            self._sum[i] = first_sum([array[i] for array in obs])
        self._first[mask] = len(self._steps)

    def add(
        self,
        obs: Sequence[Shaped[np.ndarray, "N ..."]],
        reward: Float[np.ndarray, " N"],
        terminated: Bool[np.ndarray, " N"],
        truncated: Bool[np.ndarray, " N"],
    ) -> None:
        """One step of all environments. The arrays are buffered, so they must not be changed later."""
        self._steps.append((*obs, reward, terminated, truncated))
        if sum(array.nbytes for array in obs) * len(self._steps) >= _BUFFERED:
            self.values()

    def put(self, values: Int[np.ndarray, " N"]) -> None:
        """Continue from these sums."""
        self._sum, self._steps = values.tolist(), []
        self._first[:] = 0

    def values(self) -> Int[np.ndarray, " N"]:
        if self._steps:
            columns = [np.stack(column, axis=1) for column in zip(*self._steps, strict=True)]
            num_envs, num_steps = columns[-1].shape
            as_bytes = [
                np.ascontiguousarray(c).reshape(num_envs, num_steps, -1).view(np.uint8) for c in columns
            ]
            rows = np.concatenate(as_bytes, axis=2)
            for i, first in enumerate(self._first.tolist()):
                self._sum[i] = zlib.crc32(rows[i, first:].data, self._sum[i])
            self._steps = []
            self._first[:] = 0
        return np.array(self._sum, np.int64)


def first_sum(obs: Sequence[np.ndarray | np.generic]) -> int:
    """The sum of an episode that consists only of its first observation."""
    return zlib.crc32(_as_bytes(obs))


def next_sum(
    value: int, obs: Sequence[np.ndarray | np.generic], reward: float, terminated: bool, truncated: bool
) -> int:
    """The sum after one more step, as ``Sums`` computes it."""
    row = _as_bytes(obs) + struct.pack("=d??", reward, terminated, truncated)
    return zlib.crc32(row, value)


def _as_bytes(obs: Sequence[np.ndarray | np.generic]) -> bytes:
    return b"".join(np.ascontiguousarray(array).tobytes() for array in obs)


def as_returned(obs: Any, space: gym.Space) -> list[np.ndarray]:
    """The arrays of an observation in the dtypes of its space, as vector environments return them."""
    if isinstance(space, gym.spaces.Dict):
        return [np.asarray(obs[name], dtype=inner.dtype) for name, inner in space.spaces.items()]
    return [np.asarray(obs, dtype=space.dtype)]
