"""Arguments that several verbs have, and the rules for tyro: how values are read and options described."""

import dataclasses
import functools
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import docstring_parser
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    UnsupportedTypeAnnotationError,
)

from poise.checked import ConfigError
from poise.cli.everyday import about_group, shortened, shown
from poise.settings.files import NOTHING, Given, Settings
from poise.settings.presets import starting_point
from poise.system.terminal import typed
from poise.wording import parse_count, parse_layers, parse_number

registry = ConstructorRegistry()
unset = arg(help_behavior_hint=lambda label: "" if label == "None" else f"(default: {label})")
"""For an option whose help text describes its default."""

Json = Annotated[
    bool,
    arg(name="json", help="Print the result as JSON on standard output, everything else on standard error."),
    FlagCreatePairsOff,
]
WhichAgent = Annotated[
    Literal["last", "best"],
    arg(help="The agent at the end of the training, or the one with the best score at that time."),
]
RunFolder = Annotated[
    Path,
    Positional,
    arg(metavar="RUN", help="The run folder that poise train printed, or one of its checkpoints."),
]
RunFolders = Annotated[
    tuple[Path, ...],
    Positional,
    arg(
        metavar="RUN...",
        help="Folders of runs, or of several: of seeds, experiments or sweeps.",
        help_behavior_hint="",
    ),
]
Env = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="Another environment with the same spaces. If the run's environment comes from a module "
        "(module:Task), its name has to be repeated here.",
        help_behavior_hint="",
    ),
]
OwnNetwork = Annotated[
    tuple[str, ...],
    arg(
        metavar="MODULE:CLASS...",
        help="Networks of the run that are your own (policy.network, value.network), repeated: a folder "
        "alone never makes poise import a module.",
        help_behavior_hint="",
    ),
]
RunEnv = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="The environment of the run, repeated if it comes from a module (module:Task): a folder alone "
        "never makes poise import a module.",
        help_behavior_hint="",
    ),
]
ConfigFile = Annotated[
    str | None,
    arg(
        name="config",
        metavar="FILE|RUN|sb3",
        help="Settings from a file (.yaml, .json, .toml), a run folder, or sb3 (those of Stable-Baselines3); "
        "other options override them.",
        help_behavior_hint="",
    ),
]
Ray = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[ADDRESS]",
        instance_from_str=lambda words: _address(words),
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [] if value is None else [value],
    ),
    arg(
        help="Use a Ray cluster (extra cluster): ADDRESS is HOST:PORT, or auto for the one of this machine; "
        "without ADDRESS a local one is started, and stopped at the end.",
        help_behavior_hint="",
    ),
]


@dataclass(frozen=True, kw_only=True)
class EnvArguments:
    """Arguments of the environment, with the names that it has for them."""  # see ``with_env_arguments``

    prefix: ClassVar = "env."
    KEY: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="VALUE", help_behavior_hint="")] = ()
    """An argument of the environment's constructor, such as --env.gravity -5. It can be repeated."""


@dataclass(frozen=True, kw_only=True)
class World:
    """How the environment is made."""

    env: EnvArguments = EnvArguments()
    wrapper: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="MODULE:NAME", help_behavior_hint="")
    ] = ()
    """A wrapper of Gymnasium around the environment, such as gymnasium.wrappers:ClipReward or your own, with
    arguments as in 'my_envs:Clip(low=-1)'. It can be repeated; the first is the innermost."""

    def of(self, env: str | None, settings: Settings = NOTHING) -> str:
        """The text of the environment, with what ``settings`` have of it.

        Raises:
            ConfigError: the file alone names a module, or none of both names an environment.
            EnvError: an argument does not exist.
        """
        for text in (env, *self.wrapper):
            find_modules_here(text)

        def repeat(text: str) -> str:
            return f": {typed('poise', 'train', text, '--config', settings.source)}"

        given = Given(env, {}, self.wrapper)
        if self.env.KEY:
            from poise.envs.registry import read_arguments

            bare = Given(env, {word.partition("=")[0]: None for word in self.env.KEY}, self.wrapper)
            name = starting_point(settings.world(bare, repeat))[0]
            given = Given(env, read_arguments(name, self.env.KEY), self.wrapper)
        return settings.world(given, repeat)


@dataclass(frozen=True, kw_only=True)
class Source(World):
    """How the environment is made, and a file of settings."""

    config: ConfigFile = None


def with_env_arguments(words: Sequence[str]) -> list[str]:
    """The words of a command with ``--env.gravity -5`` as ``--env.KEY gravity=-5``.

    Raises:
        ConfigError: a value is missing.
    """
    written, rest = [], iter(words)
    for word in rest:
        match = re.fullmatch(r"--env\.([^=]+)(?:=(.*))?", word, re.DOTALL)
        if match is None:
            written.append(word)
            continue
        value = next(rest, "--") if match[2] is None else match[2]
        if match[2] is None and value.startswith("--"):
            raise ConfigError(f"{word}: needs a value, as in {word} true")
        written += ["--env.KEY", f"{match[1].replace('-', '_')}={value}"]
    return written


