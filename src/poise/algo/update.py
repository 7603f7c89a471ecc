"""One iteration of PPO: from a rollout to better parameters. This file is read first, from the top down.

It uses ``prepare.py`` (advantages and targets), ``minibatches.py`` and ``losses.py``. ``poise.placement``
runs the same functions, in the same order, compiled in pieces and on several devices.
"""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from poise.algo.descent import descend_in_blocks, is_large
from poise.algo.groups import mean_of_groups, own_key, per_group
from poise.algo.hyperparameters import Hyperparameters, Number
from poise.algo.losses import policy_loss, standardize, value_loss
from poise.algo.memory import play_items
from poise.algo.minibatches import epoch_keys, shuffle, take
from poise.algo.networks import Policy, ValueFunction, scale_log_std
from poise.algo.prepare import Prepared, all_finite, prepare, recompute
from poise.algo.state import Learner, TrainState, make_optimizer
from poise.types import Batch, PolicyEpochs, PolicyMetrics, Rollout, Tensor

SAMPLE = 256  # rows whose outputs are checked after learning


class Measured(eqx.Module):
    """What ``update`` returns besides the new state."""

    prepared: Prepared
    policy: PolicyEpochs
    value_loss: Float[Tensor, " E"]
    policy_finite: Bool[Tensor, ""]  # whether the new parameters and their outputs are finite
    value_finite: Bool[Tensor, ""]


def update(state: TrainState, rollout: Rollout, hyper: Hyperparameters) -> tuple[TrainState, Measured]:
    """One iteration of learning, as a pure function: ``jit``, ``vmap`` and ``scan`` accept it.

    The rollout is prepared once. In each epoch, over a shuffle of the rows of its own, first the policy and
    then the value function take one gradient step on each minibatch; ``target_kl`` may end the steps of the
    policy, never those of the value function. The network that has more epochs goes on alone. Every
    ``recompute_every`` epochs, advantages and targets are computed again with the current value function.
    The log-probabilities of the old policy stay.
    """
    learner = state.learner
    # 1. once per rollout
    running = state.running_return, state.value_carry
    prepared = prepare(learner.policy, learner.value, state.normalizer, *running, rollout, hyper)
    # 2. which items (rows, or sequences of a memory) are learned from together, in each epoch
    keys = epoch_keys(own_key(state.key, hyper.groups), jnp.asarray(state.iteration), hyper.num_epochs)
    rows = shuffle(keys, prepared.batch.num_items, hyper.num_items)

    # 3. epochs of minibatches
    (policy, value, batch), measured = all_epochs(learner, prepared, rows, hyper)
    after = TrainState(
        learner=Learner(policy[0], value[0], policy[1], value[1]),
        normalizer=prepared.normalizer,
        running_return=prepared.running_return,
        key=state.key,  # never split: see TrainState
        iteration=jnp.asarray(state.iteration) + 1,
        value_carry=prepared.value_carry,
    )
    finite = is_finite(policy[0], batch, batch.policy_carry), is_finite(value[0], batch, batch.value_carry)
    return after, Measured(prepared, *measured, *finite)


def all_epochs(
    learner: Learner, prepared: Prepared, rows: Int[Array, "E minibatches M"], hyper: Hyperparameters
) -> tuple[Any, tuple[PolicyEpochs, Float[Array, " E_v"]]]:
    """All epochs: both networks with their optimizers, the batch as it was at last, and what is measured."""

    def epoch(carry, inputs, rest=False) -> Any:
        policy, value, batch = carry
        number, rows = inputs
        if hyper.recompute_every is not None:
            due = (number > 0) & (number % hyper.recompute_every == 0)
            recomputed = partial(recompute, value[0], transitions=prepared.transitions, hyper=hyper)
            batch = jax.lax.cond(due, recomputed, lambda batch: batch, batch)
        seen, loss = None, None
        if not rest or hyper.policy_epochs > hyper.value_epochs:
            policy, seen = policy_epoch(policy, batch, rows, hyper)
        if not rest or hyper.value_epochs > hyper.policy_epochs:
            value, loss = value_epoch(value, batch, rows, hyper)
        return (policy, value, batch), (seen, loss)

    policy = learner.policy, learner.policy_opt, jnp.array(False)  # not stopped by target_kl
    value = learner.value, learner.value_opt
    numbers, both = jnp.arange(hyper.num_epochs), min(hyper.policy_epochs, hyper.value_epochs)
    carry, (seen, loss) = jax.lax.scan(epoch, (policy, value, prepared.batch), (numbers[:both], rows[:both]))
    if both < hyper.num_epochs:  # of the network that has more epochs
        carry, more = jax.lax.scan(partial(epoch, rest=True), carry, (numbers[both:], rows[both:]))
        join = partial(jax.tree.map, lambda *parts: jnp.concatenate(parts))
        seen, loss = (a if b is None else join(a, b) for a, b in zip((seen, loss), more, strict=True))
    return carry, (seen, loss)


