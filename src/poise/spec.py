"""What is known of an environment and of its episodes, without importing JAX."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import DTypeLike

from poise.errors import PoiseError

WIDEST = 1e8  # range of an action dimension that can be meant
MOST_CHOICES = 16  # of one part that are measured one by one
NUMBERS, MASK = "numbers", "action_mask"  # keys of an observation that has more than numbers

# what steps an environment
Backend = Literal["auto", "mujoco", "native", "mjx", "atari", "gymnasium", "gymnasium-async"]
IN_JAX = frozenset({"native", "mjx"})  # backends whose environments are compiled with the networks
Path = tuple[str | int, ...]  # keys of dictionaries and places in tuples, from the outside to an array


def usual_dtype(dtype: np.dtype) -> type[np.floating]:
    """The float type that keeps the digits of an observation: float32 if it has enough, otherwise float64."""
    narrow = dtype.itemsize < 4 or dtype == np.float32
    return np.float32 if narrow else np.float64


def joined(path: Path, alone: str) -> str:
    """A path as a name, ``agent.camera``; ``alone`` for the empty path."""
    return ".".join(map(str, path)) if path else alone


@dataclass(frozen=True)
class Leaf:
    """One array of an observation.

    Attributes:
        path: where it stands in the environment's observation; empty if it is all of it.
        kind: ``vector``: numbers, which are normalized. ``one_hot``: entries with a few values each
            (Discrete, MultiDiscrete), which the networks read as zeros and ones. ``image``: pixels. ``mask``:
            which choices of the action are allowed.
        shape: as the environment has it.
        sizes: of ``one_hot``: how many values each entry has.
        first: of ``one_hot``: the lowest value of each entry.
        low, high: of ``image``: the pixels that count as 0 and as 1.
        channels: of ``image``: the axis of the channels; None if it has two axes.
    """

    path: Path
    kind: Literal["vector", "one_hot", "image", "mask"]
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    first: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    channels: Literal[0, 2] | None = None

    @cached_property
    def name(self) -> str:
        return MASK if self.kind == "mask" else joined(self.path, "image" if self.kind == "image" else "obs")

    @property
    def width(self) -> int:
        """How many of the observation's numbers it gives; images and masks give none."""
        match self.kind:
            case "vector":
                return math.prod(self.shape)
            case "one_hot":
                return sum(self.sizes)
            case _:
                return 0

    def describe(self) -> str:
        """``6 numbers``, ``84 x 84 x 4 image, channels last``, ``4 values``."""
        match self.kind:
            case "one_hot":
                return " x ".join(map(str, self.sizes)) + " values"
            case "image":
                where = {0: ", channels first", 2: ", channels last", None: ""}[self.channels]
                return " x ".join(map(str, self.shape)) + f" image{where}"
            case "mask":
                return "which choices are allowed"
            case "vector":
                size = math.prod(self.shape)
                return f"{size} number{'s' * (size != 1)}"


@dataclass(frozen=True)
class Part:
    """One part of an action: a box of real numbers, or one or more choices.

    Attributes:
        path: where it stands in the environment's action; empty if it is all of it.
        shape: as the environment has it: ``()`` for Discrete.
        low, high: of a box: the environment's bounds, one per dimension, in C order.
        sizes: of choices: how many values each has. A bit of MultiBinary is a choice of two.
        first: of choices: the lowest value of each.
    """

    path: Path
    shape: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    first: tuple[int, ...] = ()

    @property
    def is_box(self) -> bool:
        return not self.sizes

    @property
    def name(self) -> str:
        return joined(self.path, "action")

    @property
    def num_columns(self) -> int:
        """Columns of a row of actions: one for each dimension or choice."""
        return len(self.low) or len(self.sizes)

    def describe(self) -> str:
        """``5 choices``, ``3 x 4 choices``, or the shape of a box: ``6``, ``2 x 3``."""
        if self.is_box:
            return " x ".join(map(str, self.shape)) or "1"
        if len(self.sizes) > 3 and len(set(self.sizes)) == 1:
            return f"{len(self.sizes)} times {self.sizes[0]} choices"
        return " x ".join(map(str, self.sizes)) + " choices"


