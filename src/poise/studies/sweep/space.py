"""The space that a sweep searches: the options, and the values of each."""

import dataclasses
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from poise.checked import SCHEDULES, ConfigError, flat
from poise.config import Config
from poise.spec import Spec
from poise.wording import parse_count, parse_layers

Scale = Literal["choice", "linear", "log", "horizon"]
FACTOR = 4  # learning rates, horizon and rollout: from a quarter of the default to 4 times the default
DEVIATION = (1 / 3, 2)  # times the default; with more, most actions lie at a bound
DIGITS = 4  # of a value drawn from a range, so that a command can be typed
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
    **dict.fromkeys(("ppo.anneal", "ppo.clip_schedule", "ppo.entropy_schedule"), SCHEDULES),
}
NEVER = {
    "seed": "the seeds of a trial follow from --seed and --seeds",
    "total_steps": "it is the budget",
    **dict.fromkeys(
        ("policy.network", "value.network", "curriculum", "start_from", "start_sum", "demonstrations"),
        "train once with each, and compare the runs with poise compare",
    ),
}


@dataclass(frozen=True)
class Dimension:
    """One option, and the values that are drawn for it.

    Attributes:
        name: of the option, dotted.
        scale: ``choice``: one of ``choices``. Otherwise a number from ``low`` to ``high``: ``linear`` or
            ``log``; with ``horizon``, 1/(1 - number) is drawn on a logarithmic scale.
        usual: the default.
    """

    name: str
    scale: Scale
    usual: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether the option is a whole number."""
        return _kind(self.name)[0] is int

    @property
    def label(self) -> str:
        """The name of the drawn quantity."""
        return f"{self.name}:horizon" if self.scale == "horizon" else self.name

    def drawn(self, value: Any) -> Any:
        """The drawn quantity that stands for a value of the option."""
        if self.scale == "horizon":
            return 1 / (1 - value)
        return _text(value) if isinstance(value, tuple) else value

    def option(self, drawn: Any) -> Any:
        """The value of the option for a drawn quantity."""
        if self.holds(self.usual) and drawn == self.drawn(self.usual):
            return self.usual  # exactly, without rounding
        if self.scale == "choice":
            return next(choice for choice in self.choices if self.drawn(choice) == drawn)
        if self.whole:
            return int(drawn)
        value = round(1 - 1 / drawn, 6) if self.scale == "horizon" else float(f"{drawn:.{DIGITS}g}")
        return min(max(value, self.low), self.high)

    def values(self) -> tuple[Any, ...]:
        """The choices, or both ends."""
        return self.choices or (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether this value of the option is in the space."""
        if self.scale == "choice":
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def words(self) -> str:
        """The dimension as the user writes it after ``--search``."""
        name = self.name.replace("_", "-")
        if self.scale == "choice":
            return f"{name}={','.join(_text(choice) for choice in self.choices)}"
        scale = "" if self.scale == "linear" else f":{self.scale}"
        return f"{name}={self.low:.6g}:{self.high:.6g}{scale}"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Dimension":
        """The dimension that ``to_dict``, or JSON made from it, describes.

        Raises:
            ConfigError, KeyError, TypeError, ValueError: the data does not describe a dimension.
        """
        scale, name = data["scale"], str(data["name"])
        _kind(name)
        if scale not in typing.get_args(Scale):
            raise ValueError(f"scale {scale!r:.60}")
        choices = tuple(tuple(c) if isinstance(c, list) else c for c in data["choices"])
        usual = tuple(data["usual"]) if isinstance(data["usual"], list) else data["usual"]
        number = int if _kind(name)[0] is int else float
        dimension = cls(name, scale, usual, choices, number(data["low"]), number(data["high"]))
        if not (choices if scale == "choice" else dimension.low < dimension.high):
            raise ValueError(f"{name}: no values")
        return dimension


Space = tuple[Dimension, ...]


