"""Verbs and options that poise does not have, and the names that were probably meant."""

import dataclasses
import difflib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tyro.conf import Positional

from poise.checked import ConfigError, flat
from poise.config import Config
from poise.runs.options import Options
from poise.runs.peers.options import PeerOptions
from poise.settings.names import instead
from poise.studies.sweep.search import Search

VERBS = {
    "learn": "train",
    "fit": "train",
    "continue": "resume",
    "test": "evaluate",
    "play": "video",
    "film": "video",
    "record": "video",
    "tune": "sweep",
    "optimize": "sweep",
    "plot": "report",
    "list": "envs",
}
OF_A_RUN = {"resume", "evaluate", "video", "export", "doctor", "compare", "report", "diff"}  # verbs with RUN


def refuse_unknown_verb(verb: str, verbs: Collection[str]) -> None:
    """Refuses a verb that poise does not have, and suggests the verb that was probably meant.

    Raises:
        ConfigError: the verb is unknown.
    """
    if verb in verbs:
        return
    near = [VERBS[verb]] if verb in VERBS else difflib.get_close_matches(verb, verbs, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; the verbs are {', '.join(verbs)}"
    raise ConfigError(f"{verb}: no such verb{hint}\nall verbs: poise --help")


def as_typed(message: str, *, everywhere: bool) -> str:
    """The message of an error with the names of options as they are typed: ``ppo.clip`` as ``--ppo.clip``.

    At the start, where most messages name an option and its value; with ``everywhere`` also names in the
    middle that cannot be words of a sentence, because they have a group or an underscore. Quoted text, and
    what is said of values for ``--search``, stays as it is.
    """
    flags = {name for name, value in _defaults().items() if isinstance(value, bool)}

    def typed(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if name is None or name not in _defaults():
            return match[0]
        dashed = name.replace("_", "-")
        if name in flags and value is not None:
            group, dot, last = dashed.rpartition(".")
            return f"--{dashed}" if value == "True" else f"--{group}{dot}no-{last}"
        return f"--{dashed}" if value is None else f"--{dashed} = {value}"

    value = r"(?: = (?P<value>True|False)\b)?"
    message = re.sub(rf"^(?P<name>[a-z_.]+)(?= = |: ){value}", typed, message)
    if not everywhere or message.startswith("--search"):
        return message
    return re.sub(rf"'[^']*'|(?<![\w./-])(?P<name>[a-z]+[._][a-z_]+)(?![\w/(]){value}", typed, message)


@functools.cache
def _defaults() -> dict[str, Any]:
    """The default of each option that an error may name, with underscores."""
    records = (Search(), Options(), Config(), PeerOptions())
    names = {name: value for record in records for name, value in flat(dataclasses.asdict(record)).items()}
    return {**names, "rounds": 3}


def refuse_unknown(verb: str, command: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Refuses options that the verb does not have, and suggests the option that was probably meant.

    Raises:
        ConfigError: at least one option is unknown.
    """
    options, positionals = names_of(command)
    typed = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    unknown = [
        option
        for option in typed
        if option not in ("--", "--help", "--help-all") and _plain(option) not in options
    ]
    lines = []
    for option in dict.fromkeys(unknown):
        if _plain(option).rstrip("s") in {name.rstrip("s") for name in positionals}:
            lines.append(
                f"{option}: is not an option; write the value alone: poise {verb} {_plain(option).upper()}"
            )
        elif (meant := VERBS.get(_plain(option), _plain(option))) in OF_A_RUN:
            lines.append(f"{option}: is not an option of {verb} but a command: poise {meant} RUN")
        else:
            lines.append(f"{option}: no such option{instead(_plain(option), options)}")
    if lines:
        raise ConfigError("\n".join([*lines, f"all options: poise {verb} --help-all"]))


def with_usual_names(arguments: Sequence[str]) -> list[str]:
    """The arguments with each option as the help has it: with dashes, and today's name instead of an earlier
    one.

    ``--env.KEY`` stays as it is: KEY is a name of the environment.
    """
    words = []
    for word in arguments:
        option, equals, value = word.partition("=")
        if re.fullmatch(r"--(?!env\.)[\w.-]+", option):
            name = _plain(option)
            option = f"--{Config.earlier.get(name, name).replace('_', '-')}"
        words.append(f"{option}{equals}{value}")
    return words


def names_of(command: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The names of a verb's options and of its positional arguments, with underscores."""
    options: set[str] = set()
    positionals: set[str] = set()
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if Positional in getattr(hints[name], "__metadata__", ()):
            positionals.add(name)
        elif dataclasses.is_dataclass(parameter.default):
            options |= _fields(parameter.default, "")
        else:
            options |= _with_negation(name.rstrip("_"), parameter.default, "")
    return options, positionals


def _fields(record: Any, prefix: str) -> set[str]:
    names: set[str] = set()
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            names |= _fields(value, f"{prefix}{field.name}.")
        else:
            names |= _with_negation(field.name, value, prefix)
    return names


def _with_negation(name: str, default: Any, prefix: str) -> set[str]:
    no = {f"{prefix}no_{name}"} if isinstance(default, bool) and name != "json" else set()
    return {f"{prefix}{name}"} | no


def _plain(argument: str) -> str:
    return argument.removeprefix("--").replace("-", "_")
