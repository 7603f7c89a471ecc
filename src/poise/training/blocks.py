"""Blocks of iterations that are one compiled call, for environments in JAX on an accelerator or on several
devices.

A call takes about ``SECONDS``. What an iteration does is what ``Driver`` does in parts: collect, prepare,
learn, measure. If something became infinite or NaN, the call is repeated up to the iteration where that
happened, and the same checks as everywhere name it.
"""

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from poise.algo.groups import group_index, own_key, per_group
from poise.algo.hyperparameters import Hyperparameters, scheduled
from poise.algo.prepare import all_finite
from poise.algo.state import TrainState
from poise.algo.update import Measured, update
from poise.config import Config
from poise.errors import TrainingError
from poise.placement.joined import group_shuffles, is_shared, joined, joined_measures, joined_rows
from poise.placement.lanes import Call, Lanes, Outcome
from poise.placement.mesh import Layout
from poise.placement.two_devices import Ready
from poise.seeds import Stream, stream_key
from poise.spec import MASK, Spec
from poise.training.acting import ActionScale
from poise.training.clock import Clock, Instant
from poise.training.compiled import (
    Infos,
    Keys,
    NativeCollector,
    Numbers,
    Play,
    Playing,
    are_whole,
    play_rollout,
)
from poise.training.divergence import refuse_infinite
from poise.training.episodes import Counts, Ended, count_episodes
from poise.training.iteration import Progress, Row
from poise.training.measuring import Metrics, epoch_metrics, iteration_metrics, measure
from poise.types import PolicyEpochs, Rollout, Tensor

SECONDS = 1.0  # that a call takes: an interrupt waits for it
STOP = -1  # told in place of a number of iterations; 0 of them may be repeated


class Now(eqx.Module):
    """What an iteration changes."""

    state: TrainState
    playing: Playing
    counts: Counts


class Given(eqx.Module):
    """What the iterations of a call read. Other values compile nothing."""

    hyper: Hyperparameters  # with what is scheduled as in the first iteration
    scheduled: dict[str, Float[Tensor, " most"]]  # by ``scheduled``, of each iteration
    episode_key: PRNGKeyArray
    noise_key: PRNGKeyArray
    listing_key: PRNGKeyArray
    numbers: Numbers
    first: Int[Tensor, " N"] | None  # by ``first_lengths``


class Recorded(eqx.Module):
    """What is recorded of an iteration."""

    policy: PolicyEpochs
    value_loss: Float[Array, " E"]
    scalars: Metrics
    ended: Ended
    finite: Bool[Array, ""]  # everything: rollout, statistics, losses, networks; and no mask forbids all


class Last(eqx.Module):
    """What comes back from the device of the last iteration of a call."""

    rollout: Rollout
    measured: Measured


