"""The options of a training as keywords of ``poise.train``: those of the command, from the same records."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from poise.checked import ConfigError, Place, as_path
from poise.config import PPO, Config, Normalize, Policy, Value
from poise.runs.options import FOLDERS, Options
from poise.settings.files import NOTHING, WORLD, Given, option_names, read_settings
from poise.settings.names import instead
from poise.settings.presets import changed, starting_point
from poise.spec import Backend

RECORDS = Options, Config  # the table: a field of one of these is an option
OF_CALLS = *WORLD, "config", "ray", "file"  # keywords of every function that trains, for hints
PLACES = *FOLDERS, "against"
LISTS = "tag", "search", "start_parts"  # a keyword may be any sequence, or a single text


class Keywords(TypedDict, total=False):
    """Every field of ``RECORDS``, for editors and type checkers. A test compares them."""

    backend: Backend
    device: Literal["auto", "cpu", "gpu"]
    matmul_precision: Literal["float32", "tf32", "bfloat16"]
    out: str | os.PathLike[str]
    run_dir: str | os.PathLike[str] | None
    evaluate: bool
    video: bool
    log_every: int
    checkpoint_every: int | None
    eval_every: int | None
    eval_episodes: int
    eval_max_steps: int | None
    eval_max_seconds: float | None
    stop_at: float | None
    max_seconds: float | None
    on_crash: Literal["stop", "restart"]
    env_timeout: float
    workers: int
    devices: int
    together: int | None
    compile_cache: bool
    name: str | None
    tag: Sequence[str]
    note: str | None
    total_steps: int
    seed: int
    num_envs: int | None
    env_groups: int
    history: int
    unused: Literal["refuse", "skip"]
    start_from: Place | None
    start_parts: Sequence[str]
    demonstrations: str | os.PathLike[str] | None
    demonstration_epochs: int
    start_sum: str | None
    curriculum: str | Callable[[Any], Mapping[str, Any]] | None
    ppo: PPO | Mapping[str, Any]
    policy: Policy | Mapping[str, Any]
    value: Value | Mapping[str, Any]
    normalize: Normalize | Mapping[str, Any]


USUAL = Options()
SEVERAL = Options(video=False)  # the usual options where there are several trainings


class Chosen(NamedTuple):
    """What keywords and a file have chosen for a training."""

    env: str
    config: Config
    options: Options


def choose(
    target: str | Given | None,
    file: Place | None,
    keywords: Mapping[str, Any],
    usual: Options = USUAL,
    beside: type | None = None,
) -> Chosen:
    """The training that is asked for. Keywords override the file, and the file overrides a preset.

    Args:
        target: the environment, or a preset, with arguments and wrappers; None: that of the file.
        file: as ``--config`` takes it, or what a training returned; None: none.
        keywords: of ``Keywords``. A group (``ppo``, ``policy``, ``value``, ``normalize``) is a record, which
            replaces it, or a mapping, which changes the fields that it names.
        usual: the options where neither keywords nor the file change them.
        beside: a record whose fields are keywords as well; they are not read here.

    Raises:
        ConfigError: an option is unknown or has a wrong value, or no environment is named.
    """
    known = names(beside)
    for name in _dotted(keywords):
        if Config.earlier.get(name, name) not in known:
            raise ConfigError(f"{name}: no such option{instead(name, {*known, *OF_CALLS}, 'python')}")
    settings = NOTHING if file is None else read_settings(str(as_path("config", file)))
    world = target if isinstance(target, Given) else Given(target)
    text = settings.world(world, lambda text: f", give the name as well: env={text!r}")
    given_names = {Config.earlier.get(name, name) for name in keywords}
    settings.refuse_curriculum(given_names, lambda name: f", give it as well: curriculum={name!r}")
    settings.refuse_paths(given_names, lambda name, value: f": {name}={value!r}")
    env, config = starting_point(text)
    given = fields_of(Config, keywords)
    settings = settings.starting_from(given)
    settings.refuse_networks(
        [f"{group}.network" for group, value in keywords.items() if _names_network(value)]
    )
    options = Options(**dataclasses.asdict(settings.options_over(usual)) | fields_of(Options, keywords))
    return Chosen(env, changed(settings.over(config), given), options)


def _dotted(keywords: Mapping[str, Any]) -> Iterator[str]:
    """The names of the keywords, and those in groups that are mappings, as in ppo={"clip": 0.1}."""
    groups = {name.partition(".")[0] for name in option_names() if "." in name}
    for name, value in keywords.items():
        yield name
        if name in groups and isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in value)


def _names_network(value: Any) -> bool:
    """Whether a keyword is a group of options with a network: a mapping that names it, or a record."""
    return "network" in value if isinstance(value, Mapping) else isinstance(value, Policy | Value)


def names(beside: type | None = None) -> set[str]:
    """Every keyword, and the options in groups by their dotted names. ``beside``: as of ``choose``."""
    records = RECORDS if beside is None else (beside, *RECORDS)
    return {field.name for record in records for field in dataclasses.fields(record)} | option_names()


def fields_of(record: type, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that are fields of ``record``, in its types."""
    fields = {field.name for field in dataclasses.fields(record)}
    given = {}
    for name, value in keywords.items():
        name = Config.earlier.get(name, name)
        if name in PLACES and value is not None:
            value = as_path(name, value)
        elif name == "start_from" and value is not None:
            value = str(as_path(name, value))
        elif name in LISTS and isinstance(value, Iterable) and not isinstance(value, str):
            value = tuple(value)
        elif name == "curriculum" and callable(value):
            from poise.training.starting.curriculum import name_of_function  # loads JAX

            value = name_of_function(value)
        if name in fields:
            given[name] = value
    return given


def with_keywords(
    function: Callable[..., Any], usual: Options = USUAL, beside: type | None = None
) -> Callable[..., Any]:
    """Shows every option with its default in the signature of a function with ``**settings``.

    ``usual``, ``beside``: as of ``choose``.
    """
    shown = inspect.signature(function)
    own = [p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD]
    records = [usual, Config()] if beside is None else [beside(), usual, Config()]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_shown(record, field.name))
        for record in records
        for field in dataclasses.fields(record)
    ]
    signature: Any = shown.replace(parameters=[*own, *options])
    function.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return function


def _shown(record: Any, name: str) -> Any:
    value = getattr(record, name)
    return str(value) if isinstance(value, Path) else value
