"""Rules about observations: images, precision, the declared space, arrays that change later.

Each looks at every array of an observation by itself. A message names the array, unless it is all there is.
"""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
from jaxtyping import Shaped

from poise.algo.encoders import SMALL, image_size
from poise.envs.spaces import LEAST_GRAY_SIDE
from poise.health.findings import Finding
from poise.health.probing import Play
from poise.spec import Leaf, Path

LARGE_OBSERVATION = 10_000  # numbers above which a fully connected network is slow and large
LEVELS = 64  # an observed number with fewer distinct values in its range has lost its digits
WHOLE_FLOAT32 = 2.0**24  # from here on a float32 does not hold every whole number
FEWEST_ROWS = 20  # observations up to which nothing is said of numbers that do not change


def check_left_out(play: Play) -> Iterator[Finding]:
    """Everything that the environment observes can be read by a network."""
    for sentence in play.spec.left_out:
        yield Finding(
            "left-out",
            "note",
            sentence,
            "The agent learns from the rest of the observation alone.",
            "if the task needs it, observe it as a Box of numbers, Discrete, MultiDiscrete or MultiBinary",
        )


def check_images(play: Play) -> Iterator[Finding]:
    """Which observations are read as images, and whether the other ones have a moderate size."""
    for leaf in play.spec.images:
        height, width, _ = image_size(leaf)
        is_small = min(height, width) < SMALL
        kind = "small, two convolutions of 3 x 3" if is_small else "nature, the three convolutions of DQN"
        yield Finding(
            "observation-image",
            "note",
            f"{_subject(leaf)} is an image: {_sides(leaf)}, {play.space(leaf).dtype}",
            f"Convolutions read it ({kind}). They cost most of the time of a training.",
            "another encoder: --policy.images impala --value.images impala; if it is no image, flat",
        )
    if play.spec.obs_size > LARGE_OBSERVATION:
        yield _large(play)


def _large(play: Play) -> Finding:
    size, leaf = play.spec.obs_size, max(play.spec.obs, key=lambda leaf: leaf.width)
    if leaf.path:
        seen = f"an observation has {size:,} numbers, {leaf.width:,} of them for {leaf.name!r}"
    elif leaf.kind == "one_hot":
        seen = f"an observation has {size:,} values, of which each becomes a number"
    else:
        seen = f"an observation has {size:,} numbers ({_sides(leaf)})"
    fix = "observe fewer numbers: leave out those that do not change, or average over regions"
    if leaf.kind == "vector" and sum(n >= LEAST_GRAY_SIDE for n in leaf.shape) >= 2:
        fix += "; if it is an image, declare it as one, uint8 from 0 to 255: convolutions then read it"
    return Finding(
        "observation-large",
        "warning",
        seen,
        "The first layer of each network has a row of weights for each number. Each step of the training "
        "is slow.",
        fix,
    )


def check_returned_arrays(play: Play) -> Iterator[Finding]:
    """Arrays that were passed in or returned do not change later."""
    if play.obs_changed:
        leaves = [leaf for leaf in play.spec.obs if leaf.name in play.obs_changed]
        named = ", ".join(place("obs", leaf.path) for leaf in leaves if leaf.path)
        yield Finding(
            "observation-aliased",
            "warning",
            f"an array that step or reset had returned{named and f' ({named})'} was changed by the next step",
            "poise copies observations. Other programs that keep them would hold the last one many times.",
            "return a copy: self.state.copy()",
        )
    if play.action_changed:
        yield Finding(
            "action-changed",
            "warning",
            "step wrote into the array of the action",
            "A program that keeps its actions then has other actions than it chose.",
            "work on a copy: action = np.clip(action, low, high), not action *= ...",
        )


def check_declared_space(play: Play) -> Iterator[Finding]:
    """Observations have the dtype and the bounds of their space."""
    for leaf in play.spec.obs:
        if leaf.kind not in ("vector", "image"):
            continue  # checked at each step
        space, rows = play.space(leaf), [obs[leaf.name] for episode in play.episodes for obs in episode.obs]
        if isinstance(space, gym.spaces.Box) and rows[0].dtype != space.dtype:
            in_numpy = f"return np.asarray(obs, np.{space.dtype})"
            yield Finding(
                "observation-dtype",
                "note",
                f"observations{_quoted(leaf)} are {rows[0].dtype}, their space says {space.dtype}",
                "poise uses them as they are. Other programs may not.",
                play.advice(gymnasium=in_numpy, task=in_numpy, jax=f"return obs.astype(jnp.{space.dtype})"),
            )
        yield from _outside(leaf, space, rows)


