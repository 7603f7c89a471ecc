"""An environment as one text: its name, the arguments of its constructor, and the wrappers around it.

    LunarLander-v3(continuous=true, gravity=-5.0) + my_envs:Clip

Values are those of JSON. Wrappers follow from the innermost on, and may have arguments as well. A name in
angle brackets, ``<Tank>``, is that of something that only the running program has.
"""

import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poise.envs.vector import EnvError

LONGEST = 10_000  # characters
AROUND = " + "  # before a wrapper
FORM = "ID(key=value, ...) + module:Wrapper"
_KEY = re.compile(r"\s*([^\W\d]\w*)\s*=\s*")
_WORDS = {"True": True, "False": False, "None": None}  # as Python writes them
_PLAIN_TEXT = re.compile(r"[\w %+-]*")  # without the marks of paths and of names of modules
MOST_VALUES, DEEPEST = 1_000, 16  # in the arguments of a constructor


@dataclass(frozen=True)
class Named:
    """An environment or a wrapper by its name, and the arguments with which it is made."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.kwargs:
            return self.name
        values = (f"{key}={_json(self.kwargs[key])}" for key in sorted(self.kwargs))
        return f"{self.name}({', '.join(values)})"


@dataclass(frozen=True)
class Variant:
    """An environment and what is around it, from the innermost wrapper on."""

    env: Named
    wrappers: tuple[Named, ...] = ()

    def __str__(self) -> str:
        return AROUND.join(map(str, (self.env, *self.wrappers)))

    @property
    def is_plain(self) -> bool:
        """Whether it is a name alone."""
        return not self.env.kwargs and not self.wrappers

    @property
    def parts(self) -> tuple[Named, ...]:
        return self.env, *self.wrappers

    @property
    def names_file(self) -> bool:
        """Whether an argument is text that could be the path of a file or the name of a module."""
        return any(_leads_to_file(text) for part in self.parts for text in _texts(part.kwargs))

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``config.json``: ``env``, and ``env_kwargs`` and ``wrappers`` where there are some."""
        around = [str(wrapper) for wrapper in self.wrappers]
        kwargs = {"env_kwargs": dict(self.env.kwargs)} if self.env.kwargs else {}
        return {"env": self.env.name, **kwargs, **({"wrappers": around} if around else {})}


def parse(text: str) -> Variant:
    """The environment that a text describes.

    Raises:
        EnvError: it is not in this form.
    """
    if len(text) > LONGEST:
        raise EnvError(f"{text:.60}...: is longer than {LONGEST:,} characters")
    if "(" not in text and AROUND not in text:
        return Variant(Named(text))
    parts, rest = [], AROUND + text
    while rest:
        if not rest.startswith(AROUND):
            raise EnvError(f"{text:.200}: must be {FORM}; {rest[:40]!r} is not expected")
        part, rest = _read(text, rest.removeprefix(AROUND))
        parts.append(part)
    return Variant(parts[0], tuple(parts[1:]))


def combine(env: str, kwargs: Mapping[str, Any], wrappers: Sequence[str], *, below: bool = False) -> str:
    """The environment with further arguments and wrappers, as text.

    Args:
        below: whether the arguments that ``env`` has itself override ``kwargs``; otherwise ``kwargs`` do.

    Raises:
        EnvError: an argument is not a value of JSON, or a text has another form.
    """
    variant = parse(env)
    given = as_json_values(kwargs, "env_kwargs")
    merged = {**given, **variant.env.kwargs} if below else {**variant.env.kwargs, **given}
    around = [part for wrapper in wrappers for part in parse(wrapper).parts]
    return str(Variant(Named(variant.env.name, merged), (*variant.wrappers, *around)))


def as_json_values(kwargs: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Arguments as JSON has them: NumPy's numbers as numbers, tuples as lists, paths as text.

    Raises:
        EnvError: a value is something else.
    """
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise EnvError(f"{what} = {kwargs!r:.100}: must be a mapping of the constructor's arguments")
    if not _is_small(kwargs):
        raise EnvError(f"{what}: must be at most {MOST_VALUES:,} values, {DEEPEST} within each other")
    values = {}
    for key, value in kwargs.items():
        if not key.isidentifier():
            raise EnvError(f"{what}: {key!r:.60} cannot be the name of an argument")
        try:
            values[key] = _plain(value)
        except TypeError:
            raise EnvError(
                f"{what}: {key} = {value!r:.100} is not a number, text, None, a list or a mapping of these; "
                "give a function that makes the environment"
            ) from None
    return values


def _is_small(value: Any) -> bool:
    """Whether a value has few values within it. One that holds itself has endlessly many."""
    level, count = [value], 0
    for _ in range(DEEPEST):
        inner = [list(x.values()) if isinstance(x, Mapping) else x for x in level]
        level = list(
            itertools.islice(
                itertools.chain(*(x for x in inner if isinstance(x, list | tuple))), MOST_VALUES + 1
            )
        )
        count += len(level)
        if count > MOST_VALUES:
            return False
        if not level:
            return True
    return False


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return _plain(value.item())
        case Path():
            return str(value)
        case list() | tuple():
            return [_plain(each) for each in value]
        case Mapping() if all(isinstance(key, str) for key in value):
            return {key: _plain(each) for key, each in value.items()}
    raise TypeError


def _read(text: str, rest: str) -> tuple[Named, str]:
    """The first part of ``rest``, and what follows it. ``text``: the whole, for messages."""
    ends = [i for i in (rest.find("("), rest.find(AROUND)) if i >= 0]
    end = min(ends, default=len(rest))
    name, rest = rest[:end], rest[end:]
    if not name or name != name.strip():
        raise EnvError(f"{text:.200}: must be {FORM}; a name is missing")
    if not rest.startswith("("):
        return Named(name), rest
    kwargs: dict[str, Any] = {}
    rest = rest[1:].lstrip()
    while not rest.startswith(")"):
        key = _KEY.match(rest)
        if key is None or key[1] in kwargs:
            raise EnvError(f"{text:.200}: must be {FORM}; before {rest[:40]!r} there is no new key=")
        kwargs[key[1]], rest = _value(text, rest[key.end() :])
        rest = rest.lstrip()
        if rest.startswith(","):
            rest = rest[1:].lstrip()
        elif not rest.startswith(")"):
            raise EnvError(f"{text:.200}: must be {FORM}; {rest[:40]!r} is not expected")
    return Named(name, kwargs), rest[1:]


def _value(text: str, rest: str) -> tuple[Any, str]:
    word = re.match(r"\w*", rest)
    if word is not None and word[0] in _WORDS:
        return _WORDS[word[0]], rest[word.end() :]
    try:
        value, end = json.JSONDecoder().raw_decode(rest)
    except (ValueError, RecursionError) as error:
        raise EnvError(
            f"{text:.200}: {rest[:40]!r} does not begin with a value; write a number, true, null, "
            '"text" or [1, 2]'
        ) from error
    return value, rest[end:]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _leads_to_file(text: str) -> bool:
    """Whether a text could be a path or the name of a module; a single word only if there is such a one.

    The modules of Python itself do not count.
    """
    if not _PLAIN_TEXT.fullmatch(text):
        return True
    if not text or text in sys.stdlib_module_names:
        return False
    try:
        is_module = text.isidentifier() and importlib.util.find_spec(text) is not None
        return is_module or Path(text).exists()
    except (ValueError, OSError):  # a module without a spec, or too long a name
        return True


def _texts(value: Any) -> Iterator[str]:
    """Every text within a value."""
    match value:
        case str():
            yield value
        case Mapping():
            for key, inner in value.items():
                yield key
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
