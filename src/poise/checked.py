"""Records that check each of their fields against its annotation, and how they are read from JSON.

Also the arguments of public functions that name a folder.
"""

import dataclasses
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

from poise.errors import PoiseError
from poise.wording import parse_layers, parse_schedule

Record = TypeVar("Record")
LARGEST = 1e300  # a larger number counts as infinite: its square is
DEEPEST = 64  # hidden layers: more take minutes to compile
WHOLE = "must be a whole number"


class ConfigError(PoiseError):
    """An option with an invalid value. The message names field, value and bound."""


@dataclass(frozen=True)
class Bound:
    """The range of a number: ``value > gt``, ``value >= ge``, ``value <= le``. Excludes infinity and NaN."""

    gt: float | None = None
    ge: float | None = None
    le: float | None = None

    def __str__(self) -> str:
        parts = {">": self.gt, ">=": self.ge, "<=": self.le}
        return " and ".join(f"{sign} {limit:,}" for sign, limit in parts.items() if limit is not None)

    def problem(self, value: float) -> str | None:
        """What is wrong with ``value``, or None."""
        if self.holds(value):
            return None
        too_large = self.le is None and not abs(value) < LARGEST
        return f"must be {self} and < {LARGEST:g}" if too_large else f"must be {self}"

    def holds(self, value: float) -> bool:
        """Whether ``value`` is in the range."""
        return (
            abs(value) < LARGEST
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.le is None or value <= self.le)
        )


SCHEDULES = "none", "linear", "cosine"  # those with a name


class Points:
    """What a schedule may be: one of ``SCHEDULES``, or pairs of a share of the budget and a factor."""

    def problem(self, value: str) -> str | None:
        """What is wrong with ``value``, or None."""
        if value in SCHEDULES:
            return None
        try:
            parse_schedule(value)
        except ValueError as error:
            return f"must be one of: {', '.join(SCHEDULES)}; or {error}"
        return None


def _problem(hint: Any, value: Any) -> str | None:
    """What is wrong with ``value`` for the annotation ``hint``, or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        inner, bound = arguments
        problem = _problem(inner, value)
        if problem or value is None:
            return problem
        return bound.problem(value)
    if origin is Literal:
        choices = ", ".join(str(a) for a in arguments)
        return None if value in arguments else f"must be one of: {choices}"
    if origin in (types.UnionType, typing.Union):
        problems = [_problem(a, value) for a in arguments]
        return None if None in problems else problems[0]
    if origin is tuple and arguments[0] is str:
        names = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        return None if names else "must be a list of names"
    if origin is tuple:
        if not isinstance(value, tuple) or not 0 < len(value) <= DEEPEST:
            return f"must be 1 to {DEEPEST} layers, as 64x64"
        return next((p for v in value if (p := _problem(arguments[0], v))), None)
    if dataclasses.is_dataclass(hint):
        record = typing.cast(type, hint)
        return None if isinstance(value, record) else f"must be {record.__name__}(...)"
    if hint is types.NoneType:
        return None if value is None else "must be None"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    allowed = (int, float) if hint is float else (hint,)
    is_valid = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    return None if is_valid else f"must be {names[hint]}"


def _as_tuple(value: Any, inner: Any) -> Any:
    """Names or layers from text, a JSON list or a single one, as the tuple of a configuration."""
    if inner is str:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    if isinstance(value, str):
        return parse_layers(value)
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


class Checked:
    """Checks every field against its annotation when the record is made."""

    prefix: typing.ClassVar[str] = ""
    earlier: typing.ClassVar[Mapping[str, str]] = {}
    """Names that fields had in earlier versions or have for short, each with today's: command line and files
    may have them."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self), include_extras=True)
        for name in (field.name for field in dataclasses.fields(typing.cast(Any, self))):
            value = checked_value(self.prefix + name, hints[name], getattr(self, name))
            object.__setattr__(self, name, value)


