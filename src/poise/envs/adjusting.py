"""Settings of an environment that change while a policy learns in it: attributes, by their names.

A task of the batch engine has one object for all N simulations: ``draw`` and ``vary`` read new settings in
the episodes that begin, ``observe`` and ``outcome`` in the next step. Each of Gymnasium's environments is an
object of its own, and keeps the settings with which its episode began.
"""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from poise.arrays import ArraysError
from poise.envs.vector import EnvError

Settings = Mapping[str, Any]  # numbers, text, and lists of these

MOST_SETTINGS = 64
LARGEST = 2**16  # bytes of settings as JSON


@runtime_checkable
class Adjustable(Protocol):
    """A vector environment with settings."""

    def adjust(self, settings: Settings) -> None:
        """Change these settings of all N; those that are not named stay as they are.

        Raises:
            EnvError: there is no such setting. Some environments say so at their next reset.
        """
        ...


OWN = ("render_mode", "spec", "metadata")  # attributes that are Gymnasium's


def plain_settings(settings: Any) -> dict[str, Any]:
    """Settings as JSON has them: arrays are lists.

    Raises:
        EnvError: they are something else.
    """
    if not isinstance(settings, Mapping) or len(settings) > MOST_SETTINGS:
        raise EnvError(
            f"must be a dictionary of at most {MOST_SETTINGS} settings by name, not {settings!r:.80}"
        )
    for name in settings:
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise EnvError(f"{name!r:.60} is not the name of a setting")
    plain = {name: _plain(name, value) for name, value in settings.items()}
    if len(json.dumps(plain)) > LARGEST:
        raise EnvError(f"has more than {LARGEST:,} bytes of settings")
    return plain


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(name, each) for each in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    if not isinstance(value, bool | int | float | str) or not finite:
        raise EnvError(f"{name} = {value!r:.60}: must be a finite number, text, or a list of these")
    return value


def apply_settings(settings: Settings, target: Any) -> None:
    """Set attributes of a task or an environment, in the types that they have.

    Raises:
        EnvError: it has no such attribute.
    """
    for name, value in settings.items():
        try:
            before = getattr(target, name)
        except AttributeError:
            raise EnvError(_no_setting(target, name)) from None
        if name in OWN or not (before is None or _is_plain(before)):
            raise EnvError(
                f"{type(target).__name__}.{name} cannot be a setting; one is a number, text or a list"
            )
        try:
            setattr(target, name, _as_before(before, value))
        except (AttributeError, TypeError, ValueError) as error:
            raise EnvError(
                f"{type(target).__name__}.{name} cannot be set to {value!r:.60}: {error}"
            ) from error


def _as_before(before: Any, value: Any) -> Any:
    """The value in the type of the one before it.

    Raises:
        ValueError, TypeError: it is of another kind: it would be changed, or have another shape.
    """
    if isinstance(before, np.ndarray):
        array = np.asarray(value, before.dtype)
        if array.shape != before.shape:
            raise ValueError(f"it has the shape {array.shape}, and was {before.shape}")
        if array.dtype.kind != "f" and not np.array_equal(array, np.asarray(value)):
            raise ValueError(f"it was an array of {before.dtype}")
        return array
    if before is not None and isinstance(before, str) is not isinstance(value, str):
        raise ValueError(f"it was {before!r:.60}")
    return tuple(value) if isinstance(before, tuple) and isinstance(value, list) else value


def _no_setting(target: Any, name: str) -> str:
    """Why ``target`` has no setting of this name, with those that are meant perhaps."""
    names = [n for n in dir(target) if not n.startswith("_") and _is_plain(getattr(target, n, None))]
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f"{type(target).__name__} has no attribute {name!r}; did you mean {' or '.join(near)}?"
    return f"{type(target).__name__} has no attribute {name!r}; it has {', '.join(names[:8]) or 'none'}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | list | tuple | np.ndarray)


class Adjusted:
    """The settings of N environments: those of now, and those with which each running episode began.

    A resumed training begins the unfinished episodes again with the latter.
    """

    def __init__(self, num_envs: int):
        self._all: list[dict[str, Any]] = [{}]  # the last: of now
        self._began = np.zeros(num_envs, np.int64)  # which of them

    @property
    def now(self) -> dict[str, Any]:
        return self._all[-1]

    @property
    def used(self) -> bool:
        """Whether there are any."""
        return bool(self.now)

    def change(self, settings: Settings) -> None:
        """New settings; those that are not named stay as they are."""
        self._all.append({**self.now, **settings})

    def begin(self, mask: Bool[np.ndarray, " N"]) -> None:
        """Episodes begin in the environments of ``mask``."""
        self._began[mask] = len(self._all) - 1
        self._forget()

    def _forget(self) -> None:
        """Keep only what a running episode or the next one has."""
        kept = sorted({*self._began.tolist(), len(self._all) - 1})
        if len(kept) < len(self._all):
            self._all = [self._all[i] for i in kept]
            self._began = np.searchsorted(kept, self._began)

    def each(self) -> list[dict[str, Any]]:
        """Those of each environment's episode, [N]."""
        return [self._all[i] for i in self._began]

    def groups(self, mask: Bool[np.ndarray, " N"]) -> Iterator[tuple[dict[str, Any], Bool[np.ndarray, " N"]]]:
        """Each of the settings with which episodes in ``mask`` began, and which these are."""
        for i in np.unique(self._began[mask]).tolist():
            yield self._all[i], mask & (self._began == i)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Nothing, if there are no settings."""
        if not self.used:
            return {}
        self._forget()
        return {"settings": packed_json(self._all), "began": self._began.copy()}

    def take(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Restore from a snapshot. Returns the other arrays in it.

        Raises:
            ArraysError: the arrays are no snapshot.
        """
        rest = {name: array for name, array in arrays.items() if name not in ("settings", "began")}
        if len(rest) == len(arrays):
            return rest
        table, began = unpacked_json(arrays.get("settings"), "settings"), arrays.get("began")
        if not isinstance(table, list) or not table:
            raise ArraysError("array settings is not a list of settings")
        try:
            settings = [plain_settings(each) for each in table]
        except EnvError as error:
            raise ArraysError(f"array settings: {error}") from error
        if began is None or began.shape != self._began.shape or began.dtype != np.int64:
            raise ArraysError("array began is missing or has another shape")
        if not ((began >= 0) & (began < len(settings))).all():
            raise ArraysError("array began: a value is out of range")
        self._all, self._began = settings, began.copy()
        return rest


def packed_json(value: Any) -> np.ndarray:
    """A value of JSON as an array of bytes."""
    return np.frombuffer(json.dumps(value, sort_keys=True).encode(), np.uint8).copy()


def unpacked_json(array: np.ndarray | None, name: str) -> Any:
    """The value in an array of ``packed_json``.

    Raises:
        ArraysError: there is none.
    """
    if array is None or array.dtype != np.uint8 or array.ndim != 1 or array.size > 16 * LARGEST:
        raise ArraysError(f"array {name} is missing or has another shape")
    try:
        return json.loads(array.tobytes())
    except (ValueError, RecursionError) as error:
        raise ArraysError(f"array {name} is not JSON: {error!r:.80}") from error


def adjust_all(worlds: Sequence[Any], settings: Settings) -> None:
    """Change the settings of several vector environments.

    Raises:
        EnvError: one of them has no settings, or not these.
    """
    for world in worlds:
        if not isinstance(world, Adjustable):
            raise EnvError(f"backend {world.backend} has no settings that could change")
        world.adjust(settings)
