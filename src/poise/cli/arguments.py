"""Arguments that several verbs have, and the rules for tyro: how values are read and options described."""

import dataclasses
import os
import re
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import docstring_parser
from tyro.conf import FlagCreatePairsOff, Positional, arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    UnsupportedTypeAnnotationError,
)

from poise.checked import Checked
from poise.wording import parse_count, parse_layers

registry = ConstructorRegistry()
unset = arg(help_behavior_hint=lambda label: "" if label == "None" else f"(default: {label})")
"""For an option whose help says what happens without it."""

Json = Annotated[
    bool,
    arg(name="json", help="Print the result as JSON on standard output, all else on standard error."),
    FlagCreatePairsOff,
]
WhichAgent = Annotated[
    Literal["last", "best"],
    arg(help="The agent at the end of the training, or the one that scored best then."),
]
RunFolder = Annotated[
    Path,
    Positional,
    arg(metavar="RUN", help="The folder that poise train printed, or one of its checkpoints."),
]
RunFolders = Annotated[
    tuple[Path, ...],
    Positional,
    arg(metavar="RUN...", help="Folders of runs, seeds or experiments.", help_behavior_hint=""),
]
Env = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="Another environment with the same spaces. Where the run's own is of a module (module:Task), "
        "its name has to be repeated here.",
        help_behavior_hint="",
    ),
]
RunEnv = Annotated[
    str | None,
    arg(
        metavar="ENV",
        help="The run's own environment. Where that is of a module (module:Task), it has to be repeated: a "
        "folder alone never makes poise import one.",
        help_behavior_hint="",
    ),
]
Ray = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="[ADDRESS]",
        instance_from_str=lambda given: _address(given),
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [] if value is None else [value],
    ),
    arg(
        help="Work on a Ray cluster (extra cluster): the one at HOST:PORT, auto for that of this machine; "
        "without ADDRESS a local one is started and stopped again.",
        help_behavior_hint="",
    ),
]


def _address(given: list[str]) -> str:
    from poise.system.cluster import LOCAL, checked_address

    return checked_address(" ".join(given) or LOCAL) or LOCAL


def find_modules_here(env: str | None) -> None:
    """Has ``module:Task`` find a module beside the user, as ``python -m`` would."""
    if env and ":" in env:
        sys.path.insert(0, os.getcwd())


@registry.primitive_rule
def _count(info: Any) -> PrimitiveConstructorSpec[int] | None:
    """Every whole number on the command line may be written as 100k or 1e6."""
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda given: parse_count(given[0]),
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


@registry.primitive_rule
def _layers(info: Any) -> PrimitiveConstructorSpec[tuple[int, ...]] | None:
    """Layers are written in one word or in several: 64x64, 64,64 or 64 64."""
    (inner, *_) = (*typing.get_args(info.type), None)
    if info.type_origin is not tuple or getattr(inner, "__origin__", inner) is not int:  # Annotated[int, ...]
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="LAYERS",
        instance_from_str=lambda given: parse_layers(" ".join(given)),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: ["x".join(map(str, value))],
    )


@registry.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``INT`` in the help for a number that may be left out, where tyro would write ``{None}|INT``."""
    parts = typing.get_args(info.type)
    if info.type_origin not in (types.UnionType, typing.Union) or types.NoneType not in parts:
        return None
    rest: Any = typing.Union[tuple(part for part in parts if part is not types.NoneType)]  # noqa: UP007
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(rest, info.markers))
    if isinstance(inner, UnsupportedTypeAnnotationError) or inner.nargs != 1 or inner.choices:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=inner.metavar,
        instance_from_str=lambda given: None if given == ["None"] else inner.instance_from_str(given),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else inner.str_from_instance(value),
    )


@registry.struct_rule
def _record(info: Any) -> StructConstructorSpec | None:
    """Configuration and options: the docstring under a field is its help, in one paragraph."""
    if not (isinstance(info.type, type) and issubclass(info.type, Checked)):
        return None
    hints = typing.get_type_hints(info.type, include_extras=True)
    documented = docstring_parser.parse_from_object(info.type).params
    texts = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documented}
    default = info.default if isinstance(info.default, info.type) else info.type()
    fields = [
        _field(field.name, hints[field.name], getattr(default, field.name), texts.get(field.name, ""))
        for field in dataclasses.fields(typing.cast(Any, info.type))
    ]
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _field(name: str, hint: Any, default: Any, text: str) -> StructFieldSpec:
    """One option. What its text says of None is the default where that is None."""
    if dataclasses.is_dataclass(hint):
        return StructFieldSpec(name, typing.cast(type, hint), default)
    about, none = _split(text)
    if default is None and none:
        described = arg(help_behavior_hint=f"(default: {none})")
        return StructFieldSpec(name, typing.cast(type, Annotated[hint, described]), default, about)
    return StructFieldSpec(name, typing.cast(type, hint), default, text)


def _split(text: str) -> tuple[str, str]:
    """What an option is, and what None stands for ("" where it is not an option that may be None)."""
    match = re.fullmatch(r"(.+?)[;.] None: (.+?)\.?", text)
    return (f"{match[1]}.", match[2]) if match else (text, "")
