"""Rules about observations: images, precision, the declared space, arrays that change later."""

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
from jaxtyping import Shaped

from poise.health.findings import Finding
from poise.health.probing import Play

LARGE_OBSERVATION = 10_000  # numbers above which a fully connected network is slow and large
IMAGE_SIDE = 32  # an array of bytes with two sides at least this long is an image
LEVELS = 64  # an observed number with fewer distinct values in its range has lost its digits
WHOLE_FLOAT32 = 2.0**24  # from here on a float32 does not hold every whole number


def check_images(play: Play) -> Iterator[Finding]:
    """Observations are vectors of a moderate size: poise has no convolutional network."""
    size = play.spec.obs_size
    shape = " x ".join(str(n) for n in play.spec.obs_shape)
    if _is_image(play):
        yield Finding(
            "observation-image",
            "error" if size > LARGE_OBSERVATION else "warning",
            f"an observation is an image: {shape} bytes",
            f"poise has no convolutional network. It would treat the {size:,} pixels as unrelated numbers, "
            "which is slow and seldom learns.",
            "observe what the image shows as a few numbers (positions, speeds, counts), or use a library "
            "that has one",
        )
    elif size > LARGE_OBSERVATION:
        yield Finding(
            "observation-large",
            "warning",
            f"an observation has {size:,} numbers ({shape})",
            "The first layer of each network has a row of weights for each number. Each step of the training "
            "is slow.",
            "observe fewer numbers: leave out those that do not change, or average over regions",
        )


def _is_image(play: Play) -> bool:
    """Bytes in a rectangle. A small rectangle is a board or a view of tiles."""
    large = sum(n >= IMAGE_SIDE for n in play.spec.obs_shape) >= 2
    return large and play.env.observation_space.dtype == np.uint8


def check_returned_arrays(play: Play) -> Iterator[Finding]:
    """Arrays that were passed in or returned do not change later."""
    if play.obs_changed:
        yield Finding(
            "observation-aliased",
            "warning",
            "an array that step or reset had returned was changed by the next step",
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
    space = play.env.observation_space
    assert isinstance(space, gym.spaces.Box)
    rows = [obs for episode in play.episodes for obs in episode.obs]
    if rows[0].dtype != space.dtype:
        yield Finding(
            "observation-dtype",
            "note",
            f"observations are {rows[0].dtype}, their space says {space.dtype}",
            "poise uses them as they are. Other programs may not.",
            f"return np.asarray(obs, np.{space.dtype})",
        )
    outside = [obs for obs in rows if np.any(obs < space.low) or np.any(obs > space.high)]
    if outside:
        where = np.argwhere((outside[0] < space.low) | (outside[0] > space.high))[0].tolist()
        index = tuple(where)
        yield Finding(
            "outside-bounds",
            "note",
            f"{len(outside)} of {len(rows)} observations were outside their space: obs{where} was "
            f"{outside[0][index]:g}, declared {space.low[index]:g} to {space.high[index]:g}",
            "poise normalizes by observed values, not by declared bounds. Other programs may use the bounds.",
            "widen the bounds of the observation space; where there is no bound, use -inf and inf",
        )


def check_observed_numbers(play: Play) -> Iterator[Finding]:
    """Each observed number changes, and keeps its digits in the dtype of the observation."""
    rows = _stack(play)
    if len(rows) <= 20:
        return
    values = rows.astype(float)
    spread, largest = np.ptp(values, axis=0), np.abs(values).max(axis=0)
    if rows.dtype in (np.float16, np.float32):
        spacing = np.spacing(largest.astype(rows.dtype)).astype(float)  # between neighboring values
        coarse = np.flatnonzero(
            np.where(spread > 0, spread / spacing < LEVELS, (spacing > 1) & (largest >= WHOLE_FLOAT32))
        )
        if len(coarse):
            yield _imprecise(rows.dtype, values, spacing, coarse)
            spread[coarse] = np.inf  # not reported again as constant
    constant = np.flatnonzero(spread == 0)
    if len(constant) and not _is_image(play):
        yield Finding(
            "constant-observation",
            "note",
            f"{len(constant)} of {play.spec.obs_size} observed numbers never changed: "
            f"{list_places(constant)}",
            "A constant number costs time and tells nothing. If it changes later, its normalized value is "
            "very large.",
            "leave such numbers out",
        )


def _stack(play: Play) -> Shaped[np.ndarray, "steps O"]:
    rows = np.stack([obs for episode in play.episodes for obs in episode.obs])
    return rows.reshape(-1, play.spec.obs_size)


def _imprecise(dtype: np.dtype, values: np.ndarray, spacing: np.ndarray, coarse: np.ndarray) -> Finding:
    first = coarse[0]
    low, high = values[:, first].min(), values[:, first].max()
    return Finding(
        "observation-precision",
        "warning",
        f"observed number {list_places(coarse)} lies between {low:,.10g} and {high:,.10g}, where neighboring "
        f"{dtype} values are {spacing[first]:g} apart",
        "Most of its digits are lost before the agent sees it.",
        "subtract a constant before the conversion (time since the start of the episode, distance to a "
        "nearby place), or observe float64",
    )


def list_places(places: np.ndarray) -> str:
    """Indices in words, at most ten of them."""
    return ", ".join(str(i) for i in places[:10]) + (", ..." if len(places) > 10 else "")
