"""The arguments of an environment's constructor: which there are, and how text becomes one of them."""

import contextlib
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from poise.envs.naming import nearest
from poise.envs.vector import EnvError
from poise.wording import parse_count

REFUSED = {
    "render_mode": "poise sets it when it makes a video",
    "disable_env_checker": "poise has a checker of its own",
}
_WORDS = {"true": True, "false": False, "True": True, "False": False, "None": None, "null": None}
_NOTHING = object()  # no value


class Argument(NamedTuple):
    """One argument. ``hint`` is Any where neither an annotation nor a default shows its type."""

    hint: Any = Any
    is_required: bool = False


@dataclass(frozen=True)
class Arguments:
    """Those that a class or function has. ``open``: it takes others as well, which cannot be known."""

    known: Mapping[str, Argument]
    open: bool = False

    def fitted(self, what: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Values that are known by name. A whole number becomes a float where one is meant.

        Args:
            what: has the arguments, for messages.

        Raises:
            EnvError: an argument does not exist, or one is missing.
        """
        values = {}
        for key, value in kwargs.items():
            kinds = set(_kinds(self._hint(what, key)))
            meant = float in kinds and int not in kinds and type(value) is int and abs(value) < 2**53
            values[key] = float(value) if meant else value
        missing = [name for name, each in self.known.items() if each.is_required and name not in values]
        if missing:
            example = ", ".join(f"{name}=..." for name in missing)
            raise EnvError(f"{what} cannot be made without {', '.join(missing)}: write {what}({example})")
        return values

    def read(self, what: str, key: str, text: str) -> Any:
        """The value of an argument from the text of a command line, by its annotation.

        Raises:
            EnvError: there is no such argument, or the text is not such a value.
        """
        kinds = list(dict.fromkeys(_kinds(self._hint(what, key))))
        for kind in sorted(kinds, key=_rank):
            if (value := _as_kind(kind, text)) is not _NOTHING:
                return value
        meant = " or ".join(dict.fromkeys(map(_in_words, kinds)))
        raise EnvError(f"--env.{key.replace('_', '-')} = {text!r:.100}: must be {meant}")

    def _hint(self, what: str, key: str) -> Any:
        """The annotation of an argument.

        Raises:
            EnvError: there is no such argument.
        """
        if key in REFUSED:
            raise EnvError(f"{what}: {key} cannot be set, because {REFUSED[key]}")
        if key in self.known:
            return self.known[key].hint
        if self.open:
            return Any
        offered = [name for name in self.known if name not in REFUSED]
        near = nearest(key, offered) or f"; it has {', '.join(offered) or 'none'}"
        raise EnvError(f"{what} has no argument {key!r}{near}")


ANY = Arguments({}, open=True)


def arguments_of(maker: Callable[..., Any], *, first: bool = False) -> Arguments:
    """The arguments of a class or a function.

    A class whose constructor takes ``**kwargs`` passes them on to those that it is derived from.

    Args:
        first: whether it has a first argument that is not of interest, as the environment of a wrapper.
    """
    if not isinstance(maker, type):
        return _of_function(maker, skip=int(first))
    constructors = [vars(cls)["__init__"] for cls in maker.__mro__[:-1] if "__init__" in vars(cls)]
    known: dict[str, Argument] = {}
    open = False
    for number, constructor in enumerate(constructors):
        own = _of_function(constructor, skip=1 + first)
        for name, each in own.known.items():  # what is passed on may have been given before
            known.setdefault(name, each if number == 0 else each._replace(is_required=False))
        open = own.open
        if not open:
            break
    return Arguments(known, open)


def takes(maker: Callable[..., Any], name: str) -> bool:
    """Whether a class or a function takes an argument of this name."""
    arguments = arguments_of(maker)
    return name in arguments.known or arguments.open


def _of_function(function: Callable[..., Any], skip: int) -> Arguments:
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError):  # of compiled code
        return ANY
    hints: dict[str, Any] = {}
    with contextlib.suppress(Exception):  # an annotation may name what cannot be imported
        hints = typing.get_type_hints(function)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for p in named:
        if p.annotation is not p.empty and not isinstance(p.annotation, str):
            hints.setdefault(p.name, p.annotation)
    known = {p.name: Argument(_hint(hints.get(p.name, Any), p.default), p.default is p.empty) for p in named}
    return Arguments(known, any(p.kind is p.VAR_KEYWORD for p in parameters))


def _hint(hint: Any, default: Any) -> Any:
    if hint is not Any or default is inspect.Parameter.empty or default is None:
        return hint
    return int | float if type(default) is int else type(default)


def _kinds(hint: Any) -> Iterator[Any]:
    """The types and the fixed values that an annotation allows."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _kinds(inner[0])
    elif origin is Literal:
        yield from map(_Fixed, inner)
    elif origin in (types.UnionType, typing.Union):
        for each in inner:
            yield from _kinds(each)
    elif isinstance(hint, typing.TypeVar) or hint is object:
        yield Any
    else:
        yield origin or hint


class _Fixed(NamedTuple):
    """A value of a Literal."""

    value: Any


def _rank(kind: Any) -> int:
    """In which order the types of a union are tried: text last, because anything is text."""
    order = [types.NoneType, bool, int, float]
    if isinstance(kind, _Fixed):
        return -1
    return order.index(kind) if kind in order else 6 if kind is str else 5


def _as_kind(kind: Any, text: str) -> Any:
    """The value of this type that a text stands for; ``_NOTHING`` if it is none."""
    if isinstance(kind, _Fixed):
        return kind.value if text == str(kind.value) else _NOTHING
    with contextlib.suppress(ValueError, RecursionError):
        if kind is types.NoneType or kind is bool:
            value = _WORDS.get(text, _NOTHING)
            return value if isinstance(value, kind) else _NOTHING
        if kind is int:
            return parse_count(text)
        if kind is float:
            return float(text)
        if kind is str:
            return text
        value = guess(text)
        if isinstance(kind, type) and issubclass(kind, Collection):
            return value if isinstance(value, list | dict) else _NOTHING
        return value
    return _NOTHING


def guess(text: str) -> Any:
    """The value of a text of which nothing is known: as JSON, a list such as 1,2, or text."""
    if text in _WORDS:
        return _WORDS[text]
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    with contextlib.suppress(ValueError):
        return json.loads(f"[{text}]")
    return text


def _in_words(kind: Any) -> str:
    if isinstance(kind, _Fixed):
        return repr(kind.value)
    words = {types.NoneType: "None", bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(kind, "a list such as 1,2 or [1,2]")
