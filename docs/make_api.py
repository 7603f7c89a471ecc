"""Writes docs/api.md from the docstrings: python docs/make_api.py > docs/api.md"""

import dataclasses
import inspect
import textwrap
from collections.abc import Callable

import docstring_parser

import poise

ORDER = [
    "train",
    "resume",
    "session",
    "experiment",
    "sweep",
    "load",
    "compare",
    "check",
    "diff",
    "video",
    "diagnose",
    "report",
    "export",
    "iterations",
    "Start",
    "Stop",
    "StopAt",
    "make",
    "register",
    "Agent",
    "Distribution",
    "PlayedStep",
    "Run",
    "Experiment",
    "Scores",
    "Sweep",
    "Comparison",
    "Inspection",
    "Difference",
    "Evaluation",
    "Options",
    "Config",
    "PPO",
    "Policy",
    "Value",
    "Normalize",
    "Progress",
    "CurriculumState",
    "Spec",
    "Task",
    "JaxEnv",
    "PoiseError",
    "PRESETS",
]


def main() -> None:
    print("# API\n")
    print("Everything in `poise`'s namespace, from its docstrings (`python docs/make_api.py`). What is not")
    print("here may change in any release. The command line is `poise --help`, and `poise VERB --help`.\n")
    print("Shapes: `T` steps of a rollout, `N` environments or rows, `O` observation size, `A` action size.")
    assert sorted(ORDER) == sorted(poise.__all__)
    for name in ORDER:
        print(*entry(name, getattr(poise, name)), sep="\n")


def entry(name: str, thing: object) -> list[str]:
    """Heading, signature, docstring; of a class its public methods, too."""
    if not callable(thing):
        return [f"\n## `{name}`\n", "The presets by name: `poise presets` lists them."]
    lines = [f"\n## `{name}`\n", *text(thing)]
    if not inspect.isclass(thing):
        return [lines[0], *signature(name, thing), *lines[1:]]
    if dataclasses.is_dataclass(thing):
        fields = [field for field in dataclasses.fields(thing) if not field.name.startswith("_")]
        about = {
            entry.arg_name: entry.description for entry in docstring_parser.parse_from_object(thing).params
        }
        texts = [" ".join((about.get(field.name) or "").split()) for field in fields]
        if any(texts):
            lines += [
                "",
                *(f"- `{f.name}`: {text}".removesuffix(": ") for f, text in zip(fields, texts, strict=True)),
            ]
        else:
            lines += ["", "Fields: " + ", ".join(f"`{field.name}`" for field in fields) + "."]
    for method, value in vars(thing).items():
        is_method = inspect.isfunction(value) or isinstance(value, classmethod)
        if method.startswith("_") or not is_method:
            continue
        function = value.__func__ if isinstance(value, classmethod) else value
        lines += [f"\n### `{name}.{method}`\n", *signature(method, function), *text(function)]
    return lines


def signature(name: str, function: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    plain = [
        p.replace(annotation=inspect.Parameter.empty) for p in parameters if p.name not in ("self", "cls")
    ]
    words, starred = [], False
    for p in plain:
        if p.kind is p.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        words.append(str(p))
    return [
        "```text",
        *textwrap.wrap(f"{name}({', '.join(words)})", 100, subsequent_indent="    "),
        "```",
        "",
    ]


def text(thing: object) -> list[str]:
    doc = inspect.getdoc(thing) or ""
    return ["```text", doc, "```"] if doc else []


if __name__ == "__main__":
    main()