@dataclass(frozen=True)
class Iteration:
    """One iteration of all groups, as a pure function: what ``run_iterations`` repeats."""

    spec: Spec
    play: Play
    layout: Layout

    def __call__(self, now: Now, given: Given, number: Int[Tensor, ""]) -> tuple[Now, Recorded, Last]:
        own = {name: jnp.asarray(values)[number] for name, values in given.scheduled.items()}
        hyper = dataclasses.replace(given.hyper, **own)
        before, restart = now.state, (now.state.iteration == 0) | hyper.reset_every_rollout
        state, playing, rollout, info, measured = self._learn(now, given, hyper, restart)
        # measured beside the groups: it does not take part in learning
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as in NumPy
            scalars = measure(self.spec, self._scale, before, rollout, measured.prepared)
            counts, ended = self._count(now, given, rollout, info, restart)
        finite = self._is_finite(rollout, measured)
        scalars = {name: x for name, x in scalars.items() if x is not None}
        recorded = Recorded(measured.policy, measured.value_loss, scalars, ended, finite)
        return Now(state, playing, counts), recorded, Last(rollout, measured)

    @property
    def _scale(self) -> ActionScale:
        return ActionScale(self.spec, normalize=self.play.scale_actions)

    def _learn(
        self, now: Now, given: Given, hyper: Hyperparameters, restart: Bool[Array, ""]
    ) -> tuple[TrainState, Playing, Rollout, Infos, Measured]:
        """Collecting and learning of all groups."""
        groups = self.layout.groups

        def one(shared: Any, own: Any) -> Any:
            (state, restart, hyper, given), (own_state, playing, ahead) = shared, own
            state = eqx.combine(state, own_state)
            first = 0 if groups == 1 else group_index() * playing.index.size
            keys = Keys(given.episode_key, own_key(given.noise_key, groups), first)
            numbers = given.numbers._replace(ahead=ahead)
            acting = state.learner.policy, state.normalizer
            collect = per_group(partial(play_rollout, play=self.play), groups)
            playing, rollout, info = collect(*acting, playing, restart, state.iteration, keys, numbers)
            state, measured = update(state, rollout, hyper)
            shared, own_state = eqx.partition(state, is_shared(state))
            return shared, (own_state, playing, ahead), (rollout, info, measured)

        state, own_state = eqx.partition(now.state, is_shared(now.state))
        rest = eqx.tree_at(lambda g: g.numbers, given, given.numbers._replace(ahead=None))
        shared, own = (state, restart, hyper, rest), (own_state, now.playing, given.numbers.ahead)
        state, (own_state, playing, _), (rollout, info, measured) = self.layout.of_all_groups(one)(
            shared, own
        )
        state = eqx.combine(state, own_state)
        if groups > 1:
            by_rows = hyper.sequence_length is None
            measured = joined_measures(measured, self.play.num_steps, by_rows=by_rows)
            rollout, info = joined(rollout), joined_rows(info)
        return state, playing, rollout, info, measured

    def _count(
        self, now: Now, given: Given, rollout: Rollout, info: Infos, restart: Bool[Array, ""]
    ) -> tuple[Counts, Ended]:
        """The episodes that ended, and the sums of those that did not."""
        before = jax.tree.map(lambda x: jnp.where(restart, jnp.zeros_like(x), x), now.counts)
        running = now.playing.index + restart.astype(jnp.int32)
        done = (rollout.terminated | rollout.truncated).astype(jnp.int32)
        index, whole = running + jnp.cumsum(done, axis=0) - done, None
        if given.first is not None:
            iteration = jnp.asarray(now.state.iteration)
            whole = are_whole(index, rollout, iteration, given.first, given.numbers)
        key = jax.random.fold_in(given.listing_key, jnp.asarray(now.state.iteration))
        return count_episodes(before, rollout, index, whole, key, info)

    def _is_finite(self, rollout: Rollout, measured: Measured) -> Bool[Array, ""]:
        """Whether the checks of ``check_numbers``, ``check_masks`` and ``refuse_infinite`` pass."""
        arrays = rollout.obs, rollout.action, rollout.reward, rollout.next_obs
        floats = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]
        flags = [measured.prepared.finite, measured.policy_finite, measured.value_finite]
        flags += [jnp.isfinite(measured.value_loss).all(), all_finite(floats)]
        # an epoch that target_kl skipped has no mean
        flags.append((jnp.isfinite(measured.policy.loss) | (measured.policy.num_seen == 0)).all())
        if self.spec.masked:
            ends = np.cumsum((0, *self.spec.sizes))
            mask = rollout.obs[MASK]
            flags += [mask[..., i:j].any(axis=-1).all() for i, j in itertools.pairwise(ends)]
        return jnp.stack(flags).all()


class Launched(NamedTuple):
    """A block that has been given to the devices."""

    first: int  # iterations before it
    size: int  # iterations of it
    before: Now
    outcome: Outcome
    seen: Outcome  # the same, as this process can read it
    began: Instant
    done: Future[Instant]

    @property
    def after(self) -> TrainState:
        return self.outcome.after.state

    @property
    def end(self) -> int:
        """Iterations up to its end."""
        return self.first + self.size


class Program(NamedTuple):
    """Where blocks are computed, and with which others.

    Attributes:
        layout: the devices.
        lanes: what is compiled, which other trainings may share.
        tell: is called before each block with the iterations before it and those of it, for the other
            processes.
    """

    layout: Layout
    lanes: Lanes
    tell: Callable[[int, int], None] = lambda number, count: None