def checked_value(name: str, hint: Any, value: Any) -> Any:
    """The value of one field, checked by itself: layers and names as tuples.

    Raises:
        ConfigError: it does not fit the annotation ``hint``.
    """
    if typing.get_origin(hint) is tuple:
        try:
            value = _as_tuple(value, typing.get_args(hint)[0])
        except ValueError as error:
            raise ConfigError(f"{name} = {error}") from error
    if _problem(hint, value) == WHOLE:
        value = _as_whole(value)
    if problem := _problem(hint, value):
        raise ConfigError(f"{name} = {shown(value)}: {problem}")
    return value


def _as_whole(value: Any) -> Any:
    """A whole number that is a float (1e6) or one of NumPy, as an int, also in layers; the rest as it is."""
    if isinstance(value, tuple):
        return tuple(_as_whole(each) for each in value)
    is_number = isinstance(value, float | numbers.Integral) and not isinstance(value, int)
    return int(value) if is_number and value == value // 1 else value


def shown(value: Any) -> str:
    """A value for a message, at most 200 characters of it."""
    try:
        return f"{value!r:.200}"
    except ValueError:  # a whole number with too many digits to print
        return "a very long number"


@runtime_checkable
class InFolder(Protocol):
    """What ``train``, ``experiment`` and ``sweep`` return: it has a folder."""

    @property
    def folder(self) -> Path: ...


Place = str | os.PathLike[str] | InFolder
"""An argument that names a folder: its path, or a result that has one."""


def as_path(name: str, place: Place) -> Path:
    """The path of an argument.

    Raises:
        ConfigError: it is neither a path nor has a folder; ``name``: of the argument.
    """
    try:
        return Path(place.folder if isinstance(place, InFolder) else place)
    except TypeError:
        raise ConfigError(f"{name} = {shown(place)}: must be a path") from None


def as_paths(name: str, places: Place | Iterable[Place]) -> list[Path]:
    """The paths of an argument that is a place or several.

    Raises:
        ConfigError: as ``as_path``.
    """
    if isinstance(places, str | os.PathLike | InFolder) or not isinstance(places, Iterable):
        return [as_path(name, places)]
    return [as_path(name, place) for place in places]


Positive = Annotated[float, Bound(gt=0)]
Share = Annotated[float, Bound(ge=0, le=1)]
Count = Annotated[int, Bound(ge=1, le=10**15)]
Schedule = Annotated[str, Points()]


def from_dict(cls: type[Checked], data: Any, prefix: str) -> Any:
    """The record ``cls`` with the values of ``data``, which may come from JSON and have earlier names.

    Raises:
        ConfigError: names the first field, behind ``prefix``, that is unknown or has a wrong value.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'} = {data!r}: must be an object")
    hints = typing.get_type_hints(cls, include_extras=True)
    names = {field.name for field in dataclasses.fields(typing.cast(Any, cls))}
    values: dict[str, Any] = {}
    for name, value in data.items():
        name = cls.earlier.get(name, name)
        if name not in names:
            raise ConfigError(f"{prefix}{name}: no such option")
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(typing.cast(type, hints[name]), value, f"{prefix}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        values[name] = value
    return cls(**values)


def unchecked(record: Record, changes: Mapping[str, Any]) -> Record:
    """The record with changed fields, by dotted names; how they go together is not checked.

    For defaults, which other options may still override.
    """
    made = object.__new__(type(record))
    for name in (field.name for field in dataclasses.fields(typing.cast(Any, record))):
        value = getattr(record, name)
        if dataclasses.is_dataclass(value):
            start = f"{name}."
            inner = {key.removeprefix(start): v for key, v in changes.items() if key.startswith(start)}
            value = unchecked(value, inner)
        object.__setattr__(made, name, changes.get(name, value))
    return made


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options, as in JSON, with each option by its dotted name."""
    options: dict[str, Any] = {}
    for name, value in data.items():
        options |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return options