def policy_epoch(
    start: tuple[Policy, optax.OptState, Bool[Tensor, ""]],
    batch: Batch,
    rows: Int[Tensor, "minibatches M"],
    hyper: Hyperparameters,
) -> tuple[tuple[Policy, optax.OptState, Bool[Array, ""]], PolicyEpochs]:
    """One epoch of the policy.

    ``start``: the policy, the state of its optimizer, and whether an earlier minibatch of this iteration has
    exceeded ``target_kl``. From then on no minibatch is evaluated. The KL of a minibatch is measured before
    its own step, so it shows the effect of earlier steps. If it exceeds the limit, this step is not taken;
    earlier steps stay.
    """

    def learn(carry, minibatch: Batch):
        policy, opt_state, _ = carry
        metrics, gradient = policy_gradient(policy, minibatch, hyper)
        after = descend(policy, opt_state, gradient, hyper.policy_step_size, hyper)
        if hyper.target_kl is None:
            return (*after, jnp.array(False)), (metrics, jnp.array(1), jnp.array(1))
        stop = metrics.kl > hyper.target_kl  # earlier steps went too far
        after = jax.tree.map(lambda old, new: jnp.where(stop, old, new), (policy, opt_state), after)
        return (*after, stop), (metrics, jnp.array(1), 1 - stop.astype(jnp.int32))

    def skip(carry, minibatch: Batch):
        nothing = jnp.array(0.0)
        return carry, (PolicyMetrics(nothing, nothing, nothing, nothing), jnp.array(0), jnp.array(0))

    def step(carry, minibatch: Batch):
        if hyper.target_kl is None:
            return learn(carry, minibatch)
        return jax.lax.cond(carry[2], skip, learn, carry, minibatch)  # once stopped, only vmap still computes

    after, (metrics, seen, learned) = jax.lax.scan(step, start, take(batch, rows))
    num_seen = jnp.sum(seen)  # 0 in an epoch that was skipped: its means are 0 / 0 = NaN
    mean = jax.tree.map(lambda m: jnp.sum(m) / num_seen.astype(m.dtype), metrics)
    return after, PolicyEpochs(
        mean.loss, mean.kl, mean.clip_fraction, mean.entropy, num_seen, jnp.sum(learned)
    )


def policy_gradient(policy: Policy, minibatch: Batch, hyper: Hyperparameters) -> tuple[PolicyMetrics, Any]:
    """What is measured on a minibatch, and the gradient of the policy's loss, of all groups."""
    groups = hyper.groups
    if hyper.normalize_advantage and groups > 1:  # with the mean and deviation of all groups
        rows = standardize(minibatch.advantage.reshape(-1), groups)
        minibatch = dataclasses.replace(minibatch, advantage=rows.reshape(minibatch.advantage.shape))
        hyper = dataclasses.replace(hyper, normalize_advantage=False)
    gradient_of = per_group(jax.value_and_grad(policy_loss, has_aux=True), groups)
    (_, metrics), gradient = gradient_of(policy, minibatch, hyper)
    return mean_of_groups((metrics, gradient), groups)


def value_epoch(
    start: tuple[ValueFunction, optax.OptState],
    batch: Batch,
    rows: Int[Tensor, "minibatches M"],
    hyper: Hyperparameters,
) -> tuple[tuple[ValueFunction, optax.OptState], Float[Array, ""]]:
    """One epoch of the value function, and its mean loss."""

    def step(carry, minibatch: Batch):
        value, opt_state = carry
        gradient_of = per_group(jax.value_and_grad(value_loss), hyper.groups)
        loss, gradient = mean_of_groups(gradient_of(value, minibatch), hyper.groups)
        return descend(value, opt_state, gradient, hyper.value_step_size, hyper), loss

    after, loss = jax.lax.scan(step, start, take(batch, rows))
    return after, jnp.mean(loss)


def descend(
    params: Any, opt_state: optax.OptState, gradient: Any, step_size: Number, hyper: Hyperparameters
) -> tuple[Any, optax.OptState]:
    """The parameters after one step of Adam against ``gradient`` (clipped), and the optimizer's state.

    The step of an independent log_std is ``std_rate`` times as large.
    """
    if is_large(params):
        return descend_in_blocks(params, opt_state, gradient, step_size, hyper)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes its integer step count with floats
        step, opt_state = make_optimizer(hyper.max_grad_norm).update(gradient, opt_state)
    step = scale_log_std(step, hyper.std_rate)
    return jax.tree.map(lambda p, s: p - step_size * s, params, step), opt_state  # minus: downhill


def is_finite(network: Any, batch: Batch, carry: Float[Array, "items S"] | None) -> Bool[Array, ""]:
    """Whether the parameters, and the outputs for about ``SAMPLE`` rows of the batch, are finite.

    Parameters can be finite and still too large to act with. ``carry``: the network's, from the batch.
    """
    stride = max(1, min(batch.num_items, batch.target.size // SAMPLE))  # all rows: 1/3 of an epoch's time
    some = jax.tree.map(lambda x: x[::stride], (batch.obs, batch.begins, carry))
    return all_finite((network, play_items(network, *some)))
