"""What environments report beside the reward: the numbers in ``info``, as one number for each episode.

A number whose name has the word ``reward``, ``cost`` or ``penalty`` is summed over the episode. Of any other,
such as ``is_success`` or ``x_position``, the last value counts.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from poise.spec import MASK

MOST = 32  # names of a training
LONGEST = 60  # characters of a name
REPORTED = "poise_info"  # the name under which ``Checked`` passes on what ``EpisodeInfo`` has kept
_SUMMED = {"reward", "rewards", "rew", "cost", "costs", "penalty", "penalties"}
_OTHERS = {MASK, "TimeLimit.truncated", "seed", "seeds", "env_id", REPORTED}  # of Gymnasium and of poise
# columns of poise's own tables, and metrics of episodes
_TAKEN = {
    *("step", "env", "episode", "return", "length", "ended"),
    *("count", "episodic_return", "success_rate"),
}
_PLAIN = {float, bool, np.float64, np.float32, np.bool_}
_MOST_KEYS = 1000  # of infos, which an environment may make up without end

T = TypeVar("T")


def name_of(key: Any) -> str | None:
    """The name under which a key of ``info`` is recorded; None: it is not.

    Only ASCII letters, digits and ``_-./`` stay: it is read as text of a terminal, of a CSV file, of a page.
    """
    if not isinstance(key, str) or key in _OTHERS or key.startswith("_"):
        return None
    name = re.sub(r"[^A-Za-z0-9_./-]", "_", key[:LONGEST]).lstrip("-./_")
    return f"{name}_" if name in _TAKEN else name or None


def is_summed(name: str) -> bool:
    """Whether a number of this name is summed over an episode; otherwise its last value counts."""
    return not _SUMMED.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def slots(keys: Any) -> dict[Any, tuple[str, bool]]:
    """Name, and whether it is summed, of each of the keys that is recorded.

    Of two keys with the same name, the first is.
    """
    found: dict[str, Any] = {}
    for key in keys:
        name = name_of(key)
        if name is not None and len(found) <= MOST:  # one more, so that somebody notices
            found.setdefault(name, key)
    return {key: (name, is_summed(name)) for name, key in found.items()}


def success(info: Mapping[str, T]) -> T | None:
    """Whether an episode was a success, as ``is_success`` or ``success`` says; None: neither does."""
    return info.get("is_success", info.get("success"))


def is_success(name: str) -> bool:
    """Whether a number of this name counts in the success rate."""
    return name in ("is_success", "success")


def finite(info: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that are neither infinite nor NaN."""
    return {name: float(value) for name, value in info.items() if math.isfinite(value)}


class EpisodeInfo:
    """The numbers in the infos of one environment, in its running episode.

    A number is an int, float or bool of Python or NumPy, or an array with one entry and at most one axis.
    Everything else is ignored, as are the keys of Gymnasium's own wrappers.
    """

    def __init__(self) -> None:
        self._slots: dict[Any, tuple[str, bool] | None] = {}
        self._keys: dict[str, Any] = {}  # by name
        self._values: dict[str, float] = {}

    def begin(self) -> None:
        """At the start of an episode."""
        self._values = {}

    def add(self, info: Mapping[Any, Any]) -> None:
        """The info of one step."""
        known, values = self._slots, self._values
        for key, value in info.items():
            number = float(value) if type(value) in _PLAIN else _number(value)
            if number is None:
                continue
            slot = known[key] if key in known else self._slot(key)
            if slot is not None:
                name, summed = slot
                values[name] = values.get(name, 0.0) + number if summed else number

    def values(self) -> dict[str, float]:
        """One number for each name that was reported since the start of the episode."""
        return finite(self._values)

    def _slot(self, key: Any) -> tuple[str, bool] | None:
        name, slot = name_of(key), None
        if name is not None and (name in self._keys or len(self._keys) <= MOST):
            slot = (name, is_summed(name)) if self._keys.setdefault(name, key) == key else None
        if len(self._slots) < _MOST_KEYS:
            self._slots[key] = slot
        return slot


def _number(value: Any) -> float | None:
    """A value of another type as a float; None: it is not a number."""
    if type(value) is int and abs(value) < 2**63:
        return float(value)
    if (
        isinstance(value, np.ndarray | np.generic)
        and value.shape in ((), (1,))
        and value.dtype.kind in "fiub"
    ):
        return float(value.item())
    return None


class BatchInfo:
    """The numbers that N simulations report, in their running episodes: arrays ``[N]``."""

    def __init__(self, num_envs: int):
        self._num_envs = num_envs
        self._slots: dict[Any, tuple[str, bool]] | None = None  # by key; None before the first step
        self._keys: Any = ()  # of the first step
        self._sums: dict[str, np.ndarray] = {}
        self._first = np.zeros(num_envs)  # sums before the first step; NaN: not known

    def begin(self, ids: Int[np.ndarray, " K"]) -> None:
        """At the start of episodes in these simulations."""
        self._first[ids] = 0.0
        for values in self._sums.values():
            values[ids] = 0.0

    def add(self, info: Mapping[Any, Any]) -> None:
        """What one step reported.

        Raises:
            ValueError: an array has another shape, or the names are not those of the first step.
        """
        if self._slots is None:
            self._slots, self._keys = slots(info), info.keys()
            names = [name for name, _ in self._slots.values()]
            self._sums = {name: self._sums.get(name, self._first.copy()) for name in names}
        if info.keys() != self._keys:
            raise ValueError(
                f"it reports {', '.join(map(repr, info))}, and in its first step "
                f"{', '.join(map(repr, self._keys))}; the names must stay the same"
            )
        for key, (name, summed) in self._slots.items():
            value = info[key]
            if np.shape(value) != (self._num_envs,):
                raise ValueError(f"{key!r} has shape {np.shape(value)}, should be (N,)")
            if summed:
                self._sums[name] += value
            else:
                self._sums[name][:] = value

    def of(self, env: int) -> dict[str, float]:
        """Of the running episode of one of the N."""
        return finite({name: values[env] for name, values in self._sums.items()})

    def snapshot(self) -> dict[str, Float[np.ndarray, " N"]]:
        return {name: values.copy() for name, values in self._sums.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], stepped: Bool[np.ndarray, " N"]) -> None:
        """Continue from a ``snapshot``. ``stepped``: whose episodes have had a step.

        Names that it lacks, as one of an earlier version of poise does, are not known in those episodes.
        """
        self._slots, self._first = None, np.where(stepped, np.nan, 0.0)
        self._sums = {name: np.array(values) for name, values in arrays.items()}
