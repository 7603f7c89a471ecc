"""Settings in a file: YAML, JSON, TOML, or the ``config.json`` of a run. ``poise train ENV --config FILE``.

    env: HalfCheetah-v5          # may be left out, and named on the command line
    env_kwargs: {forward_reward_weight: 2.0}
    wrappers: [gymnasium.wrappers:ClipReward(min_reward=-1)]
    total_steps: 1M
    ppo:
      clip: 0.1
      minibatch_size: 256
    policy: {hidden: 256x256, activation: relu}
    checkpoint_every: 50_000     # an option that does not change what is learned

The names are those of the command. ``ppo.clip: 0.1`` and ``num-envs: 8`` are read as well. Reading a file
executes nothing.
"""

import contextlib
import dataclasses
import json
import re
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from poise.checked import ConfigError, checked_value, shown, unchecked
from poise.config import BESIDE, START_PARTS, Config
from poise.envs.forms.text import combine, parse
from poise.envs.naming import reaches_outside
from poise.envs.vector import EnvError
from poise.runs.options import Options
from poise.settings.names import instead
from poise.settings.sb3 import SB3
from poise.store.files import FileError, parse_json, read_plain
from poise.wording import parse_count

LARGEST = 2**18  # bytes of a file
MOST = 1_000  # options in it
DEEPEST = 4  # groups within each other
SUFFIXES = (".yaml", ".yml", ".json", ".toml")
TAG = "tag:yaml.org,2002:"
NUMBERS = {
    f"{TAG}int": re.compile(r"[-+]?(0|[1-9][0-9_]*)\Z"),
    f"{TAG}float": re.compile(
        r"[-+]?((?=.*[.eE])(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))\Z"
        r"|\.(nan|NaN|NAN)\Z"
    ),
}
WORLD = "env", "env_kwargs", "wrappers"
NAMED: dict[str, Mapping[str, Any]] = {"sb3": SB3}


@dataclass(frozen=True)
class Settings:
    """What a file sets. All other options keep the value that they have without it.

    Attributes:
        source: the file, for messages.
        env: the environment that it names.
        env_kwargs: the arguments of its constructor.
        wrappers: around it, from the innermost on.
        config: fields of ``Config``, by their dotted names.
        options: fields of ``Options``.
        followed: fields of ``Config`` that are those of the agent from which the training starts, unless
            the file or another option sets them.
        is_run: whether the file is in the folder of a run.
    """

    source: str = ""
    env: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    followed: Mapping[str, Any] = field(default_factory=dict)
    is_run: bool = False

    def world(self, given: "Given", repeat: Callable[[str], str]) -> str:
        """The text of the environment that the file, and what is given beside it, name together.

        Arguments that are given override those of the file; wrappers that are given replace them.

        Args:
            repeat: the end of a sentence that says how to repeat the environment.

        Raises:
            ConfigError: the file alone names a module, or none of both names an environment.
        """
        env = given.env or self.env
        if env is None:
            unnamed = (
                f"{self.source} names no environment" if self.source else "name an environment or a preset"
            )
            raise ConfigError(f"env: is missing; {unnamed}")
        own = parse(given.env or "")
        around = () if given.wrappers or own.wrappers else self.wrappers
        rest = {
            name: v for name, v in self.env_kwargs.items() if name not in {**own.env.kwargs, **given.kwargs}
        }
        text = combine(combine(env, rest, around, below=True), given.kwargs, given.wrappers)
        alone = combine("it" if given.env else env, rest, around)
        if why := reaches_outside(alone):
            raise ConfigError(f"{self.source}: its env {text!r} {why}{repeat(text)}")
        return text

    def refuse_curriculum(self, given: Collection[str], repeat: Callable[[str], str]) -> None:
        """Refuses to import the module of a curriculum that the file alone names.

        Args:
            given: the options that are given beside the file.
            repeat: the end of a sentence that says how to give it.

        Raises:
            ConfigError: the file names one, and neither another one nor None is given.
        """
        name = self.config.get("curriculum")
        if name is not None and "curriculum" not in given:
            raise ConfigError(
                f"{self.source}: its curriculum {name!r} names a Python module; to import and run it"
                f"{repeat(name)}"
            )

    def refuse_paths(self, given: Collection[str], repeat: Callable[[str, str], str]) -> None:
        """Refuses to read another folder or file that a run's folder alone names.

        Args:
            given: the options that are given beside it.
            repeat: the end of a sentence that says how to give one, by its name and value.

        Raises:
            ConfigError: it names one that is not given.
        """
        for name in ("start_from", "demonstrations"):
            value = self.config.get(name)
            if self.is_run and value is not None and name not in given:
                raise ConfigError(
                    f"{self.source}: its {name} is {value!r:.200}; to read that, give it as well"
                    f"{repeat(name, value)}"
                )

    def over(self, config: Config) -> Config:
        """The configuration with what the file sets; options that it does not go together with may follow."""
        return unchecked(config, {**self.followed, **self.config})

    def options_over(self, options: Options) -> Options:
        """The options with what the file sets, as ``over``."""
        return unchecked(options, self.options)

    def starting_from(self, given: Mapping[str, Any]) -> "Settings":
        """These settings for a training that starts from an agent, or from none.

        ``given``: the options that are given beside the file, ``start_from`` and ``start_parts`` among them.
        Those that are not given are the file's. None as ``start_from`` is given: no agent.

        Raises:
            CheckpointError: there is no agent.
            ConfigError: there is no such part.
        """
        run = given.get("start_from", self.config.get("start_from"))
        if run is None:
            return self._without_agent()
        from poise.runs.starting.source import followed  # loads JAX

        parts = given.get("start_parts", self.config.get("start_parts", START_PARTS))
        parts = tuple(parts) if isinstance(parts, list) else parts
        return dataclasses.replace(self, followed=followed(run, Config(start_parts=parts).start_parts))

    def _without_agent(self) -> "Settings":
        """These settings without the agent from which the file starts, and what the file says about it."""
        if self.config.get("start_from") is None:
            return self
        of_agent = ("start_from", "start_parts", "start_sum")
        rest = {name: value for name, value in self.config.items() if name not in of_agent}
        return dataclasses.replace(self, config=rest)

    def refuse_networks(self, given: Collection[str]) -> None:
        """Refuses to import the module of a network that the file, or the agent of the start, alone names.

        ``given``: the options that are given beside the file.

        Raises:
            ConfigError: names what has to be repeated.
        """
        for option in ("policy.network", "value.network"):
            name = {**self.followed, **self.config}.get(option)
            if name is not None and option not in given:
                group, field = option.split(".")
                raise ConfigError(
                    f"{self.source or 'start_from'}: its {option} {name!r} names a Python module; to import "
                    f"and run it, give the name as well: --{option} {name} (in Python: {group}={{{field!r}: "
                    f"{name!r}}})"
                )