class BlockDriver:
    """Launches and lands blocks of iterations, as ``Driver`` does with one.

    Where the devices are those of several processes, one of them leads: it launches and lands. The others
    ``follow``.

    Args:
        pauses: numbers of environment steps; a block ends at their multiples, where the caller wants the
            state.
    """

    def __init__(
        self,
        config: Config,
        collector: NativeCollector,
        clock: Clock,
        program: Program,
        *,
        pauses: Iterable[int] = (),
        exact: bool = True,
    ):
        self._config, self._collector, self._clock = config, collector, clock
        layout, lanes, self._tell = program
        self._layout, self._lanes, self._pauses, self._exact = layout, lanes, tuple(pauses), exact
        self._iteration = Iteration(collector.spec, collector.play, layout)
        counts = Counts.of(*collector.counts())
        _, (collector.now, self._counts) = layout.place(None, (collector.now, counts))
        self._given = Given(
            Hyperparameters.of(config, 0, groups=layout.groups),
            {},  # by ``_reads``
            collector.episode_key,
            collector.noise_key,
            stream_key(config.seed, Stream.LISTING),
            collector.numbers,
            collector.first,
        )
        self._size = 1  # iterations of the next block
        self._first: int | None = None  # iterations before the first block, which compiles
        self._landed = Instant(0.0, 0.0)

    def launch(self, state: TrainState, number: int) -> Generator[None, None, Launched]:
        """Starts the iterations that follow ``state``. It never waits for the devices.

        Where other trainings share the program, it yields once, so that they ask for theirs first; before
        the first block also so that they are made.
        """
        shared = self._lanes.count > 1
        if self._first is None:
            self._first = number
            if shared:
                yield
        now, count = Now(state, self._collector.now, self._counts), self._until_pause(number)
        began = self._clock.now()
        self._tell(number, count)
        ticket = self._lanes.ask(now, self._reads(number, count), count, iterate=self._iteration)
        if shared:
            yield
        outcome = self._lanes.outcome(ticket)
        self._collector.now, self._counts = outcome.after.playing, outcome.after.counts
        seen = self._seen(outcome)
        done = self._clock.when(seen.call.rows.finite)
        return Launched(number, outcome.call.size, now, outcome, seen, began, done)

    def follow(self, state: TrainState, number: int, commands: Iterable[tuple[int, int]]) -> int:
        """Takes part in what the leader runs: the iterations before a program, and those of it.

        Returns the iterations of the training at its end.
        """
        nows, before = {number: Now(state, self._collector.now, self._counts)}, number
        for number, count in commands:
            if count == STOP:  # the leader drops the blocks after these iterations
                return number
            # the leader may repeat the last block that it has launched, or the one before
            nows = {end: now for end, now in nows.items() if end >= min(before, number)}
            outcome = self._repeat(nows[number], number, count)
            self._seen(outcome)
            nows[number + count], before = outcome.after, number
        return max(nows)

    def drop(self, launched: Launched) -> None:
        """Waits for a block that the training does not need anymore. All processes have computed it."""
        jax.block_until_ready(launched.seen.after.state)
        self._tell(launched.first, STOP)

    def _seen(self, outcome: Outcome) -> Outcome:
        """The same, in arrays that this process can read alone. All processes take part."""
        call = outcome.call
        after, rows, last = self._layout.here((outcome.after, call.rows, outcome.last))
        if after is outcome.after:
            return outcome
        return Outcome(Call(rows, call.size), outcome.lane, after, last)

    def _until_pause(self, number: int) -> int:
        """Iterations of the next block, which begins after ``number`` of them."""
        size, count = self._config.rollout_size, min(self._size, self._config.num_iterations - number)
        for every in self._pauses:
            due = (number * size // every + 1) * every
            count = min(count, -(-due // size) - number)
        return count

    def _reads(self, number: int, count: int) -> Given:
        """What the iterations that follow the first ``number`` read."""
        own = [scheduled(self._config, number + i) for i in range(max(1, count))]  # of none: those of one
        rest = self._lanes.most - len(own)
        padded = jax.tree.map(lambda *x: np.pad(np.array(x, np.float32), (0, rest)), *own)
        return dataclasses.replace(self._given, scheduled=padded)

    def _repeat(self, now: Now, number: int, count: int) -> Outcome:
        """Computes again the iterations that follow ``now``, without those of other trainings."""
        self._tell(number, count)
        given = self._reads(number, count)
        return self._lanes.alone(now, given, count, iterate=self._iteration)

    def landed(self, launched: Launched) -> Iterator[Progress]:
        """Waits for the block, and yields it. Of one with infinity or NaN, the iterations before that.

        Raises:
            EnvFault, TrainingError: as ``Driver.landed``.
        """
        ended = launched.done.result()
        rows = launched.seen.rows()
        if rows.finite.all():
            progress = self._progress(launched, rows, ended)
            if launched.first != self._first:  # not the block that compiled
                seconds = max(progress.rows[0].times["time/learn"] or 0.0, 1e-9)
                self._size = min(self._lanes.most, 2 * self._size, max(1, int(SECONDS / seconds)))
            yield progress
            return
        bad = int(np.argmin(rows.finite))
        if bad:
            outcome = self._repeat(launched.before, launched.first, bad)
            before = launched._replace(size=bad, outcome=outcome, seen=self._seen(outcome))
            yield self._progress(before, jax.tree.map(lambda x: x[:bad], rows), ended, launched.size)
        self._explain(launched, bad)

    def _progress(
        self, launched: Launched, rows: Recorded, ended: Instant, size: int | None = None
    ) -> Progress:
        """``size``: iterations that took the time until ``ended``, if there were more than these."""
        # what was compiled since the last block was landed did not delay this one
        began = Instant(max(self._landed.wall, launched.began.wall), launched.began.compiling)
        compiling = ended.compiling - self._landed.compiling
        each, self._landed = max(0.0, ended.since(began)) / (size or launched.size), ended
        steps = launched.end * self._config.rollout_size
        now, last = launched.seen.after, launched.seen.last
        self._collector.finished(now.playing, now.counts.sums(), steps)
        return Progress(
            rows=tuple(self._row(_nth(rows, i), launched.first + i, each) for i in range(launched.size)),
            state=now.state,
            rollout=last.rollout,
            prepared=last.measured.prepared,
            compile_seconds=compiling,
            world=self._collector.snapshot(),
            exact=self._exact,
            config=self._config,
            spec=self._collector.spec,
            in_block=True,
        )

    def _row(self, recorded: Recorded, number: int, seconds: float) -> Row:
        """The row of one iteration, of which ``number`` came before."""
        size, num_envs = self._config.rollout_size, self._collector.num_envs
        hyper = Hyperparameters.of(self._config, number)
        epochs = epoch_metrics(recorded.policy, np.asarray(recorded.value_loss), hyper, self._config.ppo)
        metrics = recorded.ended.metrics()
        metrics |= iteration_metrics(epochs, recorded.policy.num_seen, recorded.scalars, first=number == 0)
        episodes = recorded.ended.listed(num_envs=num_envs, before=number * size)
        # the parts of one program have no times of their own
        times = {"time/rollout": None, "time/physics": None, "time/learn": seconds, "time/prepare": None}
        return Row(number + 1, (number + 1) * size, episodes, epochs, metrics, times)

    def _explain(self, launched: Launched, bad: int) -> None:
        """Names what became infinite or NaN in iteration ``bad`` of a block, counted from 0."""
        config, collector, number = self._config, self._collector, launched.first + bad
        outcome = self._repeat(launched.before, launched.first, bad)
        before, last = self._seen(outcome).after, self._seen(self._repeat(outcome.after, number, 1)).last
        restart = number == 0 or config.ppo.reset_every_rollout
        sums = jax.tree.map(lambda x: 0 * x if restart else x, before.counts.sums())
        collector.finished(before.playing, sums, number * config.rollout_size)
        collector.check(jax.device_get(last.rollout), restart=restart)
        measured, hyper = jax.device_get(last.measured), Hyperparameters.of(config, number)
        seen = measured.policy.loss[measured.policy.num_seen > 0]  # target_kl may have skipped the others
        losses = {"policy/loss": seen, "value/loss": measured.value_loss}
        odd = {
            name: next((float(x) for x in loss if not np.isfinite(x)), 0.0) for name, loss in losses.items()
        }
        ready = Ready(measured.prepared, group_shuffles(before.state, config, self._layout.groups))
        place = f"iteration {number + 1} of {collector.spec.id}"
        refuse_infinite(odd, measured, before.state, ready, hyper, place)
        raise TrainingError(f"{place}: something became infinite or NaN; repeated, it did not")


def _nth(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], tree)