def _address(words: list[str]) -> str:
    from poise.system.cluster import LOCAL, checked_address

    return checked_address(" ".join(words) or LOCAL) or LOCAL


def find_modules_here(*names: str | Iterable[str | None] | None) -> None:
    """Lets ``module:Name`` import a module from the working directory, as ``python -m`` does."""
    from poise.envs.naming import names_module

    words = [word for each in names for word in ([each] if isinstance(each, str) else each or ())]
    if any(word and names_module(word) for word in words):
        sys.path.insert(0, os.getcwd())


@dataclass(frozen=True, kw_only=True)
class Named:
    """What of an agent the user names again, or names instead."""

    env: Env = None
    network: OwnNetwork = ()


@registry.primitive_rule
def _count(info: Any) -> PrimitiveConstructorSpec[int] | None:
    """Whole numbers may be written as 100k or 1e6."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: parse_count(words[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


@registry.primitive_rule
def _number(info: Any) -> PrimitiveConstructorSpec[float] | None:
    """So may other numbers: 500k."""
    if info.type is not float:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda words: parse_number(words[0]),
        is_instance=lambda value: isinstance(value, int | float),
        str_from_instance=lambda value: [str(value)],
    )


@registry.primitive_rule
def _layers(info: Any) -> PrimitiveConstructorSpec[tuple[int, ...]] | None:
    """Layers are written as one word or several: 64x64, 64,64 or 64 64."""
    (inner, *_) = (*typing.get_args(info.type), None)
    if info.type_origin is not tuple or getattr(inner, "__origin__", inner) is not int:  # Annotated[int, ...]
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="LAYERS",
        instance_from_str=lambda words: parse_layers(" ".join(words)),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: ["x".join(map(str, value))],
    )


@registry.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An option that may be None has the metavar ``INT`` in the help, where tyro writes ``{None}|INT``.

    Likewise one with choices: None may be typed, but is not listed.
    """
    parts = typing.get_args(info.type)
    if info.type_origin not in (types.UnionType, typing.Union) or types.NoneType not in parts:
        return None
    rest: Any = typing.Union[tuple(part for part in parts if part is not types.NoneType)]  # noqa: UP007
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(rest, info.markers))
    if isinstance(inner, UnsupportedTypeAnnotationError) or inner.nargs != 1:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(inner.choices)}}}" if inner.choices else inner.metavar,
        instance_from_str=lambda words: None if words == ["None"] else inner.instance_from_str(words),
        choices=inner.choices and (*inner.choices, "None"),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
    )


@registry.struct_rule
def _record(info: Any) -> StructConstructorSpec | None:
    """A record of options: the docstring under a field is its help, in one paragraph."""
    if not (isinstance(info.type, type) and dataclasses.is_dataclass(info.type)):
        return None
    if not info.type.__module__.startswith("poise."):  # tyro wraps the verbs in dataclasses of its own
        return None
    hints = typing.get_type_hints(info.type, include_extras=True)
    texts: dict[str, str] = {}
    for record in reversed(info.type.__mro__):  # a field may be that of a record above
        texts |= _documented(record) if dataclasses.is_dataclass(record) else {}
    default = info.default if isinstance(info.default, info.type) else info.type()
    prefix = getattr(info.type, "prefix", "")
    hints = {name: shown(f"{prefix}{name}", hint) for name, hint in hints.items()}
    fields = [
        _field(field, hints[field.name], getattr(default, field.name), texts.get(field.name, ""))
        for field in dataclasses.fields(typing.cast(Any, info.type))
    ]
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


@functools.cache
def _documented(record: type) -> dict[str, str]:
    """The docstring under each field. tyro asks for a record several times, and its source is parsed here."""
    documented = docstring_parser.parse_from_object(record).params
    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in documented}


def _field(field: dataclasses.Field[Any], hint: Any, default: Any, text: str) -> StructFieldSpec:
    """One option. Where its default is None, the words after "None:" in its text describe the default.

    The field may name a ``metavar`` in its metadata; its text then describes the default, too.
    """
    if dataclasses.is_dataclass(hint):
        return StructFieldSpec(field.name, typing.cast(type, hint), default, about_group())
    about, none = _split(text)
    about, none = shortened(about), shortened(none)
    if metavar := field.metadata.get("metavar"):
        hint, about = Annotated[hint, arg(metavar=metavar, help_behavior_hint="")], shortened(text)
    elif default is None and none:
        hint = Annotated[hint, arg(help_behavior_hint=f"(default: {none})")]
    else:
        about = shortened(text)
    return StructFieldSpec(field.name, typing.cast(type, hint), default, about)


def _split(text: str) -> tuple[str, str]:
    """The text about an option without its end "None: ...", and what that says ("" without it)."""
    match = re.fullmatch(r"(.+?)[;.] None: (.+?)\.?", text)
    return (f"{match[1]}.", match[2]) if match else (text, "")