@dataclass(frozen=True)
class Given:
    """What is given beside a file: the environment, arguments of its constructor, wrappers around it."""

    env: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()


NOTHING = Settings()


def read_settings(source: str) -> Settings:
    """The settings of a file, of a run folder, or those with the name ``source`` (``sb3``).

    Raises:
        ConfigError: there is no such file, it is not YAML, JSON or TOML, or it has an option that poise does
            not have, or one twice, or with a wrong value. The message names file and option.
    """
    if source in NAMED:
        return Settings(source, config=NAMED[source])
    path, is_run = Path(source), Path(source).is_dir()
    if is_run:
        path /= "config.json"
    with _named(str(path)):
        data = dict(load_data(path))
        world = _world_of(data)
        found = _flat(data, "")
        config, options = {}, {}
        for name, value in found.items():
            of_config, hint = _hints().get(name, (None, None))
            if hint is None:
                raise ConfigError(f"{name}: no such option{instead(name, {*_hints(), *WORLD}, 'file')}")
            (config if of_config else options)[name] = checked_value(name, hint, _read(hint, value))
        if is_run:
            if strange := sorted(options.keys() - set(BESIDE)):
                raise ConfigError(f"{strange[0]}: is not a setting that a run keeps")
            options.pop("together", None)  # how many seeds shared a program is not a setting of this one
        return Settings(str(path), *world, config, options, is_run=is_run)
    raise AssertionError


def _world_of(data: dict[str, Any]) -> tuple[str | None, Mapping[str, Any], tuple[str, ...]]:
    """Takes the environment, its arguments and its wrappers out of the content of a file.

    Raises:
        ConfigError: one of them is something else.
    """
    env, wrappers = data.pop("env", None), data.pop("wrappers", None)
    kwargs = data.pop("env_kwargs", None) or data.pop("env-kwargs", None)
    if not isinstance(env, str | None):
        raise ConfigError(f"env = {shown(env)}: must be the name of an environment")
    if not isinstance(kwargs, Mapping | None):
        raise ConfigError(f"env_kwargs = {shown(kwargs)}: must be arguments with values, as in gravity: -5")
    wrappers = [wrappers] if isinstance(wrappers, str) else wrappers or []
    if not isinstance(wrappers, list) or not all(isinstance(wrapper, str) for wrapper in wrappers):
        raise ConfigError(f"wrappers = {shown(wrappers)}: must be a list of names, as in my_envs:Clip")
    try:
        parse(combine(env or "", kwargs or {}, wrappers))
    except EnvError as error:
        raise ConfigError(str(error)) from error
    return env, kwargs or {}, tuple(wrappers)


