"""From a rollout to better parameters: ``prepare`` once, then all epochs and minibatches."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt32

from poise.algo.advantages import gae
from poise.algo.distributions import Distribution
from poise.algo.losses import PolicyMetrics, explained_variance, policy_loss, value_loss
from poise.algo.networks import GaussianPolicy, Policy, ValueFunction, distributions, make_policy
from poise.algo.normalize import Normalizer, discounted_return, normalize_obs, normalize_reward
from poise.config import PPO, Config, Normalize, known
from poise.seeds import Stream, branch
from poise.spec import Spec
from poise.system.threads import one_blas_thread
from poise.types import Batch, Rollout, Tensor


class Learner(eqx.Module):
    """Two networks and the state of their two optimizers.

    The value function and its optimizer are on JAX's last device, all else of a ``TrainState`` on its first:
    on two devices both learn at the same time, and nothing is moved to and fro.
    """

    policy: Policy
    value: ValueFunction
    policy_opt: optax.OptState
    value_opt: optax.OptState


class TrainState(eqx.Module):
    """All that the algorithm carries from one iteration to the next.

    ``key`` stays what it was at the start; the shuffles of an iteration derive theirs from both.
    """

    learner: Learner
    normalizer: Normalizer
    running_return: Float[Array, " N"]
    key: PRNGKeyArray
    iteration: Int[Tensor, ""]


class PolicyEpochs(eqx.Module):
    """Per epoch: the mean over the minibatches that were looked at; NaN where target_kl left out all.

    The minibatch that exceeds target_kl is looked at and not learned from.
    """

    loss: Float[Tensor, "*E"]
    kl: Float[Tensor, "*E"]
    clip_fraction: Float[Tensor, "*E"]
    entropy: Float[Tensor, "*E"]
    num_seen: Int[Tensor, "*E"]  # minibatches that were looked at
    num_updates: Int[Tensor, "*E"]  # minibatches that were learned from


class Transitions(eqx.Module):
    """What advantages are made of, beside the observations of a ``Batch``."""

    reward: Float[Array, "T N"]  # normalized
    next_obs: Float[Array, "B O"]  # normalized
    terminated: Bool[Array, "T N"]
    truncated: Bool[Array, "T N"]


class Prepared(eqx.Module):
    """What is computed once per rollout, from it and the parameters that acted.

    ``normalizer`` is the one for the next iteration: the return statistics in it have already
    scaled this rollout's rewards, the observation statistics serve from the next rollout on.
    """

    batch: Batch
    transitions: Transitions | None  # None where advantages are computed once
    normalizer: Normalizer
    running_return: Float[Array, " N"]
    explained_variance: Float[Array, ""]
    distribution: Distribution  # that acted; its arrays carry a leading axis B. In the first rollout almost:
    # there the policy acted on observations that nothing had scaled yet (normalize.first_rollout)
    finite: Bool[Array, ""]  # whether the statistics are numbers


def make_optimizer(config: PPO) -> optax.GradientTransformation:
    """Gradient clipping by global norm, then Adam (eps 1e-5) without its step size.

    The step size is one value per iteration and applied by the caller.
    """
    limit = (
        optax.identity() if config.max_grad_norm is None else optax.clip_by_global_norm(config.max_grad_norm)
    )
    return optax.flatten(optax.chain(limit, optax.scale_by_adam(eps=1e-5)))


@one_blas_thread()  # orthogonal weights come from LAPACK
def init(spec: Spec, config: Config) -> TrainState:
    """The state before the first iteration, a function of the seed alone."""
    config.check_against(spec)
    config.refuse_idle()
    config = config.settled(spec)
    root, seedless = jax.random.key(config.seed), dataclasses.replace(config, seed=0)
    return placed(jax.block_until_ready(_init(root, spec=spec, config=seedless)))


def placed(state: TrainState) -> TrainState:
    """The state on the devices on which ``update`` returns it.

    Elsewhere, or bound to none, it would have everything compiled again.
    """
    here, there = jax.devices()[0], jax.devices()[-1]
    value, value_opt = jax.device_put((state.learner.value, state.learner.value_opt), there)
    iteration = np.array(state.iteration, np.int32)
    state = jax.device_put(state, here)
    learner = Learner(state.learner.policy, value, state.learner.policy_opt, value_opt)
    return dataclasses.replace(state, learner=learner, iteration=iteration)


def template(spec: Spec, config: Config) -> TrainState:
    """Shapes and dtypes of ``init``'s state; no array is made and nothing compiled."""
    config = config.settled(spec)
    root = jax.eval_shape(jax.random.key, np.uint32(0))
    return eqx.filter_eval_shape(partial(_init, spec=spec, config=dataclasses.replace(config, seed=0)), root)