class Piece(NamedTuple):
    """One box of an action, one choice, or all choices of a part that has more than ``MOST_CHOICES``.

    ``name``: empty if the action is one box or one choice without a name. ``columns``: of its dimensions or
    choices in a row of actions. ``values``: of its values among all logits; empty for a box. ``sizes``: how
    many values each of its choices has; empty for a box.
    """

    name: str
    columns: slice
    values: slice
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """What an agent must know of its environment: its spaces and the time limit.

    **Observations.** All vectors, flattened in C order, and all one-hot leaves stand side by side in one
    array of ``obs_size`` numbers. If there is nothing else, that array is the observation. Otherwise the
    observation is a dictionary: ``numbers``, each image under its name, and ``action_mask``.

    **Actions.** The boxes come first and then the choices, in one row. Where there is only one Discrete, the
    action is its index alone; where there are only choices, a row of indices; otherwise a row of float32,
    with choices as whole numbers. Choices count from 0.

    ``time_limit`` is in steps; None where episodes have no limit. ``left_out``: leaves of the environment's
    observation that no network can read, as a sentence each.
    """

    id: str
    obs: tuple[Leaf, ...]
    action: tuple[Part, ...]
    time_limit: int | None = None
    left_out: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @classmethod
    def flat(
        cls,
        id: str,
        obs_shape: tuple[int, ...],
        action_shape: tuple[int, ...] = (),
        action_low: tuple[float, ...] = (),
        action_high: tuple[float, ...] = (),
        *,
        num_choices: int | None = None,
        first_choice: int = 0,
        time_limit: int | None = None,
    ) -> "Spec":
        """Of an environment that observes one vector, and acts by one box or by one of ``num_choices``."""
        part = Part((), action_shape, action_low, action_high)
        if num_choices is not None:
            part = Part((), (), sizes=(num_choices,), first=(first_choice,))
        return cls(id, (Leaf((), "vector", obs_shape),), (part,), time_limit)

    @cached_property
    def obs_size(self) -> int:
        """Numbers of one observation, O: vectors and one-hot leaves, without images."""
        return sum(leaf.width for leaf in self.obs)

    @cached_property
    def images(self) -> tuple[Leaf, ...]:
        return tuple(leaf for leaf in self.obs if leaf.kind == "image")

    @cached_property
    def masked(self) -> bool:
        """Whether observations have a mask of the choices."""
        return any(leaf.kind == "mask" for leaf in self.obs)

    @cached_property
    def one_hot(self) -> Bool[np.ndarray, " O"]:
        """Which numbers of an observation are zeros and ones, and are not normalized."""
        return np.repeat([leaf.kind == "one_hot" for leaf in self.obs], [leaf.width for leaf in self.obs])

    def columns(self, name: str) -> slice:
        """The numbers of an observation that the leaf of this name gives."""
        start = 0
        for leaf in self.obs:
            if leaf.name == name:
                return slice(start, start + leaf.width)
            start += leaf.width
        raise SpecError(
            f"{self.id} has no observation {name!r}; it has {', '.join(x.name for x in self.obs)}"
        )

    @cached_property
    def boxes(self) -> tuple[Part, ...]:
        return tuple(part for part in self.action if part.is_box)

    @cached_property
    def choices(self) -> tuple[Part, ...]:
        return tuple(part for part in self.action if not part.is_box)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What an action is made of, by names such as ``aim``, ``pick``, ``moves/1``. Boxes come first."""
        found, column, value = [], 0, 0
        for part in (*self.boxes, *self.choices):
            separate = 1 < len(part.sizes) <= MOST_CHOICES
            for k, sizes in enumerate([(size,) for size in part.sizes] if separate else [part.sizes]):
                words = [*([part.name] if part.path else []), *([str(k)] if separate else [])]
                columns = slice(column, column + (len(sizes) or part.num_columns))
                values = slice(value, value + sum(sizes))
                found.append(Piece("/".join(words), columns, values, sizes))
                column, value = columns.stop, values.stop
        return tuple(found)

    @cached_property
    def action_low(self) -> tuple[float, ...]:
        """The environment's lower bound of each dimension of the boxes, [A]."""
        return tuple(bound for part in self.boxes for bound in part.low)

    @cached_property
    def action_high(self) -> tuple[float, ...]:
        return tuple(bound for part in self.boxes for bound in part.high)

    @cached_property
    def box_size(self) -> int:
        """Dimensions of all boxes, A."""
        return len(self.action_low)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many values each choice has, [K]."""
        return tuple(size for part in self.choices for size in part.sizes)

    @cached_property
    def num_logits(self) -> int:
        """Values of all choices together, M."""
        return sum(self.sizes)

    @property
    def noise_size(self) -> int:
        """Numbers that make a policy's output a sample: one for each dimension and each value of a choice."""
        return self.box_size + self.num_logits

    @property
    def dimensions(self) -> int:
        """Dimensions of the boxes and number of choices together, A + K."""
        return self.box_size + len(self.sizes)

    @cached_property
    def action_row(self) -> tuple[int, ...]:
        """The shape of one action in the policy's form: ``()`` for one Discrete, otherwise ``(A + K,)``."""
        alone = not self.boxes and len(self.action) == 1 and self.action[0].shape == ()
        return () if alone else (self.dimensions,)

    @cached_property
    def scaled(self) -> tuple[bool, ...]:
        """Which dimensions of the boxes have bounds that [-1, 1] can be rescaled to.

        A range that is infinite or wider than 1e8 (the largest float, often) stands for no bound.
        """
        return tuple(
            high - low <= WIDEST for low, high in zip(self.action_low, self.action_high, strict=True)
        )

    @property
    def float32_bounds(self) -> tuple[Float[np.ndarray, " A"], Float[np.ndarray, " A"]]:
        """The least and the largest float32 within the bounds of each dimension.

        A bound such as 0.1 lies between two float32. Rounded to the nearest, it would be outside of the space
        that declares it in float64. Where no float32 lies within, the least is above the largest.
        """
        low, high = np.array(self.action_low, float), np.array(self.action_high, float)
        infinite = np.float32(np.inf)
        with np.errstate(over="ignore"):
            inner_low, inner_high = low.astype(np.float32), high.astype(np.float32)
        inner_low = np.where(inner_low < low, np.nextafter(inner_low, infinite), inner_low)
        inner_high = np.where(inner_high > high, np.nextafter(inner_high, -infinite), inner_high)
        return inner_low, inner_high

    def describe_action(self) -> str:
        """``5 choices``, ``2 x 3``, or the parts: ``move (2), fire (3 choices)``."""
        if len(self.action) == 1 and not self.action[0].path:
            return self.action[0].describe()
        return ", ".join(f"{part.name} ({part.describe()})" for part in self.action)

    def describe_obs(self) -> str:
        """The shape of one vector, ``17``, or the leaves: ``pos (2 numbers), direction (4 values)``."""
        if len(self.obs) == 1 and self.obs[0].kind == "vector" and not self.obs[0].path:
            return " x ".join(map(str, self.obs[0].shape))
        return ", ".join(f"{leaf.name} ({leaf.describe()})" for leaf in self.obs)

    def problem_with(self, other: "Spec") -> str | None:
        """How the spaces of another environment differ from these, of an agent's training; None: not at all.

        Bounds of boxes may differ.
        """
        if other.obs != self.obs:
            here, trained = other.describe_obs(), self.describe_obs()
            return f"observations: {here}; the agent was trained with: {trained}"
        mine, others = ([(p.path, p.shape, p.sizes, p.first) for p in x.action] for x in (self, other))
        if mine != others:
            here, trained = other.describe_action(), self.describe_action()
            return f"actions: {here}; the agent was trained with: {trained}"
        return None

    def zero_actions(self, *shape: int) -> Shaped[np.ndarray, "..."]:
        """Room for actions in the policy's units: int32 if there are only choices, otherwise float32."""
        return np.zeros((*shape, *self.action_row), np.float32 if self.boxes else np.int32)

    def draw_noise(
        self, rng: np.random.Generator, *shape: int, dtype: DTypeLike = np.float32
    ) -> Float[np.ndarray, "... noise"]:
        """What makes a policy's output a sample, float32 ``(*shape, A + M)``: standard normal noise, drawn as
        ``dtype``, for the dimensions of boxes, then Gumbel noise for the values of choices.
        """
        normal, gumbel = (*shape, self.box_size), (*shape, self.num_logits)
        noise = []
        if self.boxes:
            noise.append(rng.standard_normal(normal, dtype).astype(np.float32, copy=False))  # pyright: ignore[reportCallIssue, reportArgumentType]
        if self.choices:
            noise.append(rng.gumbel(size=gumbel).astype(np.float32))
        return noise[0] if len(noise) == 1 else np.concatenate(noise, axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: a bound that is infinite becomes None."""
        return {
            "id": self.id,
            "obs": [dataclasses.asdict(leaf) for leaf in self.obs],
            "action": [_part_to_dict(part) for part in self.action],
            "time_limit": self.time_limit,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Spec":
        """The spec that ``to_dict`` (or JSON made of it) describes, also that of an earlier version.

        Raises:
            SpecError: names the first field that is missing or wrong.
        """
        try:
            limit = data["time_limit"]
            limit = None if limit is None else _whole(limit, 1)
            if "obs_shape" in data:  # of a version that had one vector, and one box or one choice
                return _earlier(data, limit)
            obs = tuple(_leaf(leaf) for leaf in data["obs"])
            spec = cls(str(data["id"]), obs, tuple(_part(part) for part in data["action"]), limit)
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"spec: {error!r}") from error
        if not spec.obs or not spec.action:
            raise SpecError("spec: observations and actions must have at least one array")
        return spec


class SpecError(PoiseError):
    """A description of an environment that is not one."""


def _part_to_dict(part: Part) -> dict[str, Any]:
    data = dataclasses.asdict(part)
    for name in ("low", "high"):
        data[name] = [v if math.isfinite(v) else None for v in data[name]]
    return data


def _earlier(data: Mapping[str, Any], limit: int | None) -> Spec:
    choices = data["num_choices"]
    low, high = _bounds(data["action_low"], -math.inf), _bounds(data["action_high"], math.inf)
    action_shape = tuple(_whole(n, 0) for n in data["action_shape"])
    spec = Spec.flat(
        str(data["id"]),
        tuple(_whole(n, 0) for n in data["obs_shape"]),
        action_shape,
        low,
        high,
        num_choices=None if choices is None else _whole(choices, 1),
        first_choice=_whole(data["first_choice"], None),
        time_limit=limit,
    )
    bounds = 0 if choices is not None else math.prod(action_shape)
    if not len(low) == len(high) == bounds:
        raise SpecError(f"spec: action_low and action_high must have {bounds} entries")
    return spec


def _leaf(data: Mapping[str, Any]) -> Leaf:
    kind, channels = data["kind"], data["channels"]
    if kind not in ("vector", "one_hot", "image", "mask") or channels not in (None, 0, 2):
        raise ValueError(f"kind {kind!r:.40}, channels {channels!r:.40}")
    shape = tuple(_whole(n, 0) for n in data["shape"])
    sizes = tuple(_whole(n, 1) for n in data["sizes"])
    first = tuple(_whole(n, None) for n in data["first"])
    if len(sizes) != len(first) or len(sizes) != (math.prod(shape) if kind == "one_hot" else 0):
        raise ValueError(f"sizes and first of shape {list(shape)}")
    if kind == "image" and len(shape) != (2 if channels is None else 3):
        raise ValueError(f"an image of shape {list(shape)}")
    low, high = float(data["low"]), float(data["high"])
    return Leaf(_path(data["path"]), kind, shape, sizes, first, low, high, channels)


def _part(data: Mapping[str, Any]) -> Part:
    shape = tuple(_whole(n, 0) for n in data["shape"])
    low, high = _bounds(data["low"], -math.inf), _bounds(data["high"], math.inf)
    sizes = tuple(_whole(n, 1) for n in data["sizes"])
    first = tuple(_whole(n, None) for n in data["first"])
    size = math.prod(shape)
    box, choices = (0, size) if sizes else (size, 0)
    if not (len(low) == len(high) == box and len(sizes) == len(first) == choices):
        raise ValueError(f"bounds or sizes of shape {list(shape)}")
    return Part(_path(data["path"]), shape, low, high, sizes, first)


def _bounds(values: Any, infinite: float) -> tuple[float, ...]:
    return tuple(infinite if value is None else float(value) for value in values)


def _path(keys: Any) -> Path:
    if not all(isinstance(key, str) or (isinstance(key, int) and key >= 0) for key in keys):
        raise ValueError(f"path {keys!r:.60}")
    return tuple(keys)


def _whole(value: Any, least: int | None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise ValueError(f"{value!r} is not a whole number" + (f" >= {least}" if least is not None else ""))
    return value


@dataclass(frozen=True)
class Episode:
    """One finished episode: raw return, length in steps, and the run's step at which it ended.

    ``info``: the numbers of the environment's infos by name: of rewards, costs and penalties the sum, of
    others the last value (``poise.envs.info``).
    """

    env: int
    index: int
    step: int
    episodic_return: float
    length: int
    terminated: bool
    info: Mapping[str, float] = dataclasses.field(default_factory=dict)
