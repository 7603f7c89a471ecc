"""What is known of an environment and of its episodes, without importing JAX."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import DTypeLike

from poise.errors import PoiseError

WIDEST = 1e8  # range of an action dimension that can be meant

Backend = Literal["auto", "mujoco", "native", "gymnasium", "gymnasium-async"]  # what steps an environment


@dataclass(frozen=True)
class Spec:
    """What an agent must know of its environment: shapes, bounds and the time limit.

    Observations and continuous actions of any shape are flattened in C order between the
    environment and the networks. ``action_low`` and ``action_high`` are the environment's bounds,
    one per dimension. A discrete action has ``num_choices`` values from ``first_choice`` on.
    ``time_limit`` is in steps; None where episodes have no limit.
    """

    id: str
    obs_shape: tuple[int, ...]
    action_shape: tuple[int, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    num_choices: int | None = None
    first_choice: int = 0
    time_limit: int | None = None

    @property
    def discrete(self) -> bool:
        return self.num_choices is not None

    @property
    def scaled(self) -> tuple[bool, ...]:
        """Which dimensions of a continuous action have bounds that its [-1, 1] can be rescaled to.

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

    @property
    def obs_size(self) -> int:
        """Entries of one observation, O."""
        return math.prod(self.obs_shape)

    @property
    def action_size(self) -> int:
        """Dimensions of a continuous action, or choices of a discrete one, A."""
        return math.prod(self.action_shape) if self.num_choices is None else self.num_choices

    @property
    def dimensions(self) -> int:
        """Of a continuous action; 1 where one of several choices is taken."""
        return 1 if self.discrete else self.action_size

    def describe_action(self) -> str:
        """``5 choices``, or the shape of a continuous action: ``6``, ``2 x 3``."""
        if self.num_choices is not None:
            return f"{self.num_choices} choices"
        return " x ".join(map(str, self.action_shape))

    def zero_actions(self, *shape: int) -> Shaped[np.ndarray, "..."]:
        """Room for actions in the policy's units: int32 ``shape``, or float32 ``(*shape, A)``."""
        if self.discrete:
            return np.zeros(shape, np.int32)
        return np.zeros((*shape, self.action_size), np.float32)

    def draw_noise(
        self, rng: np.random.Generator, *shape: int, dtype: DTypeLike = np.float32
    ) -> Float[np.ndarray, "... A"]:
        """What makes a policy's output a sample, float32 ``(*shape, A)``: Gumbel noise for choices, otherwise
        standard normal noise that is drawn as ``dtype``.
        """
        shape = (*shape, self.action_size)
        noise = rng.gumbel(size=shape) if self.discrete else rng.standard_normal(shape, dtype)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return noise.astype(np.float32, copy=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: a bound that is infinite becomes None."""
        data = dataclasses.asdict(self)
        for name in ("action_low", "action_high"):
            data[name] = [v if math.isfinite(v) else None for v in data[name]]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Spec":
        """The spec that ``to_dict`` (or JSON made of it) describes.

        Raises:
            SpecError: names the first field that is missing or wrong.
        """
        try:
            limit, choices = data["time_limit"], data["num_choices"]
            spec = cls(
                id=str(data["id"]),
                obs_shape=tuple(_whole(n, 0) for n in data["obs_shape"]),
                action_shape=tuple(_whole(n, 0) for n in data["action_shape"]),
                action_low=tuple(-math.inf if v is None else float(v) for v in data["action_low"]),
                action_high=tuple(math.inf if v is None else float(v) for v in data["action_high"]),
                num_choices=None if choices is None else _whole(choices, 1),
                first_choice=_whole(data["first_choice"], None),
                time_limit=None if limit is None else _whole(limit, 1),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(f"spec: {error!r}") from error
        bounds = 0 if spec.discrete else spec.action_size
        if not len(spec.action_low) == len(spec.action_high) == bounds:
            raise SpecError(f"spec: action_low and action_high must have {bounds} entries")
        return spec


class SpecError(PoiseError):
    """A description of an environment that is not one."""


def _whole(value: Any, least: int | None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise ValueError(f"{value!r} is not a whole number" + (f" >= {least}" if least is not None else ""))
    return value


@dataclass(frozen=True)
class Episode:
    """One finished episode: raw return, length in steps, and the run's step at which it ended."""

    env: int
    index: int
    step: int
    episodic_return: float
    length: int
    terminated: bool