@partial(jax.jit, static_argnames=("spec", "config"))
def _init(root: PRNGKeyArray, *, spec: Spec, config: Config) -> TrainState:
    """In one piece: piece by piece, some forty small functions would be compiled at the start of a run."""
    policy = make_policy(spec, config.policy, key=branch(root, Stream.POLICY))
    value = ValueFunction(spec, config.value, key=branch(root, Stream.VALUE))
    optimizer = make_optimizer(config.ppo)
    state = TrainState(
        learner=Learner(policy, value, optimizer.init(policy), optimizer.init(value)),  # pyright: ignore
        normalizer=Normalizer.empty(spec.obs_size),
        running_return=jnp.zeros(config.shape[1]),
        key=branch(root, Stream.SHUFFLE),
        iteration=jnp.zeros((), jnp.int32),
    )
    return jax.tree.map(_strong, state)  # as update returns it, for the same reason


def _strong(x: Array) -> Array:
    return jax.lax.convert_element_type(x, x.dtype)


def learning_rate(start: float | None, iteration: int, config: Config) -> float:
    """The step size of one iteration: ``start``, less the share of the budget done where annealed."""
    start = known(start)
    match config.ppo.anneal:
        case "linear":
            return start * (1 - iteration / config.num_iterations)
        case "none":
            return start


def prepare(state: TrainState, rollout: Rollout, *, config: Config) -> Prepared:
    """Values, log-probabilities, advantages and targets of a rollout, rows in C order of [T, N]."""
    return _prepare(
        state.learner.policy,
        on_host(state.learner.value),
        state.normalizer,
        state.running_return,
        rollout,
        ppo=config.ppo,
        normalize=config.normalize,
    )


@partial(jax.jit, static_argnames=("ppo", "normalize"))
def _prepare(
    policy: Policy,
    value: ValueFunction,
    before: Normalizer,
    running_return: Float[Array, " N"],
    rollout: Rollout,
    *,
    ppo: PPO,
    normalize: Normalize,
) -> Prepared:
    rollout = jax.tree.map(jnp.asarray, rollout)

    def rows(array):
        return jnp.reshape(array, (-1, *array.shape[2:]))

    seen = before.obs.merge(rows(rollout.obs))
    stats = before.obs
    if normalize.first_rollout:
        stats = jax.tree.map(partial(jnp.where, before.obs.count > 0), before.obs, seen)
    scale = jax.vmap(lambda o: normalize_obs(stats, o, normalize))
    obs = scale(rows(rollout.obs))
    next_obs = scale(rows(rollout.next_obs))
    done = rollout.terminated | rollout.truncated
    gamma = known(ppo.gamma if normalize.reward_gamma is None else normalize.reward_gamma)
    running, returns = discounted_return(running_return, rollout.reward, done, gamma)
    after = Normalizer(seen, before.ret.merge(rows(returns)), before.origin)
    reward = normalize_reward(after.ret, rollout.reward, normalize)
    transitions = Transitions(reward, next_obs, rollout.terminated, rollout.truncated)
    values, advantage, target = estimates(value, obs, transitions, ppo)
    distribution = distributions(policy, obs)
    action = rows(rollout.action)
    log_prob = jax.vmap(lambda d, a: d.log_prob(a))(distribution, action)
    return Prepared(
        batch=Batch(obs, action, log_prob, advantage, target),
        transitions=None if ppo.recompute_every is None else transitions,
        normalizer=after,
        running_return=jnp.zeros_like(running) if ppo.reset_every_rollout else running,
        explained_variance=explained_variance(values, target),
        distribution=distribution,
        finite=all_finite(after),
    )


