"""Rules about the parts of an action, and about the masks of its choices."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from poise.health.findings import Finding
from poise.health.probing import STICKY, STICKY_STEPS, Mask, Play, first_difference
from poise.health.symptoms.observations import place
from poise.spec import MASK, Part, Spec

FEW_EPISODES, FEW_STEPS = 5, 20  # in which most parts of an action show their effect
COMPARED = 1000  # steps with other values of a part without any difference, from which on it is ignored
ENOUGH_COMPARED, MOST_PLAYED = 4000, 12_000  # such steps, and all steps, after which no more are played


@dataclass(frozen=True)
class _Unit:
    """A box or one choice of an action: its name, and its columns in the policy's row."""

    name: str
    columns: slice


def _units(spec: Spec) -> Iterator[_Unit]:
    """Of an action that has several; without those that leave nothing to choose."""
    start = 0
    for part in (*spec.boxes, *spec.choices):
        for index, columns in _own(part):
            at = slice(start + columns.start, start + columns.stop)
            yield _Unit(place("action", part.path) + index, at)
        start += part.num_columns


def _own(part: Part) -> Iterator[tuple[str, slice]]:
    """A box, or each choice of a part: its index, and its columns among those of the part."""
    if part.is_box and part.low != part.high:
        yield "", slice(0, part.num_columns)
    for number, size in enumerate(part.sizes):
        index = [int(i) for i in np.unravel_index(number, part.shape)] if part.shape else ""
        if size > 1:
            yield f"{index}", slice(number, number + 1)


def check_part_effect(play: Play) -> Iterator[Finding]:
    """Each part of the action has an effect: with other values of it alone, something else follows."""
    units = list(_units(play.spec))
    if len(units) < 2 or not play.repeatable:
        return
    ignored: dict[str, int] = {}
    some_matter = False  # otherwise the whole action is ignored
    with play.limit_time(play.seconds):
        for unit in units:
            with play.limit_time(2 * play.seconds / len(units)):
                steps = _compared(play, unit)
            some_matter |= steps is None
            if steps is not None and steps >= COMPARED:
                ignored[unit.name] = steps
    if ignored and some_matter:
        names = ", ".join([*ignored][:10]) + (", ..." if len(ignored) > 10 else "")
        yield Finding(
            "action-part-ignored",
            "warning",
            f"in {min(ignored.values()):,} steps, other values of {names} led to the same observations and "
            "rewards",
            "The agent explores what has no effect.",
            "use this part of the action in step, or leave it out of the action space",
        )


def _compared(play: Play, unit: _Unit) -> int | None:
    """Steps in which other values of one part of the action changed nothing; None if any had an effect."""
    changed, played = 0, 0
    few = play.random_episodes[:FEW_EPISODES]
    for number, episode in enumerate(itertools.chain(few, itertools.cycle(play.random_episodes))):
        others = _Others(play, episode.seed, unit.columns, number)
        limit = FEW_STEPS if number < len(few) else STICKY_STEPS
        other = play.play("part", episode.seed, others, limit=limit)
        if first_difference(episode, other) is not None:
            return None
        changed, played = changed + others.changed, played + other.length
        if changed >= ENOUGH_COMPARED or played >= MOST_PLAYED or play.time_is_up:
            break
    return changed


class _Others:
    """The random actions of an episode (``Play.random``) with other values in some columns.

    ``number``: decides the other values, which are kept for a while where it is odd. ``changed`` counts the
    steps in which they were others: a mask may leave no choice.
    """

    def __init__(self, play: Play, seed: int, columns: slice, number: int):
        self._play, self._columns = play, columns
        self._rng, self._other_rng = np.random.default_rng(seed), np.random.default_rng((seed, 2, number))
        self._repeat = STICKY if number % 2 else 0.0
        self._other: Any = None
        self.changed = 0

    def __call__(self, step: int, mask: Mask) -> Any:
        action = self._play.draw(self._rng, mask)
        if self._other is None or self._other_rng.random() > self._repeat:
            self._other = self._play.draw(self._other_rng, mask)
        other = self._play.allowed(self._other, mask)[self._columns]
        self.changed += not np.array_equal(action[self._columns], other)
        action[self._columns] = other
        return self._play.to_env(action, mask)


def check_masks(play: Play) -> Iterator[Finding]:
    """A mask forbids something at times."""
    if not play.spec.masked:
        return
    masks = np.stack([obs[MASK] for episode in play.episodes for obs in episode.obs])
    if masks.all():
        yield Finding(
            "mask-idle",
            "note",
            f"the {MASK} allowed everything in {len(masks):,} observations",
            "A mask that forbids nothing costs time and changes nothing.",
            "leave it out, or check that it is computed from the state after the step",
        )