def _outside(leaf: Leaf, space: gym.Space, rows: list[np.ndarray]) -> Iterator[Finding]:
    """The note about observations beyond the bounds of their space."""
    low, high = np.zeros(leaf.shape), np.ones(leaf.shape)  # of MultiBinary
    if isinstance(space, gym.spaces.Box):
        low, high = space.low, space.high
    outside = [obs for obs in rows if np.any(obs < low) or np.any(obs > high)]
    if outside:
        where = np.argwhere((outside[0] < low) | (outside[0] > high))[0].tolist()
        index = tuple(where)
        yield Finding(
            "outside-bounds",
            "note",
            f"{len(outside)} of {len(rows)} observations{_quoted(leaf)} were outside their space: "
            f"{place('obs', leaf.path)}{where} was {outside[0][index]:g}, declared {low[index]:g} to "
            f"{high[index]:g}",
            "poise normalizes by observed values, not by declared bounds. Other programs may use the bounds.",
            "widen the bounds of the observation space; where there is no bound, use -inf and inf",
        )


def check_observed_numbers(play: Play) -> Iterator[Finding]:
    """Each observed number changes, and keeps its digits in the dtype of the observation."""
    for leaf in play.spec.obs:
        rows = play.values(leaf)
        if len(rows) <= FEWEST_ROWS or leaf.kind == "mask":
            continue
        if leaf.kind == "image":
            yield from _constant_channels(leaf, rows)
        else:
            yield from _check_numbers(leaf, rows.reshape(len(rows), -1))


def _check_numbers(leaf: Leaf, rows: Shaped[np.ndarray, "steps numbers"]) -> Iterator[Finding]:
    values = rows.astype(float)
    spread, largest = np.ptp(values, axis=0), np.abs(values).max(axis=0)
    if rows.dtype in (np.float16, np.float32):
        spacing = np.spacing(largest.astype(rows.dtype)).astype(float)  # between neighboring values
        coarse = np.flatnonzero(
            np.where(spread > 0, spread / spacing < LEVELS, (spacing > 1) & (largest >= WHOLE_FLOAT32))
        )
        if len(coarse):
            yield _imprecise(leaf, rows.dtype, values, spacing, coarse)
            spread[coarse] = np.inf  # not reported again as constant
    constant = np.flatnonzero(spread == 0)
    if len(constant):
        where = f" in {leaf.name!r}" if leaf.path else ""
        yield _constant(
            f"{len(constant)} of {rows.shape[1]} observed numbers{where} never changed: "
            f"{list_places(constant)}",
            "leave such numbers out",
            normalized=leaf.kind == "vector",
        )


def _constant_channels(leaf: Leaf, rows: Shaped[np.ndarray, "steps ..."]) -> Iterator[Finding]:
    """The note about channels of an image, in none of which a pixel changed."""
    channels = rows[..., None] if leaf.channels is None else np.moveaxis(rows, leaf.channels + 1, -1)
    same = np.array([(channels[..., c] == channels[0, ..., c]).all() for c in range(channels.shape[-1])])
    constant = np.flatnonzero(same)
    if len(constant) == len(same):
        yield _constant(f"{_subject(leaf)} is an image that never changed", "leave it out")
    elif len(constant):
        image = f"image {leaf.name!r}" if leaf.path else "the image"
        yield _constant(
            f"{len(constant)} of {len(same)} channels of {image} never changed: {list_places(constant)}",
            "leave such channels out",
        )


def _constant(seen: str, fix: str, *, normalized: bool = True) -> Finding:
    meaning = "A constant number costs time and tells nothing."
    if normalized:
        meaning += " If it changes later, its normalized value is very large."
    return Finding("constant-observation", "note", seen, meaning, fix)


def _imprecise(
    leaf: Leaf, dtype: np.dtype, values: np.ndarray, spacing: np.ndarray, coarse: np.ndarray
) -> Finding:
    first, where = coarse[0], f" in {leaf.name!r}" if leaf.path else ""
    low, high = values[:, first].min(), values[:, first].max()
    return Finding(
        "observation-precision",
        "warning",
        f"observed number {list_places(coarse)}{where} lies between {low:,.10g} and {high:,.10g}, where "
        f"neighboring {dtype} values are {spacing[first]:g} apart",
        "Most of its digits are lost before the agent sees it.",
        "subtract a constant before the conversion (time since the start of the episode, distance to a "
        "nearby place), or observe float64",
    )


def list_places(places: np.ndarray) -> str:
    """Indices in words, at most ten of them."""
    return ", ".join(str(i) for i in places[:10]) + (", ..." if len(places) > 10 else "")


def place(root: str, path: Path) -> str:
    """As one writes it in Python: ``obs['arm'][0]``."""
    return root + "".join(f"[{key!r}]" for key in path)


def _quoted(leaf: Leaf) -> str:
    """The name of an array after a noun; nothing if it is the whole observation."""
    return f" {leaf.name!r}" if leaf.path else ""


def _subject(leaf: Leaf) -> str:
    return f"observation {leaf.name!r}" if leaf.path else "an observation"


def _sides(leaf: Leaf) -> str:
    return " x ".join(str(n) for n in leaf.shape) or "1"
