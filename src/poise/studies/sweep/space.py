"""What a sweep searches: the options, and the values that each may have."""

import dataclasses
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from poise.checked import ConfigError, flat
from poise.config import Config
from poise.spec import Spec
from poise.wording import parse_count, parse_layers

Scale = Literal["choice", "linear", "log", "horizon"]
FACTOR = 4  # learning rates, horizon and rollout: from a 4th of the default to 4 times
DEVIATION = (1 / 3, 2)  # of the default; above that most actions lie at a bound
DIGITS = 4  # of what is drawn from a range, so that a command can be typed
USUAL = (
    "ppo.policy_learning_rate",
    "ppo.value_learning_rate",
    "ppo.gamma",
    "ppo.minibatch_size",
    "ppo.num_steps",
    "ppo.num_epochs",
    "ppo.lam",
    "ppo.clip",
    "policy.std_init",
)
CHOICES: dict[str, tuple[Any, ...]] = {
    "ppo.lam": (0.9, 0.95, 0.98),
    "ppo.clip": (0.1, 0.2, 0.3),
    "ppo.num_epochs": (5, 10, 20),
}
NEVER = {"seed": "the seeds of a trial follow from --seed and --seeds", "total_steps": "it is the budget"}


@dataclass(frozen=True)
class Dimension:
    """One option, and what is drawn for it.

    ``choice``: one of ``choices``. Otherwise a number from ``low`` to ``high``, on the scale named; on
    ``horizon`` it is 1/(1 - number) that is drawn, on a logarithmic scale. ``usual``: the default.
    """

    name: str
    scale: Scale
    usual: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return _kind(self.name)[0] is int

    @property
    def label(self) -> str:
        """The name of what is drawn."""
        return f"{self.name}:horizon" if self.scale == "horizon" else self.name

    def drawn(self, value: Any) -> Any:
        """What stands for a value of the option where it is drawn."""
        if self.scale == "horizon":
            return 1 / (1 - value)
        return _text(value) if isinstance(value, tuple) else value

    def option(self, drawn: Any) -> Any:
        """The value of the option that was drawn."""
        if self.holds(self.usual) and drawn == self.drawn(self.usual):
            return self.usual  # to the last bit
        if self.scale == "choice":
            return next(choice for choice in self.choices if self.drawn(choice) == drawn)
        if self.whole:
            return int(drawn)
        value = round(1 - 1 / drawn, 6) if self.scale == "horizon" else float(f"{drawn:.{DIGITS}g}")
        return min(max(value, self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether the option may have this value here."""
        if self.scale == "choice":
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def words(self) -> str:
        """As ``--search`` takes it."""
        name = self.name.replace("_", "-")
        if self.scale == "choice":
            return f"{name}={','.join(_text(choice) for choice in self.choices)}"
        scale = "" if self.scale == "linear" else f":{self.scale}"
        return f"{name}={self.low:.6g}:{self.high:.6g}{scale}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Dimension":
        """What ``to_dict`` (or JSON made of it) describes.

        Raises:
            ConfigError, KeyError, TypeError, ValueError: it describes none.
        """
        scale, name = data["scale"], str(data["name"])
        _kind(name)
        if scale not in typing.get_args(Scale):
            raise ValueError(f"scale {scale!r:.60}")
        choices = tuple(tuple(c) if isinstance(c, list) else c for c in data["choices"])
        usual = tuple(data["usual"]) if isinstance(data["usual"], list) else data["usual"]
        number = int if _kind(name)[0] is int else float
        found = cls(name, scale, usual, choices, number(data["low"]), number(data["high"]))
        if not (choices if scale == "choice" else found.low < found.high):
            raise ValueError(f"{name}: no values")
        return found


Space = tuple[Dimension, ...]


def applied(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these options, by dotted name.

    Raises:
        ConfigError: one has a value it cannot have, or they cannot be together.
    """
    data = config.to_dict()
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        (data[group] if group else data)[last] = value
    return Config.from_dict(data)


def make_space(words: Sequence[str], config: Config, spec: Spec) -> tuple[Config, Space]:
    """The configuration of each trial before anything is drawn, and what ``words`` have searched.

    Without words it is the usual space: what matters by docs/defaults.md, around the defaults of this budget
    in this environment, without the options that ``config`` gives. The rollout is held at its number.

    Raises:
        ConfigError: a word names no option, or values it cannot have, or one that is given as well; or
            nothing is left to search.
    """
    config.check_against(spec)
    settled = config.settled(spec)
    usual, mine = flat(Config().to_dict()), flat(config.to_dict())
    given = {name for name, value in mine.items() if value != usual[name]}
    num_steps, num_envs = config.shape
    ppo = dataclasses.replace(config.ppo, num_steps=num_steps, minibatch_size=config.minibatch_size)
    base = dataclasses.replace(config, num_envs=num_envs, ppo=ppo)
    if words:
        return base, _searched(words, settled, spec, given)
    space: Space = ()
    for name in USUAL:
        if name not in given and (found := _usual(name, settled, space)):
            space = (*space, found)
    if not space:
        raise ConfigError("search: every option that is searched by default is given; name others: --search")
    return base, space


def _usual(name: str, settled: Config, space: Space) -> Dimension | None:
    """The default range of an option; None where it has none. ``space``: what is searched already."""
    value = flat(settled.to_dict())[name]
    if name == "ppo.gamma" and value < 1:
        horizon = 1 / (1 - value)
        low, high = 1 - 1 / max(1.0, horizon / FACTOR), 1 - 1 / (FACTOR * horizon)
        return Dimension(name, "horizon", value, low=low, high=high)
    if name in ("ppo.policy_learning_rate", "ppo.value_learning_rate"):
        return Dimension(name, "log", value, low=value / FACTOR, high=value * FACTOR)
    if name == "policy.std_init" and value is not None:
        low, high = (value * factor for factor in DEVIATION)
        return Dimension(name, "log", value, low=low, high=high)
    choices: Collection[Any] = CHOICES.get(name, ())
    kind, _ = _kind(name)
    if name == "ppo.minibatch_size":
        size = settled.minibatch_size
        choices = [n for n in (size // 2, size, size * 2) if 2 <= n <= settled.rollout_size]
    elif name == "ppo.num_steps":
        choices = _num_steps(settled, space)
    elif kind is bool:
        choices = (True, False)
    elif typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
    if len(choices) < 2:
        return None
    return Dimension(name, "choice", value, choices=tuple(choices))


def _num_steps(settled: Config, space: Space) -> list[int]:
    """Those that leave two iterations, and a rollout that holds the largest minibatch."""
    num_steps, num_envs = settled.shape
    (sizes, *_) = [d for d in space if d.name == "ppo.minibatch_size"] or [None]
    most = settled.minibatch_size if sizes is None else int(max((*sizes.choices, sizes.high)))
    wanted = [num_steps * 2**power / FACTOR for power in range(5)]
    rows = {int(n): int(n) * num_envs for n in wanted if n >= 1 and n == int(n)}
    return [
        n for n, size in rows.items() if n == num_steps or (most <= size and 2 * size <= settled.total_steps)
    ]


def _searched(words: Sequence[str], settled: Config, spec: Spec, given: Collection[str]) -> Space:
    """What the words say, one option each."""
    parts = [word.partition("=") for word in words]
    # a minibatch first: which rollouts are possible depends on it
    parts.sort(key=lambda part: not part[0].replace("-", "_").endswith("minibatch_size"))
    space: Space = ()
    for typed, equals, values in parts:
        name = typed.replace("-", "_")
        _check_name(typed, name, given, space)
        made = _ranged(typed, name, values, settled) if equals else _usual(name, settled, space)
        if made is None:
            raise ConfigError(
                f"search = {typed!r}: it has no range of its own; write {typed}=LOW:HIGH or {typed}=A,B,C"
            )
        for value in made.choices or (made.low, made.high):
            _check_value(name, value, settled, spec)
        space = (*space, made)
    order = [part.partition("=")[0].replace("-", "_") for part in words]
    return tuple(sorted(space, key=lambda dimension: order.index(dimension.name)))


def _check_name(typed: str, name: str, given: Collection[str], space: Space) -> None:
    known = flat(Config().to_dict())
    if name in NEVER:
        raise ConfigError(f"search = {typed!r}: cannot be searched; {NEVER[name]}")
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; the nearest are {', '.join(near)}" if near else "; poise train --help lists them"
        raise ConfigError(f"search = {typed!r}: no such option{hint}")
    if name in given:
        raise ConfigError(f"search = {typed!r}: it is given with a value as well; leave out one of the two")
    if name in {dimension.name for dimension in space}:
        raise ConfigError(f"search = {typed!r}: it is named twice")


def _check_value(name: str, value: Any, settled: Config, spec: Spec) -> None:
    """Refuses what the option itself cannot have; what it cannot have beside another is seen in the trial."""
    group, _, last = name.rpartition(".")
    if group:
        fresh = type(getattr(settled, group))
        try:
            changed = fresh(**{last: value})
        except ConfigError as error:
            raise ConfigError(f"search: {error}") from error
        dataclasses.replace(Config(), **{group: changed}).check_against(spec)
    else:
        try:
            Config(total_steps=10**15, **{last: value})
        except ConfigError as error:
            raise ConfigError(f"search: {error}") from error


def _ranged(typed: str, name: str, text: str, settled: Config) -> Dimension:
    """``LOW:HIGH``, ``LOW:HIGH:log``, ``LOW:HIGH:horizon`` or ``A,B,C``."""
    kind, _ = _kind(name)
    usual = flat(settled.to_dict())[name]
    if ":" not in text:
        parts = re.split(r",(?![^\[(]*[\])])", text)  # not at a comma of [64,64]
        choices = tuple(dict.fromkeys(_value(typed, name, part) for part in parts))
        if len(choices) < 2 and typing.get_origin(kind) is tuple:
            raise ConfigError(
                f"search = '{typed}={text}': must be two networks or more with a comma between them; the "
                f"layers of one are written with x, as {typed}=64x64,256"
            )
        if len(choices) < 2:
            raise ConfigError(f"search = '{typed}={text}': must be two values or more, or LOW:HIGH")
        return Dimension(name, "choice", usual, choices=choices)
    if kind not in (int, float):
        raise ConfigError(f"search = '{typed}={text}': is no number; name its values: {typed}=A,B,C")
    low, high, *scales = text.split(":")
    scale = scales[0] if scales else "linear"
    if len(scales) > 1 or scale not in ("linear", "log", "horizon"):
        raise ConfigError(f"search = '{typed}={text}': must be LOW:HIGH, LOW:HIGH:log or LOW:HIGH:horizon")
    bounds = [_value(typed, name, part) for part in (low, high)]
    if None in bounds or not bounds[0] < bounds[1]:
        raise ConfigError(f"search = '{typed}={text}': LOW must be < HIGH")
    if scale == "log" and bounds[0] <= 0:
        raise ConfigError(f"search = '{typed}={text}': LOW must be > 0 on a logarithmic scale")
    if scale == "horizon" and (kind is int or not 0 <= bounds[0] < bounds[1] < 1):
        raise ConfigError(f"search = '{typed}={text}': must be >= 0 and < 1 on the scale of a horizon")
    return Dimension(name, typing.cast(Scale, scale), usual, low=bounds[0], high=bounds[1])


def _value(typed: str, name: str, text: str) -> Any:
    """A value as it was typed."""
    kind, optional = _kind(name)
    if optional and text == "None":
        return None
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            if len(text) > 1 and text.startswith("0"):  # of 1,024
                raise ValueError(text)
            return parse_count(text)
        if kind is float:
            return float(text)
        if typing.get_origin(kind) is tuple:
            return parse_layers(text)
    except (ValueError, KeyError) as error:
        names = {bool: "true or false", int: "a whole number without commas", float: "a number"}
        must = names.get(kind, "whole numbers with x between them, as 64x64")
        raise ConfigError(f"search = {typed!r}: {text!r} must be {must}") from error
    return text


def _kind(name: str) -> tuple[Any, bool]:
    """The type of an option, and whether it may be None.

    Raises:
        ConfigError: there is none of this name.
    """
    group, _, last = name.rpartition(".")
    hints = typing.get_type_hints(Config, include_extras=True)
    if group:
        hints = typing.get_type_hints(hints[group], include_extras=True) if group in hints else {}
    if last not in hints or last == "prefix" or dataclasses.is_dataclass(hints[last]):
        raise ConfigError(f"search = {name!r}: no such option")
    return _bare(hints[last])


def _bare(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) is Annotated:
        return _bare(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (inner, *_) = [part for part in typing.get_args(hint) if part is not types.NoneType]
        return _bare(inner)[0], True
    return hint, False


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else f"{value}"
