"""Drives an update: on a CPU, policy and value function learn at the same time, on two devices of JAX.

Small networks keep only one core busy, and the two networks do not need each other between two computations
of the advantages. With one device they learn one after the other. The bits are the same: the same compiled
functions run on the same rows.

The value function and its optimizer stay on the last device, everything else of a ``TrainState`` on the
first. ``make_ready`` and ``learn`` do not wait for the devices: what follows may be started at once, and
waits there for what it needs.
"""

import dataclasses
import functools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.minibatches import epoch_keys
from poise.algo.networks import Policy, ValueFunction
from poise.algo.prepare import Prepared, prepare, recompute
from poise.algo.state import Learner, TrainState, initial
from poise.algo.state import init as init_state
from poise.algo.update import (
    Measured,
    is_finite,
    policy_epoch,
    value_epoch,
)
from poise.config import Config
from poise.spec import Spec
from poise.system.threads import one_blas_thread
from poise.types import Batch, PolicyEpochs, Rollout, Tensor

_init = jax.jit(init_state, static_argnames=("spec", "policy", "value", "num_envs", "history"))
_prepare = jax.jit(prepare)
_recompute = jax.jit(recompute)


@one_blas_thread()  # orthogonal weights come from LAPACK
def init(spec: Spec, config: Config) -> TrainState:
    """The state before the first iteration, a function of the seed. ``config`` is settled."""
    state = _init(jax.random.key(config.seed), **initial(spec, config))
    return place(jax.block_until_ready(state))


def place(state: TrainState) -> TrainState:
    """The state on the devices on which ``update`` returns it: elsewhere, everything would compile again."""
    here, there = _places()
    value, value_opt = jax.device_put((state.learner.value, state.learner.value_opt), there)
    iteration = np.array(state.iteration, np.int32)
    state = jax.device_put(state, here)
    learner = Learner(state.learner.policy, value, state.learner.policy_opt, value_opt)
    return dataclasses.replace(state, learner=learner, iteration=iteration)


def _places() -> tuple[Any, Any]:
    """The device of the policy, and that of the value function. On GPUs both are on the first."""
    devices = jax.local_devices()
    return devices[0], devices[-1] if devices[0].platform == "cpu" else devices[0]


class Ready(NamedTuple):
    """What an iteration of learning needs besides the state."""

    prepared: Prepared
    rows: Int[np.ndarray, "E minibatches M"]


class Learning(NamedTuple):
    """What is measured in learning, of each block of epochs; its arrays may not be computed yet."""

    prepared: Prepared
    policy: list[tuple[PolicyEpochs, Array]]  # and whether everything stayed finite
    value: list[tuple[Array, Array]]  # its losses, and the same

    def measured(self) -> Measured:
        """The same in arrays of NumPy, as they may be on different devices. Waits for them."""
        (seen, policies), (loss, values) = (
            jax.tree.map(lambda *parts: np.concatenate([np.atleast_1d(p) for p in parts]), *blocks)
            for blocks in (self.policy, self.value)
        )
        return Measured(self.prepared, seen, loss, np.array(policies.all()), np.array(values.all()))


def update(state: TrainState, rollout: Rollout, hyper: Hyperparameters) -> tuple[TrainState, Measured]:
    """``poise.algo.update.update`` with the same functions in the same order, compiled in pieces."""
    num_items = rollout.reward.size // (hyper.sequence_length or 1)
    drawn = draw_shuffles(
        shuffle_key(state), np.array(state.iteration), num_epochs=hyper.num_epochs, size=num_items
    )
    after, learning = learn(state, make_ready(state, rollout, drawn, hyper), hyper)
    return after, learning.measured()


def shuffle_key(state: TrainState) -> PRNGKeyArray:
    """The key of all shuffles, on the last device: the other one collects and prepares meanwhile."""
    return jax.device_put(state.key, _places()[1])


def make_ready(
    state: TrainState, rollout: Rollout, drawn: UInt32[Array, "E rounds B"], hyper: Hyperparameters
) -> Ready:
    """Prepares the rollout, and meanwhile sorts the shuffles of its rows. Waits for ``drawn`` alone."""
    learner, (here, _) = state.learner, _places()
    value, carried = jax.device_put(learner.value, here), (state.running_return, state.value_carry)
    prepared = _prepare(learner.policy, value, state.normalizer, *carried, rollout, hyper)
    return Ready(prepared, sort_shuffles(drawn, hyper.num_items))


