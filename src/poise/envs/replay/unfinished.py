"""The unfinished episodes of N environments: what is needed to repeat them, and what they returned."""

from collections.abc import Mapping, Sequence
from typing import cast

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float, Shaped

from poise.arrays import ArraysError, fitted
from poise.config import LAST_SEED
from poise.envs.checking import EnvFault
from poise.envs.replay.tape import LARGEST, Sums, Tape, TapeFull


class Unfinished:
    """The seeds and the actions of the episodes that have not ended, and a checksum of what each returned.

    Args:
        id: of the environment.
        space: the action space of all N environments together.
        numbers: those of the environments in error messages.

    Attributes:
        seed: of each episode, -1 before the first, int64 ``[N]``.
    """

    def __init__(self, id: str, space: gym.Space, numbers: Sequence[int]):
        self._id, self._numbers, self._space = id, numbers, space
        self.seed = np.full(len(numbers), -1, np.int64)
        self.tape, self.sums = Tape(space), Sums(len(numbers))

    def begin(self, mask: Bool[np.ndarray, " N"], seeds: Sequence[int]) -> None:
        """Episodes begin in the environments of ``mask``. Their first observations are added to the sums."""
        self.seed[mask] = seeds
        self.tape.begin(mask)

    def add(
        self,
        action: Shaped[np.ndarray, "N ..."],
        obs: Sequence[Shaped[np.ndarray, "N ..."]],
        reward: Float[np.ndarray, " N"],
        terminated: Bool[np.ndarray, " N"],
        truncated: Bool[np.ndarray, " N"],
    ) -> None:
        """One step of all environments. The arrays must not be changed later.

        Raises:
            EnvFault: an episode has more actions than a checkpoint may contain.
        """
        try:
            self.tape.add(action)
        except TapeFull:
            longest = int(self.tape.length.argmax())
            raise EnvFault(
                f"{self.place(longest)}: this episode does not end. A resumed training repeats the "
                f"actions of unfinished episodes, and these have reached {LARGEST // 2**20} MiB. "
                "Give the environment a time limit: gymnasium.register(..., max_episode_steps=1000)"
            ) from None
        self.sums.add(obs, reward, terminated, truncated)

    def place(self, index: int, action: np.ndarray | None = None) -> str:
        """Where an environment is, for a message. ``action``: that of the step it is in, if it is in one."""
        step = int(self.tape.length[index]) + (action is not None)
        number, seed = self._numbers[index], self.seed[index]
        return f"{self._id}, environment {number}, episode seed {seed}, step {step}"

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies, and views whose values never change."""
        return {
            "seed": self.seed.copy(),
            "length": self.tape.length,
            "action": self.tape.rows(),
            "returned": self.sums.values(),
        }

    def put(self, arrays: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> None:
        """Take the seeds and actions of a ``snapshot``. The sums are those of whoever repeats the episodes.

        ``others``: examples of the arrays besides ``seed``, ``length`` and ``action``.

        Raises:
            ArraysError: these arrays are not a snapshot of such environments.
        """
        rows = arrays.get("action", np.empty(0))
        shape = (num_rows(rows), *self.tape.rows().shape[1:])
        layout = {"seed": self.seed, "length": self.seed, "action": np.empty(shape, rows.dtype)}
        fitted({**layout, **others}, arrays)
        seed, length = arrays["seed"], arrays["length"]
        dtype = cast(np.dtype, self._space.dtype)
        if rows.dtype != dtype:
            raise ArraysError(f"array action is {rows.dtype}, should be {dtype}")
        if not ((seed >= 0) & (seed <= LAST_SEED) & (length >= 0) & (length <= len(rows))).all():
            raise ArraysError("array 'seed' or 'length': a value is out of range")
        self.seed[:] = seed
        self.tape.put(rows, length)


def num_rows(array: np.ndarray | None) -> int:
    """Rows of an array of a file, which may be missing or have any shape."""
    return 0 if array is None or not array.ndim else len(array)