def load_data(path: Path) -> Mapping[str, Any]:
    """The content of a YAML, JSON or TOML file, an object.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    if path.suffix not in SUFFIXES:
        known = ", ".join(NAMED)
        raise ConfigError(f"must be a file ({', '.join(SUFFIXES)}), the folder of a run, or one of: {known}")
    try:
        text = read_plain(path, LARGEST).decode("utf-8-sig")
        match path.suffix:
            case ".json":
                data = parse_json(text)  # which limits its size and depth
                json.loads(text, object_pairs_hook=_once)
            case ".toml":
                data = tomllib.loads(text)
            case _:
                data = _load_yaml(text)
    except FileError as error:
        raise ConfigError(str(error).removeprefix(f"{path}: ")) from error
    except RecursionError as error:
        raise ConfigError("cannot be read: too many groups within each other") from error
    except ValueError as error:
        raise ConfigError(f"cannot be read: {' '.join(str(error).split()):.300}") from error
    if not isinstance(data, Mapping):
        raise ConfigError("must be a list of options with values, as in ppo.clip: 0.1")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises ValueError if a name appears twice."""
    counts = Counter(name for name, _ in pairs)
    if twice := next((name for name, count in counts.items() if count > 1), None):
        raise ValueError(f"{twice:.100} appears twice")
    return dict(pairs)


def _load_yaml(text: str) -> Any:
    """The content of a YAML file. A safe loader: it makes no objects."""
    import yaml  # takes a moment, and only files need it

    class Loader(yaml.SafeLoader):
        """Refuses a name that appears twice. Numbers are those of YAML 1.2: 010 and 1:30 are text."""

        yaml_implicit_resolvers: typing.ClassVar = {
            first: [(tag, NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key for key, _ in node.value if key.tag != f"{TAG}merge"]
            counts = Counter(key.value if isinstance(key.value, str) else "" for key in keys)
            if twice := next((name for name, count in counts.items() if name and count > 1), None):
                raise ValueError(f"{twice!s:.100} appears twice, line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except (
        yaml.YAMLError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:  # the others: of a tag such as !!int
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def _named(source: str) -> Iterator[None]:
    """Puts the name of a file before an error."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _flat(data: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """The options by their dotted names of today, with underscores."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}".replace("-", "_")
        name = Config.earlier.get(name, name)
        inner = {name: value}
        if isinstance(value, Mapping):
            if name.count(".") >= DEEPEST:
                raise ConfigError(f"{name:.100}: too many groups within each other")
            inner = _flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(part, list | Mapping) for part in value):
            raise ConfigError(f"{name:.100}: must be one value, or a list of values")
        for option in inner.keys() & found.keys():
            raise ConfigError(f"{option}: appears twice")
        found |= inner
        if len(found) > MOST:
            raise ConfigError(f"has more than {MOST:,} options")
    return found


def as_yaml(options: Mapping[str, Any], *comments: str) -> str:
    """Options by their dotted names as a file, under some comments."""
    import yaml

    order = [*WORLD, *_hints()]  # that of the help
    plain = {name: _plain(options[name]) for name in sorted(options, key=order.index)}
    text = yaml.safe_dump(nested(plain), sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {' '.join(comment.split())}\n" for comment in comments) + text.rstrip("\n")


def _plain(value: Any) -> Any:
    """A value as YAML has it."""
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options by their dotted names, in their groups."""
    data: dict[str, Any] = {}
    for name, value in options.items():
        group, dot, last = name.rpartition(".")
        (data.setdefault(group, {}) if dot else data)[last] = value
    return data


def option_names() -> set[str]:
    """Every option that a file may set, by its dotted name."""
    return set(_hints())


@cache
def _hints() -> dict[str, tuple[bool, Any]]:
    """Of each option that a file may set: whether it is a field of ``Config``, and its annotation."""
    return {**_fields(Config, "", True), **_fields(Options, "", False)}


def _fields(record: type, prefix: str, of_config: bool) -> dict[str, tuple[bool, Any]]:
    hints: dict[str, tuple[bool, Any]] = {}
    annotations = typing.get_type_hints(record, include_extras=True)
    for each in dataclasses.fields(record):
        hint = annotations[each.name]
        if dataclasses.is_dataclass(hint):
            hints |= _fields(typing.cast(type, hint), f"{prefix}{each.name}.", of_config)
        else:
            hints[prefix + each.name] = of_config, hint
    return hints


def _read(hint: Any, value: Any) -> Any:
    """A value with its type. A number may be text: YAML reads 100k and 1e6 so."""
    kinds = set(_kinds(hint))
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str) or value in kinds:
        return value
    if value == "None" and types.NoneType in kinds:
        return None
    if Path in kinds:
        return Path(value)
    with contextlib.suppress(ValueError):
        if float in kinds:
            return float(value)
        if int in kinds and tuple not in kinds:
            return parse_count(value)
    return value


def _kinds(hint: Any) -> Iterator[Any]:
    """The types and the fixed values that an annotation allows."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _kinds(arguments[0])
    elif origin is typing.Literal:
        yield from arguments
    elif origin in (types.UnionType, typing.Union):
        for argument in arguments:
            yield from _kinds(argument)
    else:
        yield origin or hint