def applied(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values of options, by dotted name.

    Raises:
        ConfigError: a value is invalid, or the values contradict each other.
    """
    data = config.to_dict()
    for name, value in values.items():
        group, _, last = _option(name).rpartition(".")
        (data[group] if group else data)[last] = value
    return Config.from_dict(data)


def make_space(words: Sequence[str], config: Config, spec: Spec) -> tuple[Config, Space]:
    """The configuration that all trials share, and the space that the ``words`` after ``--search`` describe.

    Without words it is the usual space: the options that matter according to docs/defaults.md, around their
    defaults for this budget and environment, without those that ``config`` sets. ``num_envs``,
    ``ppo.num_steps`` and ``ppo.minibatch_size`` become numbers, so that no trial derives its own.

    Raises:
        ConfigError: a word names an unknown option, invalid values, or an option that ``config`` sets; or
            nothing is left to search.
    """
    config.check_against(spec)
    settled = config.settled(spec)
    defaults = flat(Config().to_dict())
    fixed = {name for name, value in flat(config.to_dict()).items() if value != defaults[name]}
    num_steps, num_envs = config.shape
    ppo = dataclasses.replace(config.ppo, num_steps=num_steps, minibatch_size=config.minibatch_size)
    base = dataclasses.replace(config, num_envs=num_envs, ppo=ppo)
    if words:
        space = _searched(words, settled, spec, fixed)
        for dimension in space:
            _refuse_idle(dimension, base, space)
        return base, space
    space: Space = ()
    for name in USUAL:
        if name not in fixed and (dimension := _usual(name, settled, space)):
            space = (*space, dimension)
    if not space:
        raise ConfigError(
            "search: nothing is left to search: every option that is searched by default has a value; "
            "name other options with --search"
        )
    return base, space


def _refuse_idle(dimension: Dimension, base: Config, space: Space) -> None:
    """Refuses a dimension whose values have no effect, whatever one other dimension is.

    Raises:
        ConfigError: the reason for one of the values.
    """
    values = [value for value in dimension.values() if value != dimension.usual]
    beside = [{other.name: value} for other in space for value in other.values()]
    refused = [_idle(base, {**other, dimension.name: value}) for value in values for other in beside]
    if refused and None not in refused:
        raise ConfigError(f"search = '{dimension.name.replace('_', '-')}': {refused[0]}")


def _idle(base: Config, values: Mapping[str, Any]) -> str | None:
    """Why one of these values has no effect; None if each has one, or if they cannot be together."""
    try:
        config = applied(base, values)
    except ConfigError:
        return None
    try:
        config.refuse_idle()
    except ConfigError as error:
        return str(error)
    return None


def _usual(name: str, settled: Config, space: Space) -> Dimension | None:
    """The default range of an option; None if it has none. ``space``: the dimensions before it."""
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
    """The values that leave two iterations or more, and a rollout that holds the largest minibatch."""
    num_steps, num_envs = settled.shape
    (sizes, *_) = [d for d in space if d.name == "ppo.minibatch_size"] or [None]
    most = settled.minibatch_size if sizes is None else int(max((*sizes.choices, sizes.high)))
    wanted = [num_steps * 2**power / FACTOR for power in range(5)]
    rows = {int(n): int(n) * num_envs for n in wanted if n >= 1 and n == int(n)}
    return [
        n for n, size in rows.items() if n == num_steps or (most <= size and 2 * size <= settled.total_steps)
    ]


def _searched(words: Sequence[str], settled: Config, spec: Spec, fixed: Collection[str]) -> Space:
    """The space that the words describe, one option each."""
    parts = [word.partition("=") for word in words]
    # the minibatch first: the possible rollouts depend on it
    parts.sort(key=lambda part: not part[0].replace("-", "_").endswith("minibatch_size"))
    space: Space = ()
    for typed, equals, values in parts:
        name = _option(typed)
        _check_name(typed, name, fixed, space)
        dimension = _ranged(typed, name, values, settled) if equals else _usual(name, settled, space)
        if dimension is None:
            raise ConfigError(
                f"search = {typed!r}: has no default range; write {typed}=LOW:HIGH or {typed}=A,B,C"
            )
        for value in dimension.values():
            _check_value(name, value, settled, spec)
        space = (*space, dimension)
    order = [_option(part.partition("=")[0]) for part in words]
    return tuple(sorted(space, key=lambda dimension: order.index(dimension.name)))


def _option(typed: str) -> str:
    """The dotted name of an option, as typed or with the name that it had in an earlier version."""
    name = typed.replace("-", "_")
    return Config.earlier.get(name, name)


def _check_name(typed: str, name: str, fixed: Collection[str], space: Space) -> None:
    options = flat(Config().to_dict())
    if name in NEVER:
        raise ConfigError(f"search = {typed!r}: cannot be searched; {NEVER[name]}")
    if name not in options:
        import difflib

        near = [option.replace("_", "-") for option in difflib.get_close_matches(name, options, cutoff=0.5)]
        hint = f"; did you mean {' or '.join(near)}?" if near else "; poise train --help lists the options"
        raise ConfigError(f"search = {typed!r}: no such option{hint}")
    if name in fixed:
        raise ConfigError(f"search = {typed!r}: this option has a value as well; leave out one of the two")
    if name in {dimension.name for dimension in space}:
        raise ConfigError(f"search = {typed!r}: is named twice")


def _check_value(name: str, value: Any, settled: Config, spec: Spec) -> None:
    """Refuses values that the option cannot have. A trial checks whether they fit the other options."""
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
                f"search = '{typed}={text}': must be two or more networks, separated by commas; write the "
                f"layers of a network with x, as in {typed}=64x64,256"
            )
        if len(choices) < 2:
            raise ConfigError(f"search = '{typed}={text}': must be two or more values, or LOW:HIGH")
        return Dimension(name, "choice", usual, choices=choices)
    if kind not in (int, float):
        raise ConfigError(f"search = '{typed}={text}': is not a number; list the values: {typed}=A,B,C")
    low, high, *scales = text.split(":")
    scale = scales[0] if scales else "linear"
    if len(scales) > 1 or scale not in ("linear", "log", "horizon"):
        raise ConfigError(f"search = '{typed}={text}': must be LOW:HIGH, LOW:HIGH:log or LOW:HIGH:horizon")
    bounds = [_value(typed, name, part) for part in (low, high)]
    if None in bounds or not bounds[0] < bounds[1]:
        raise ConfigError(f"search = '{typed}={text}': LOW must be < HIGH")
    if scale == "log" and bounds[0] <= 0:
        raise ConfigError(f"search = '{typed}={text}': LOW must be > 0 with :log")
    if scale == "horizon" and (kind is int or not 0 <= bounds[0] < bounds[1] < 1):
        raise ConfigError(f"search = '{typed}={text}': must be >= 0 and < 1 with :horizon")
    return Dimension(name, typing.cast(Scale, scale), usual, low=bounds[0], high=bounds[1])


def _value(typed: str, name: str, text: str) -> Any:
    """The value of an option from its text."""
    kind, optional = _kind(name)
    if optional and text == "None":
        return None
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            if len(text) > 1 and text.startswith("0"):  # the end of 1,024
                raise ValueError(text)
            return parse_count(text)
        if kind is float:
            return float(text)
        if typing.get_origin(kind) is tuple:
            return parse_layers(text)
    except (ValueError, KeyError) as error:
        names = {bool: "true or false", int: "a whole number without commas", float: "a number"}
        must = names.get(kind, "layers such as 64x64")
        raise ConfigError(f"search = {typed!r}: {text!r} must be {must}") from error
    return text


def _kind(name: str) -> tuple[Any, bool]:
    """The type of an option, and whether it may be None.

    Raises:
        ConfigError: there is no option with this name.
    """
    group, _, last = _option(name).rpartition(".")
    record = getattr(Config(), group, None) if group else Config()
    fields = {f.name for f in dataclasses.fields(record)} if dataclasses.is_dataclass(record) else set()
    if last not in fields or dataclasses.is_dataclass(getattr(record, last)):
        raise ConfigError(f"search = {name!r}: no such option")
    return _bare(typing.get_type_hints(type(record), include_extras=True)[last])


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