def learn(state: TrainState, ready: Ready, hyper: Hyperparameters) -> tuple[TrainState, Learning]:
    """All epochs of both networks, with the same shuffles. Waits for nothing."""
    (prepared, rows), (here, there) = ready, _places()
    batch = prepared.batch
    policy = state.learner.policy, state.learner.policy_opt, _not_stopped(here)
    value = state.learner.value, state.learner.value_opt
    learning = Learning(prepared, [], [])
    for block in epoch_blocks(hyper):
        if block.start:
            batch = _recompute(jax.device_put(value[0], here), batch, prepared.transitions, hyper)
        for_policy, for_value = epoch_rows(rows, block, hyper)
        # on two devices, both at the same time
        if len(for_policy):
            policy, *measured = learn_policy(policy, batch, for_policy, hyper)
            learning.policy.append(tuple(measured))
        if len(for_value):
            value, *measured = learn_value(value, jax.device_put(batch, there), for_value, hyper)
            learning.value.append(tuple(measured))
    after = TrainState(
        learner=Learner(policy[0], value[0], policy[1], value[1]),
        normalizer=prepared.normalizer,
        running_return=prepared.running_return,
        key=state.key,
        iteration=np.array(state.iteration + 1, np.int32),
        value_carry=prepared.value_carry,
    )
    return after, learning


def _stable_order(numbers: UInt32[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """``argsort``; equal numbers keep their order. By halves of 16 bits, for which NumPy has a radix sort."""
    low, high = (numbers & 0xFFFF).astype(np.uint16), (numbers >> 16).astype(np.uint16)
    by_low = low.argsort(kind="stable")
    return by_low.take(high.take(by_low).argsort(kind="stable"))


@functools.cache
def _not_stopped(device: Any) -> Bool[Array, ""]:
    """False on a device, as later iterations have it: a NumPy array would compile a second version."""
    return jax.device_put(np.array(False), device)


def epoch_blocks(hyper: Hyperparameters) -> list[slice]:
    """Groups of epochs that share one computation of the advantages."""
    every = hyper.num_epochs if hyper.recompute_every is None else hyper.recompute_every
    return [slice(first, first + every) for first in range(0, hyper.num_epochs, every)]


def epoch_rows(
    rows: Int[np.ndarray, "E minibatches M"], block: slice, hyper: Hyperparameters
) -> tuple[Int[np.ndarray, "E_p minibatches M"], Int[np.ndarray, "E_v minibatches M"]]:
    """The shuffles of the epochs of a block that policy and value function have; perhaps none."""
    policy, value = (
        rows[block.start : min(block.stop, n)] for n in (hyper.policy_epochs, hyper.value_epochs)
    )
    return policy, value


PolicyStart = tuple[Policy, optax.OptState, Bool[Tensor, ""]]
ValueStart = tuple[ValueFunction, optax.OptState]


@jax.jit
def learn_policy(
    start: PolicyStart, batch: Batch, rows: Int[Tensor, "E minibatches M"], hyper: Hyperparameters
) -> tuple[PolicyStart, PolicyEpochs, Bool[Array, ""]]:
    """Some epochs of the policy, and whether everything stayed finite."""
    start = (*start[:2], jnp.asarray(start[2]))
    after, epochs = jax.lax.scan(lambda now, rows: policy_epoch(now, batch, rows, hyper), start, rows)
    return after, epochs, is_finite(after[0], batch, batch.policy_carry)


@jax.jit
def learn_value(
    start: ValueStart, batch: Batch, rows: Int[Tensor, "E minibatches M"], hyper: Hyperparameters
) -> tuple[ValueStart, Float[Array, " E"], Bool[Array, ""]]:
    """Some epochs of the value function, its mean loss in each, and whether everything stayed finite."""
    after, loss = jax.lax.scan(lambda now, rows: value_epoch(now, batch, rows, hyper), start, rows)
    return after, loss, is_finite(after[0], batch, batch.value_carry)


@partial(jax.jit, static_argnames=("num_epochs", "size"))
def draw_shuffles(
    key: PRNGKeyArray, iteration: Int[Tensor, ""], *, num_epochs: int, size: int
) -> UInt32[Array, "E rounds B"]:
    """The random numbers that sort the rows of each epoch; in two rounds if equal numbers are too likely."""
    rounds = max(1, math.ceil(3 * math.log(size) / math.log(2**32 - 1)))  # as JAX chooses them

    def epoch(key):
        drawn = []
        for _ in range(rounds):
            key, now = jax.random.split(key)
            drawn.append(jax.random.bits(now, (size,), jnp.uint32))
        return jnp.stack(drawn)

    return jax.vmap(epoch)(epoch_keys(key, jnp.asarray(iteration), num_epochs))


def sort_shuffles(
    drawn: UInt32[Array, "E rounds B"], minibatch_size: int
) -> Int[np.ndarray, "E minibatches M"]:
    """``poise.algo.minibatches.shuffle`` bit for bit, from what ``draw_shuffles`` drew.

    Sorted by NumPy: XLA's sort is much slower on a CPU, and each of the two networks would repeat it.
    """
    num_epochs, _, size = drawn.shape
    count = size // minibatch_size
    rows = np.empty((num_epochs, count * minibatch_size), np.int32)
    for epoch, rounds in enumerate(np.asarray(drawn)):
        order = np.arange(size)
        for numbers in rounds:
            order = order.take(_stable_order(numbers))
        rows[epoch] = order[: rows.shape[1]]
    return rows.reshape(num_epochs, count, minibatch_size)