def estimates(
    value: ValueFunction, obs: Float[Array, "B O"], transitions: Transitions, ppo: PPO
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """Of each row: its value, its advantage, and the target that the value function is to learn."""
    shape = transitions.reward.shape
    values = jax.vmap(value)(obs)
    next_values = jax.vmap(value)(transitions.next_obs)
    advantage = gae(
        transitions.reward,
        values.reshape(shape),
        next_values.reshape(shape),
        transitions.terminated,
        transitions.truncated,
        gamma=known(ppo.gamma),
        lam=ppo.lam,
    ).reshape(-1)
    return values, advantage, values + advantage


@partial(jax.jit, static_argnames="ppo")
def recomputed(value: ValueFunction, batch: Batch, transitions: Transitions, *, ppo: PPO) -> Batch:
    """The batch with the advantages and targets that ``value`` gives; all else stays."""
    _, advantage, target = estimates(value, jnp.asarray(batch.obs), transitions, ppo)
    return Batch(batch.obs, batch.action, batch.log_prob, advantage, target)


def blocks(num_epochs: int, ppo: PPO) -> list[slice]:
    """The epochs between one computation of the advantages and the next."""
    every = num_epochs if ppo.recompute_every is None else ppo.recompute_every
    return [slice(first, first + every) for first in range(0, num_epochs, every)]


def on_host(tree: Any) -> Any:
    """The same with NumPy's arrays, which may go to any device. On a CPU nothing is copied."""
    return jax.tree.map(np.asarray, tree)


def all_finite(tree: PyTree[Array]) -> Bool[Array, ""]:
    """Whether no entry of any array is infinite or NaN."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def shuffles(drawn: UInt32[Array, "E rounds B"], minibatch_size: int) -> Int[np.ndarray, "E minibatches M"]:
    """The rows of each minibatch of each epoch, in a random order; the remainder is dropped.

    Of what ``draw_shuffles`` drew this makes, bit for bit, ``jax.random.permutation`` of each of
    ``split(key, E)``. But sorted by NumPy: XLA's sort is much slower on a CPU, and each of the two networks
    would repeat it.
    """
    num_epochs, _, size = drawn.shape
    place = np.arange(size, dtype=np.uint64)
    order = np.broadcast_to(place, (num_epochs, size))
    for once in np.moveaxis(np.asarray(drawn).astype(np.uint64), 1, 0):
        # the place behind the number keeps equal ones in their order, as a stable sort does
        ranked = np.sort(once << np.uint64(32) | place, axis=1) & np.uint64(2**32 - 1)
        order = np.take_along_axis(order, ranked.astype(np.int64), axis=1)
    count = size // minibatch_size
    kept = order[:, : count * minibatch_size].astype(np.int32)
    return kept.reshape(num_epochs, count, minibatch_size)


@partial(jax.jit, static_argnames=("num_epochs", "size"))
def draw_shuffles(
    key: PRNGKeyArray, iteration: Int[Tensor, ""], *, num_epochs: int, size: int
) -> UInt32[Array, "E rounds B"]:
    """The random numbers that sort the rows of each epoch: twice where equal ones are too likely."""
    rounds = math.ceil(3 * math.log(max(1, size)) / math.log(2**32 - 1))  # as JAX chooses them

    def epoch(key):
        drawn = []
        for _ in range(rounds):
            key, now = jax.random.split(key)
            drawn.append(jax.random.bits(now, (size,), jnp.uint32))
        return jnp.stack(drawn)

    return jax.vmap(epoch)(jax.random.split(jax.random.fold_in(key, iteration), num_epochs))


def minibatches(batch: Batch, rows: Int[Array, "minibatches M"]) -> Batch:
    """Those rows of the batch, ``[minibatches, M, ...]``."""
    return jax.tree.map(lambda x: x[rows.reshape(-1)].reshape(*rows.shape, *x.shape[1:]), batch)


def apply_gradient(optimizer, params, opt_state, gradient, step_size, std_rate: float | Array = 1.0):
    """The parameters after one step against ``gradient``, and the optimizer's state.

    The step of a policy's log_std, where it has one, is ``std_rate`` times as large.
    """
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes its integer step count with floats
        updates, opt_state = optimizer.update(gradient, opt_state)
    if isinstance(updates, GaussianPolicy) and updates.log_std is not None:
        updates = eqx.tree_at(lambda u: u.log_std, updates, std_rate * updates.log_std)
    return jax.tree.map(lambda p, u: p - step_size * u, params, updates), opt_state


def std_rate(config: Config) -> np.float32:
    """``policy.std_rate``; 1 where there is no parameter whose rate it were."""
    given = config.policy.std_rate
    return np.float32(1 if given is None else given)


@partial(jax.jit, static_argnames="config")
def learn_policy(
    policy: Policy,
    opt_state: optax.OptState,
    batch: Batch,
    step_size: Float[Tensor, ""],
    std_rate: Float[Tensor, ""],
    rows: Int[Tensor, "E minibatches M"],
    stopped: Bool[Tensor, ""],
    *,
    config: PPO,
) -> tuple[Policy, optax.OptState, PolicyEpochs, Bool[Array, ""], Bool[Array, ""]]:
    """Epochs of the policy.

    With ``target_kl``, the minibatch whose approximate KL exceeds it, measured before its update,
    and all after it in this iteration are left out: ``stopped`` says that it has come, before these epochs
    and, returned, after them. The last array says whether the new parameters, and the distributions that
    they give on the rollout's observations, are numbers: parameters may be finite and still too large to
    act with.
    """
    optimizer = make_optimizer(config)

    def learn(carry, minibatch: Batch):
        params, opt_state, _ = carry
        (_, metrics), gradient = jax.value_and_grad(policy_loss, has_aux=True)(params, minibatch, config)
        after = apply_gradient(optimizer, params, opt_state, gradient, step_size, std_rate)
        if config.target_kl is None:
            return (*after, jnp.array(False)), (metrics, jnp.array(1), jnp.array(1))
        stop = metrics.kl > config.target_kl
        kept = jax.tree.map(lambda old, new: jnp.where(stop, old, new), (params, opt_state), after)
        return (*kept, stop), (metrics, jnp.array(1), 1 - stop.astype(jnp.int32))

    def skip(carry, minibatch: Batch):
        nothing = jnp.array(0.0)
        return carry, (PolicyMetrics(nothing, nothing, nothing, nothing), jnp.array(0), jnp.array(0))

    def step(carry, minibatch: Batch):
        if config.target_kl is None:
            return learn(carry, minibatch)
        return jax.lax.cond(carry[2], skip, learn, carry, minibatch)

    def epoch(carry, rows):
        carry, (metrics, seen, learned) = jax.lax.scan(step, carry, minibatches(batch, rows))
        num_seen = jnp.sum(seen)
        mean = jax.tree.map(lambda m: jnp.sum(m) / num_seen.astype(m.dtype), metrics)
        return carry, PolicyEpochs(
            mean.loss, mean.kl, mean.clip_fraction, mean.entropy, num_seen, jnp.sum(learned)
        )

    start = (policy, opt_state, jnp.asarray(stopped))
    (policy, opt_state, stopped), epochs = jax.lax.scan(epoch, start, rows)
    return policy, opt_state, epochs, stopped, all_finite((policy, distributions(policy, batch.obs)))


@partial(jax.jit, static_argnames="config")
def learn_value(
    value: ValueFunction,
    opt_state: optax.OptState,
    batch: Batch,
    step_size: Float[Tensor, ""],
    rows: Int[Tensor, "E minibatches M"],
    *,
    config: PPO,
) -> tuple[ValueFunction, optax.OptState, Float[Array, " E"], Bool[Array, ""]]:
    """Epochs of the value function, its mean loss in each, and whether all is finite as above."""
    optimizer = make_optimizer(config)

    def step(carry, minibatch: Batch):
        params, opt_state = carry
        loss, gradient = jax.value_and_grad(value_loss)(params, minibatch)
        return apply_gradient(optimizer, params, opt_state, gradient, step_size), loss

    def epoch(carry, rows):
        carry, loss = jax.lax.scan(step, carry, minibatches(batch, rows))
        return carry, jnp.mean(loss)

    (value, opt_state), loss = jax.lax.scan(epoch, (value, opt_state), rows)
    return value, opt_state, loss, all_finite((value, jax.vmap(value)(batch.obs)))


class Updated(eqx.Module):
    """What one update leaves: the next state, and what was measured on the way."""

    state: TrainState
    prepared: Prepared
    policy: PolicyEpochs
    value_loss: Float[Tensor, " E"]
    policy_finite: bool  # whether the new parameters and what they give are numbers
    value_finite: bool


def update(state: TrainState, rollout: Rollout, *, config: Config) -> Updated:
    """One iteration of learning: ``make_ready``, then ``learn``."""
    return learn(state, make_ready(state, rollout, config=config), config=config)


class Ready(NamedTuple):
    """All that an iteration of learning needs beside the state."""

    prepared: Prepared
    rows: Int[np.ndarray, "E minibatches M"]


def make_ready(state: TrainState, rollout: Rollout, *, config: Config) -> Ready:
    """The rollout prepared and its rows shuffled; returns when that is done."""
    ppo = config.ppo
    drawn = draw_shuffles(state.key, state.iteration, num_epochs=ppo.num_epochs, size=config.rollout_size)
    prepared = prepare(state, rollout, config=config)
    rows = shuffles(drawn, config.minibatch_size)  # while prepare is at work
    return Ready(jax.block_until_ready(prepared), rows)


def learn(state: TrainState, ready: Ready, *, config: Config) -> Updated:
    """All epochs. Policy and value learn at the same time, on two devices if there are two.

    Both go through the same shuffles. The second device changes the time it takes, not the result. Between
    two blocks of epochs the advantages are computed anew.
    """
    iteration, ppo, learner = int(state.iteration), config.ppo, state.learner
    prepared, rows = ready
    policy_rate, value_rate = (
        np.float32(learning_rate(start, iteration, config))
        for start in (ppo.policy_learning_rate, ppo.value_learning_rate)
    )
    policy, policy_opt, value, value_opt = (
        learner.policy,
        learner.policy_opt,
        learner.value,
        learner.value_opt,
    )
    batch, stopped = prepared.batch, np.array(False)
    epochs: list[PolicyEpochs] = []
    losses: list[Array] = []
    finite: list[tuple[Array, Array]] = []
    for block in blocks(len(rows), ppo):
        if epochs and prepared.transitions is not None:
            batch = recomputed(on_host(value), batch, prepared.transitions, ppo=ppo)
        policy, policy_opt, seen, stopped, policy_finite = learn_policy(
            policy, policy_opt, batch, policy_rate, std_rate(config), rows[block], stopped, config=ppo
        )
        value, value_opt, loss, value_finite = learn_value(
            value, value_opt, on_host(batch), value_rate, rows[block], config=ppo
        )
        epochs.append(seen)
        losses.append(loss)
        finite.append((policy_finite, value_finite))
    after = TrainState(
        learner=Learner(policy, value, policy_opt, value_opt),
        normalizer=prepared.normalizer,
        running_return=prepared.running_return,
        key=state.key,
        iteration=np.array(iteration + 1, np.int32),
    )
    policies, values = (all(map(bool, kind)) for kind in zip(*finite, strict=True))
    return Updated(after, prepared, _joined(epochs), _joined(losses), policies, values)


def _joined(blocks: Sequence[PyTree[Array]]) -> Any:
    """One after the other, as NumPy's arrays: they may be on any device."""
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *blocks)
