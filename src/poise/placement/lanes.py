"""Several trainings as the lanes of one program: it does for all of them what another does for one.

The last bits of a lane depend on the number of lanes, since that is a size of the program's products. They
depend neither on the place of the lane nor on what the others hold. So a program always has the same number
of lanes: where fewer trainings ask for something, copies of the first fill the others. A training that
resumes alone, beside copies of itself, has the bits that it would have had in company.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from poise.placement.fused import Iterate, run_iterations
from poise.types import Tensor

MOST = 1024  # rows that a call returns at most, of all lanes together


@dataclass(frozen=True)
class SideBySide:
    """``iterate`` for all lanes at once: its arrays have the axis of the lanes first, ``[K, ...]``."""

    iterate: Iterate

    def __call__(self, now: Any, given: Any, number: Any) -> tuple[Any, Any, Any]:
        return jax.vmap(self.iterate, in_axes=(0, 0, None))(now, given, number)


class Call:
    """Some iterations that have been given to the device, and their rows: ``[size, ...]``, or
    ``[size, K, ...]`` with several lanes."""

    def __init__(self, rows: PyTree[Array], size: int):
        self.rows, self.size = rows, size

    @cached_property
    def fetched(self) -> Any:
        """The rows in NumPy, copied once for all lanes. Waits for them."""
        return jax.tree.map(lambda x: x[: self.size], jax.device_get(self.rows))


@dataclass(frozen=True)
class Outcome:
    """What a call has led to in one lane. The arrays may not be computed yet."""

    call: Call
    lane: int | None  # None: the only one
    after: Any
    last: Any  # what is kept of the last iteration

    def rows(self) -> Any:
        """What is recorded of each iteration, ``[size, ...]``, in NumPy. Waits for it."""
        if self.lane is None:
            return self.call.fetched
        return jax.tree.map(lambda x: x[:, self.lane], self.call.fetched)


@dataclass(eq=False)
class Ticket:
    """What a training asks for: iterations from ``now`` on, ``count`` at most; and what came of it."""

    now: Any
    given: Any
    count: int
    outcome: Outcome | None = None
    error: Exception | None = None  # why there is none


class Lanes:
    """A program of ``count`` lanes. Trainings ask for iterations; one call is made for all that asked.

    With one lane, the program is that of a training alone. ``most``: iterations of a call at most.
    """

    def __init__(self, count: int):
        self.count, self.most = count, max(1, MOST // count)
        self._iterate: Iterate | None = None
        self._asked: list[Ticket] = []
        self._now, self._given = _Stack(), _Stack()

    def ask(self, now: Any, given: Any, count: int, *, iterate: Iterate) -> Ticket:
        """Adds what a training wants to the next call. All trainings do the same in an ``iterate``."""
        # that of the first: JAX would compile another one again
        self._iterate = self._iterate or (iterate if self.count == 1 else SideBySide(iterate))
        ticket = Ticket(now, given, count)
        self._asked.append(ticket)
        return ticket

    def outcome(self, ticket: Ticket) -> Outcome:
        """What was asked for. If it has not been started, everything that was asked for is. Never waits.

        The call has as many iterations as the least that a training asked for. If it fails, it fails for all.
        """
        if ticket.outcome is None and ticket.error is None:
            asked, self._asked = self._asked, []
            try:
                self._run(asked)
            except Exception as error:
                for each in asked:
                    each.error = error
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcome is not None
        return ticket.outcome

    def alone(self, now: Any, given: Any, count: int, *, iterate: Iterate) -> Outcome:
        """The iterations of one training, at once, without those that were asked for."""
        asked, self._asked = self._asked, []
        try:
            return self.outcome(self.ask(now, given, count, iterate=iterate))
        finally:
            self._asked = asked

    def _run(self, asked: Sequence[Ticket]) -> None:
        """Makes one call for all tickets, which are at most as many as there are lanes."""
        assert self._iterate is not None
        size = min(ticket.count for ticket in asked)
        run = partial(run_iterations, count=np.array(size, np.int32), iterate=self._iterate, most=self.most)
        if self.count == 1:
            (ticket,) = asked
            after, rows, last = run(ticket.now, ticket.given)
            ticket.outcome = Outcome(Call(rows, size), None, after, last)
            return
        filled = [*asked, *[asked[0]] * (self.count - len(asked))]
        now, given = self._now.of([t.now for t in filled]), self._given.of([t.given for t in filled])
        after, rows, last = run(now, given)
        call = Call(rows, size)
        for lane, ticket in enumerate(asked):
            ticket.outcome = Outcome(call, lane, *_lane((after, last), np.array(lane, np.int32)))
        self._now.keep([t.outcome.after for t in filled if t.outcome], after)


class _Stack:
    """The arrays of all lanes, stacked. Where the lanes bring the same ones again, they stay as they are."""

    def __init__(self) -> None:
        self._parts: list[tuple[Any, ...]] = []  # for each array, that of each lane
        self._wholes: list[Any] = []

    def of(self, trees: Sequence[PyTree]) -> PyTree:
        parts, structure = _parts(trees), jax.tree.structure(trees[0])
        if len(parts) != len(self._parts):
            self._parts, self._wholes = [()] * len(parts), [None] * len(parts)
        changed = [i for i, part in enumerate(parts) if not _same(part, self._parts[i])]
        on_device = [i for i in changed if isinstance(parts[i][0], jax.Array)]
        if on_device:
            for i, whole in zip(on_device, _stacked([parts[i] for i in on_device]), strict=True):
                self._wholes[i] = whole
        for i in set(changed) - set(on_device):
            self._wholes[i] = np.stack(parts[i])
        self._parts = parts
        return jax.tree.unflatten(structure, self._wholes)

    def keep(self, trees: Sequence[PyTree], whole: PyTree) -> None:
        """``whole`` is the stack of the trees."""
        self._parts, self._wholes = _parts(trees), jax.tree.leaves(whole)


def _parts(trees: Sequence[PyTree]) -> list[tuple[Any, ...]]:
    return list(zip(*map(jax.tree.leaves, trees), strict=True))


def _same(part: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(part) == len(other) and all(a is b for a, b in zip(part, other, strict=True))


@jax.jit
def _stacked(parts: Sequence[Sequence[Array]]) -> list[Array]:
    return [jnp.stack(part) for part in parts]


@jax.jit
def _lane(tree: PyTree[Array], lane: Int[Tensor, ""]) -> PyTree[Array]:
    return jax.tree.map(lambda x: x[lane], tree)
