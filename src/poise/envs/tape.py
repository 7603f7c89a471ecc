"""What is kept of unfinished episodes, to repeat them: the actions, and a sum of what they led to."""

import struct
import zlib
from typing import Any, cast

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

LARGEST = 2**28  # bytes of actions of unfinished episodes; each checkpoint holds them
_BUFFERED = 2**22  # bytes of observations from which on they are added to the sums


class TapeFull(Exception):
    """The unfinished episodes have more actions than a checkpoint is to hold."""


class Tape:
    """The actions of all environments since the oldest unfinished episode began.

    Rows are only appended: what ``rows`` returned never changes, so it is no copy.
    """

    def __init__(self, space: gym.Space):
        shape, dtype = cast(tuple[int, ...], space.shape), space.dtype
        self._rows = np.empty((256, *shape), dtype)
        self._used = 0
        self._begun = np.zeros(shape[0], np.int64)  # the row of each environment's first action

    def begin(self, mask: Bool[np.ndarray, " N"]) -> None:
        self._begun[mask] = self._used

    def add(self, action: Shaped[np.ndarray, "N ..."]) -> None:
        """Appends one action of each.

        Raises:
            TapeFull: they would be larger than ``LARGEST``.
        """
        if self._used == len(self._rows):
            kept = self.rows()
            if kept.nbytes >= LARGEST:
                raise TapeFull
            length = self.length
            self._rows = np.empty((max(256, 2 * len(kept)), *kept.shape[1:]), kept.dtype)
            self._rows[: len(kept)] = kept
            self._used, self._begun = len(kept), len(kept) - length
        self._rows[self._used] = action
        self._used += 1

    def put(self, rows: Shaped[np.ndarray, "K N ..."], length: Int[np.ndarray, " N"]) -> None:
        """Has these rows alone, the last ``length[n]`` of them of environment n's episode."""
        self._rows = np.array(rows)
        self._used, self._begun = len(rows), len(rows) - length

    def rows(self) -> Shaped[np.ndarray, "K N ..."]:
        return self._rows[self._begun.min() : self._used]

    def of(self, index: int) -> Shaped[np.ndarray, "K ..."]:
        """Those of one environment's episode."""
        return self._rows[self._begun[index] : self._used, index].copy()

    @property
    def length(self) -> Int[np.ndarray, " N"]:
        """Steps since each episode began."""
        return self._used - self._begun


class Sums:
    """A CRC-32 of all that each environment returned in its running episode.

    It finds a difference, and is no protection: two episodes that differ have the same sum once in 4e9 times.
    Steps are gathered and added in blocks, which costs a tenth of adding them one by one.
    """

    def __init__(self, num_envs: int):
        self._sum = [0] * num_envs
        self._steps: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._first = np.zeros(num_envs, np.int64)  # of these steps, the first of the running episode

    def begin(self, mask: Bool[np.ndarray, " N"], obs: Shaped[np.ndarray, "N ..."]) -> None:
        for i in np.flatnonzero(mask).tolist():
            self._sum[i] = first_sum(obs[i])
        self._first[mask] = len(self._steps)

    def add(
        self,
        obs: Shaped[np.ndarray, "N ..."],
        reward: Float[np.ndarray, " N"],
        terminated: Bool[np.ndarray, " N"],
        truncated: Bool[np.ndarray, " N"],
    ) -> None:
        """One step. The arrays are kept for a while, and must not be written to."""
        self._steps.append((obs, reward, terminated, truncated))
        if obs.nbytes * len(self._steps) >= _BUFFERED:
            self.values()

    def put(self, values: Int[np.ndarray, " N"]) -> None:
        """Continues from these."""
        self._sum, self._steps = values.tolist(), []
        self._first[:] = 0

    def values(self) -> Int[np.ndarray, " N"]:
        if self._steps:
            columns = [np.stack(column, axis=1) for column in zip(*self._steps, strict=True)]
            num_envs, num_steps = columns[1].shape
            as_bytes = [
                np.ascontiguousarray(c).reshape(num_envs, num_steps, -1).view(np.uint8) for c in columns
            ]
            rows = np.concatenate(as_bytes, axis=2)
            for i, first in enumerate(self._first.tolist()):
                self._sum[i] = zlib.crc32(rows[i, first:].data, self._sum[i])
            self._steps = []
            self._first[:] = 0
        return np.array(self._sum, np.int64)


def first_sum(obs: Shaped[np.ndarray, "..."]) -> int:
    """The sum of an episode that has its first observation alone."""
    return zlib.crc32(np.ascontiguousarray(obs).tobytes())


def next_sum(value: int, obs: np.ndarray, reward: float, terminated: bool, truncated: bool) -> int:
    """The sum after one more step, as ``Sums`` computes it."""
    row = np.ascontiguousarray(obs).tobytes() + struct.pack("=d??", reward, terminated, truncated)
    return zlib.crc32(row, value)


def as_returned(obs: Any, space: gym.Space) -> np.ndarray:
    """An observation as Gymnasium's vector environments hand it on: in the dtype of its space."""
    return np.asarray(obs, dtype=space.dtype)
