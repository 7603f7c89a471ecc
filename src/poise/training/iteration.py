"""One iteration of the training loop, in two parts.

To launch it is to give its work to the devices of JAX, in the order in which the work is done. To land it is
to wait for the results, to measure them and to refuse infinity and NaN. Where the environments are in JAX,
nothing in between needs this process: the loop launches an iteration before it lands the one before, so that
the devices wait only if measuring and writing take longer than an iteration.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, UInt32

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.prepare import Prepared
from poise.algo.state import TrainState
from poise.config import Config
from poise.envs.vector import Crash
from poise.placement import two_devices
from poise.placement.two_devices import Learning, Ready, draw_shuffles
from poise.spec import Episode, Spec
from poise.training.acting import ActionScale
from poise.training.clock import Clock, Instant
from poise.training.collector import Collected, Collector, Started, Starting
from poise.training.divergence import refuse_infinite
from poise.training.measuring import episode_metrics, epoch_metrics, iteration_metrics, measure
from poise.training.origin import relative_to_origin
from poise.types import Rollout

RECENT = 100  # episodes; a Monitor of other libraries averages as many


@dataclass(frozen=True)
class Row:
    """What is recorded of one iteration."""

    iteration: int  # counted from 1
    steps: int  # environment steps since the start
    episodes: list[Episode]  # that ended in it
    epochs: dict[str, np.ndarray]  # metrics of each epoch, [E]; NaN where target_kl skipped an epoch
    metrics: dict[str, float | int | None]  # None if there is nothing to measure
    times: dict[str, float | None]  # seconds without compilation, by the names of the metrics


@dataclass(frozen=True)
class Progress:
    """One finished iteration, or several that were one program. No later one changes its arrays."""

    rows: tuple[Row, ...]  # of all iterations since the last Progress
    state: TrainState  # after the last of them
    rollout: Rollout  # of the last of them, as collected
    prepared: Prepared  # from that rollout
    compile_seconds: float  # since the end of the previous learning
    world: dict[str, Any] | None  # for ``Start``; None if the environment cannot report its state
    exact: bool  # False once a resume or a lost process may have changed the result
    config: Config  # with a number for every option
    spec: Spec  # of the environment
    in_block: bool = False  # several iterations may be one program, whose length depends on the clock
    crashes: tuple[Crash, ...] = ()  # of environments that were made again
    notes: tuple[str, ...] = ()  # lines for the user, of processes that were started again
    recent: tuple[Episode, ...] = ()  # the last ``RECENT`` that ended, also before a resume of a run folder

    @property
    def iteration(self) -> int:
        """The number of the last iteration, counted from 1."""
        return self.rows[-1].iteration

    @property
    def steps(self) -> int:
        """Environment steps since the start of the training."""
        return self.rows[-1].steps

    @property
    def metrics(self) -> dict[str, float | int | None]:
        """Of the last iteration; None if there is nothing to measure.

        Where greedy scores are asked for (``eval_every``), ``evaluation/return`` is the mean of that of this
        agent; None where none was due.
        """
        return self.rows[-1].metrics

    @property
    def mean_return(self) -> float:
        """Mean return of the ``recent`` episodes; NaN if no episode has ended."""
        returns = [episode.episodic_return for episode in self.recent]
        return float(np.mean(returns)) if returns else math.nan

    @property
    def epochs(self) -> dict[str, np.ndarray]:
        """Metrics of each epoch of the last iteration, [E]."""
        return self.rows[-1].epochs

    @property
    def episodes(self) -> list[Episode]:
        """That ended since the last Progress."""
        return [episode for row in self.rows for episode in row.episodes]

    @property
    def times(self) -> dict[str, float | None]:
        """Seconds of all its iterations, by the names of the metrics; None: not measured."""
        sums: dict[str, float | None] = dict.fromkeys(self.rows[-1].times)
        for row in self.rows:
            for name, seconds in row.times.items():
                sums[name] = sums[name] if seconds is None else seconds + (sums[name] or 0.0)
        return sums

    @property
    def rollout_seconds(self) -> float | None:
        """Collecting; None where whole iterations are one program."""
        return self.times["time/rollout"]

    @property
    def physics_seconds(self) -> float | None:
        """Of these: stepping and resetting; None if compiled together with acting."""
        return self.times["time/physics"]

    @property
    def learn_seconds(self) -> float | None:
        """Preparing and learning; whole iterations where these are one program."""
        return self.times["time/learn"]

    @property
    def prepare_seconds(self) -> float | None:
        """Of these: preparing the rollout and shuffling its rows; None as ``rollout_seconds``."""
        return self.times["time/prepare"]


class Launched(NamedTuple):
    """An iteration of which every part has been started."""

    number: int  # counted from 0
    hyper: Hyperparameters
    started: Started
    before: TrainState  # that acted, with its origin set
    rollout: Rollout  # relative to that origin
    ready: Ready
    after: TrainState
    learning: Learning
    began: Instant
    ends: "list[Future[Instant]]"  # of collecting, preparing and learning

    @property
    def first(self) -> int:
        """Iterations before it."""
        return self.number

    @property
    def end(self) -> int:
        """Iterations up to its end."""
        return self.number + 1


class Driver:
    """Launches and lands the iterations of one training, in their order."""

    def __init__(self, config: Config, collector: Collector, clock: Clock, state: TrainState, *, exact: bool):
        self._config, self._collector, self._clock = config, collector, clock
        self._scale = ActionScale(collector.spec, normalize=config.normalize.action)
        self._exact = exact  # see Progress
        # the end of the last landed iteration; 0 lets the first count all that was compiled before it
        self._landed = Instant(0.0, 0.0)
        self._key = two_devices.shuffle_key(state)
        first = int(state.iteration)
        # for two iterations: what is drawn here is needed after the learning that is started next
        self._drawn = deque([self._draw(first), self._draw(first + 1)])

    def launch(self, state: TrainState, number: int, *, ahead: bool) -> Launched:
        """Starts the iteration that follows ``state``, of which ``number`` came before.

        ``ahead``: do not wait for the devices. Otherwise each part is over before the next begins, so
        that what it takes to compile the next is not counted as its own time.
        """
        hyper = Hyperparameters.of(self._config, number)
        began, ends = self._clock.now(), []

        def end_of(arrays: Any) -> None:
            ends.append(self._clock.when(arrays))
            if not ahead:
                ends[-1].result()

        # 1. Collect: the policy acts in the environments.
        started = self._start(state, number)
        # the state with its origin set, and observations relative to that origin
        before, rollout = relative_to_origin(state, started.rollout, self._config.normalize)
        end_of(rollout.reward)  # all arrays of one call are there at once

        # 2. Prepare: normalize, compute advantages and targets, shuffle.
        ready = two_devices.make_ready(before, rollout, self._drawn.popleft(), hyper)
        self._drawn.append(self._draw(number + 2))
        end_of(ready.prepared.finite)

        # 3. Learn: all epochs of policy and value function.
        after, learning = two_devices.learn(before, ready, hyper)
        end_of((learning.policy, learning.value))
        return Launched(number, hyper, started, before, rollout, ready, after, learning, began, ends)

    def landed(self, launched: Launched) -> Iterator[Progress]:
        """Waits for the iteration, measures and yields it.

        Raises:
            EnvFault: the environment failed, or returned infinity or NaN.
            TrainingError: an action, a loss, a parameter or a network's output became infinite or NaN.
        """
        number, hyper, before, rollout = launched.number, launched.hyper, launched.before, launched.rollout
        collected = launched.started.finish()
        measured = launched.learning.measured()
        epochs = epoch_metrics(measured.policy, measured.value_loss, hyper, self._config.ppo)
        scalars = measure(self._collector.spec, self._scale, before, rollout, measured.prepared)
        metrics = episode_metrics(collected.episodes)
        metrics |= iteration_metrics(epochs, measured.policy.num_seen, scalars, first=number == 0)
        metrics |= collected.metrics
        place = f"iteration {number + 1} of {self._collector.spec.id}"
        refuse_infinite(metrics, measured, before, launched.ready, hyper, place)
        self._exact = self._exact and collected.exact
        times, compiling = self._seconds(launched)
        times["time/physics"] = collected.physics_seconds
        steps = (number + 1) * self._config.rollout_size
        yield Progress(
            rows=(Row(number + 1, steps, collected.episodes, epochs, metrics, times),),
            state=launched.after,
            rollout=collected.rollout,
            prepared=measured.prepared,
            compile_seconds=compiling,
            world=self._collector.snapshot(),
            exact=self._exact,
            config=self._config,
            spec=self._collector.spec,
            crashes=collected.crashes,
            notes=collected.notes,
        )

    def drop(self, launched: Launched) -> None:
        """Waits for an iteration that the training does not need anymore."""
        jax.block_until_ready(launched.after)

    def _start(self, state: TrainState, number: int) -> Started:
        acting = state.learner.policy, state.normalizer, number
        if isinstance(self._collector, Starting):
            return self._collector.start(*acting)
        collected: Collected = self._collector.collect(*acting)
        return Started(collected.rollout, lambda: collected)

    def _draw(self, number: int) -> UInt32[Array, "E rounds B"]:
        """What the shuffles of an iteration are sorted by."""
        ppo, size = self._config.ppo, self._config.rollout_size // (self._config.ppo.sequence_length or 1)
        return draw_shuffles(self._key, np.array(number, np.int32), num_epochs=max(ppo.epochs), size=size)

    def _seconds(self, launched: Launched) -> tuple[dict[str, float | None], float]:
        """The durations of the parts of an iteration, and that of compilations since the last one.

        One that was launched ahead begins where the last one ended.
        """
        landed = self._landed
        self._landed = launched.ends[-1].result()
        collected, prepared, learned = (end.result() for end in launched.ends)
        # what was compiled since the last landed iteration was launched did not delay this one
        began = Instant(max(landed.wall, launched.began.wall), launched.began.compiling)
        times: dict[str, float | None] = {
            "time/rollout": collected.since(began),
            "time/physics": None,
            "time/learn": learned.since(collected),
            "time/prepare": prepared.since(collected),
        }
        return times, learned.compiling - landed.compiling
