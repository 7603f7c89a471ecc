"""The words of a command, read by the options of its verb, for mistakes whose cause tyro does not say."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tyro.conf import Positional, UseAppendAction
from tyro.constructors import PrimitiveConstructorSpec

from poise.checked import ConfigError
from poise.system.terminal import typed
from poise.wording import parse_count, parse_number

SEVERAL = {"train": "poise experiment", "sweep": "poise experiment"}  # takes several environments instead
NUMBERS: dict[Any, Callable[[str], float]] = {int: parse_count, float: parse_number}


class Option(NamedTuple):
    """How an option is read.

    Attributes:
        most: words that it takes; None: all up to the next option.
        number: int or float, if it is one.
        is_list: whether it is a list of words, and may be repeated.
    """

    most: int | None = 1
    number: type | None = None
    is_list: bool = False


class Part(NamedTuple):
    """An option (with underscores) and the words that it takes; or, without an option, one word."""

    option: str
    words: tuple[str, ...]

    def typed(self) -> str:
        """The option as it is typed."""
        return f"--{self.option.replace('_', '-')}"


def parts_of(options: dict[str, Option], arguments: Sequence[str]) -> list[Part]:
    """The parts of a command. An option that is unknown takes nothing."""
    parts, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            parts.append(Part("", (word,)))
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        rest = [value, *rest] if equals else rest
        most = options.get(name, Option(0)).most
        words: list[str] = []
        while rest and (most is None or len(words) < most) and (equals or not rest[0].startswith("--")):
            words.append(rest.pop(0))
            equals = ""
        parts.append(Part(name, tuple(words)))
    return parts


def with_lists_joined(command: Callable[..., Any], arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--tag a --tag b`` as ``--tag a b``: tyro would keep the last one only."""
    options = options_of(command)
    parts = parts_of(options, arguments)
    names = [part.option for part in parts]
    repeated = {n for n in names if names.count(n) > 1 and options.get(n, Option()).is_list}
    if not repeated:
        return list(arguments)
    words: list[str] = []
    for place, part in enumerate(parts):
        if part.option in repeated:
            if part.option not in names[:place]:
                words += [part.typed(), *(w for p in parts if p.option == part.option for w in p.words)]
        else:
            words += [part.typed(), *part.words] if part.option else part.words
    return words


def refuse_misread(verb: str, command: Callable[..., Any], arguments: Sequence[str], *, needs: bool) -> None:
    """Refuses words that do not fit the options and the places of the verb.

    ``needs``: whether a word that no option takes, such as ENV, is needed.

    Raises:
        ConfigError: names the option or the word.
    """
    options, places = options_of(command), places_of(command)
    parts = parts_of(options, arguments)
    for part in parts:
        if part.option in options:
            _check_value(part, options[part.option])
    free = [number for number, part in enumerate(parts) if not part.option]
    if places and not free:
        open_ended = [p for p in parts if p.words and options.get(p.option, Option()).most is None]
        _refuse_taken(places[0], [p for p in open_ended if needs or _is_run(verb, p.words[-1])])
    most = None if any(place.endswith("...") for place in places) else len(places)
    if most is not None and len(free) > most:
        _refuse_extra(verb, places, parts, free)


def _is_run(verb: str, word: str) -> bool:
    """Whether a word may be the folder without which ``poise resume`` takes the newest run."""
    return verb == "resume" and Path(word).is_dir()


def _check_value(part: Part, option: Option) -> None:
    if option.most == 1 and not part.words:
        raise ConfigError(f"{part.typed()}: needs a value")
    if option.number is None or part.words == ("None",):
        return
    try:
        NUMBERS[option.number](part.words[0])
    except ValueError as error:
        raise ConfigError(f"{part.typed()}: {error}") from error


def _refuse_taken(place: str, parts: Sequence[Part]) -> None:
    """Refuses a command whose ``place`` is empty because an option has taken its word."""
    if parts:
        took = ", ".join(map(repr, parts[-1].words))
        name, option = place.rstrip("."), parts[-1].typed()
        raise ConfigError(f"{name} is missing; {option} took {took}: write {name} before {option}")


def _refuse_extra(verb: str, places: Sequence[str], parts: Sequence[Part], free: Sequence[int]) -> None:
    """Refuses the first word that no option and no place takes."""
    number = free[len(places)]
    word, before = parts[number].words[0], parts[number - 1] if number else Part("", ())
    takes = f"poise {verb} takes one {places[0]}" if len(places) == 1 else f"poise {verb} takes no such word"
    if before.option:
        takes = f"{before.typed()} takes {'one value' if before.words else 'no value'}, and {takes}"
    if verb in SEVERAL:
        takes = f"{takes} (several: {SEVERAL[verb]})"
    raise ConfigError(f"{typed(word)}: one word too many: {takes}")


def options_of(command: Callable[..., Any]) -> dict[str, Option]:
    """The options of a verb, with underscores."""
    found: dict[str, Option] = {}
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if Positional in getattr(hints[name], "__metadata__", ()):
            continue
        if dataclasses.is_dataclass(parameter.default):
            found |= _of_record(parameter.default, "")
        else:
            found |= _of_field(name.rstrip("_"), hints[name])
    return found


def places_of(command: Callable[..., Any]) -> list[str]:
    """What a verb takes without an option, by its first name in the help: ``ENV``, ``RUN...``."""
    places = []
    hints = typing.get_type_hints(command, include_extras=True)
    for name in inspect.signature(command).parameters:
        marks = getattr(hints[name], "__metadata__", ())
        if Positional in marks:
            names = (getattr(mark, "metavar", None) for mark in marks)
            place = next((each for each in names if each), name.upper())
            is_list = typing.get_origin(typing.get_args(hints[name])[0]) is tuple
            places.append(f"{place.strip('[].').partition('|')[0]}{'...' if is_list else ''}")
    return places


def _of_record(record: Any, prefix: str) -> dict[str, Option]:
    found: dict[str, Option] = {}
    hints = typing.get_type_hints(type(record), include_extras=True)
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            found |= _of_record(value, f"{prefix}{field.name}.")
        else:
            found |= _of_field(f"{prefix}{field.name}", hints[field.name])
    return found


def _of_field(name: str, hint: Any) -> dict[str, Option]:
    marks: list[Any] = []
    is_mixed = False  # whether it may be a number or text
    while typing.get_origin(hint) in (typing.Annotated, types.UnionType, typing.Union):
        marks += (about := getattr(hint, "__metadata__", ()))
        parts = typing.get_args(hint)[:1] if about else typing.get_args(hint)
        kinds = [part for part in parts if part is not types.NoneType]
        hint, is_mixed = kinds[0], is_mixed or len(kinds) > 1
    if hint is bool:
        group, dot, last = name.rpartition(".")
        return {name: Option(0), f"{group}{dot}no_{last}": Option(0)}
    is_tuple = typing.get_origin(hint) is tuple and UseAppendAction not in marks
    is_open = is_tuple or any(isinstance(m, PrimitiveConstructorSpec) and m.nargs == "*" for m in marks)
    number = hint if hint in NUMBERS and not is_mixed else None
    return {name: Option(None if is_open else 1, number, is_tuple and typing.get_args(hint)[0] is str)}
