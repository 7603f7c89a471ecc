"""The state of a training, and the one it begins with."""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from poise import config as cfg
from poise.algo.memory import empty_carry
from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer
from poise.seeds import Stream, branch
from poise.spec import Spec
from poise.types import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-5  # of Adam


class Learner(eqx.Module):
    """Two networks and the states of their optimizers."""

    policy: Policy
    value: ValueFunction
    policy_opt: optax.OptState
    value_opt: optax.OptState


class TrainState(eqx.Module):
    """Everything that the algorithm carries from one iteration to the next.

    ``key`` never changes: the shuffles of an iteration are drawn from ``fold_in(key, iteration)``, so a
    training that resumes at any iteration draws the same ones. ``value_carry``: what the value function's
    memory holds before the next step of each environment; None without a memory. That of the policy acts, so
    it belongs to the rollout.
    """

    learner: Learner
    normalizer: Normalizer
    running_return: Float[Array, " N"]  # the discounted sum of past rewards of each running episode
    key: PRNGKeyArray
    iteration: Int[Tensor, ""]  # number of finished iterations
    value_carry: Float[Array, "N S"] | None = None


def init(
    root: PRNGKeyArray, *, spec: Spec, policy: cfg.Policy, value: cfg.Value, num_envs: int, history: int = 1
) -> TrainState:
    """The state before the first iteration. ``root`` is the key of the run's seed; ``policy`` has
    a value for every option."""
    networks = (
        Policy(spec, policy, history=history, key=branch(root, Stream.POLICY)),
        ValueFunction(spec, value, history=history, key=branch(root, Stream.VALUE)),
    )
    optimizer = make_optimizer(None)  # the limit of the gradient has no state
    state = TrainState(
        learner=Learner(*networks, *map(optimizer.init, networks)),  # pyright: ignore[reportArgumentType]
        normalizer=Normalizer.empty(spec),
        running_return=jnp.zeros(num_envs),
        key=branch(root, Stream.SHUFFLE),
        iteration=jnp.zeros((), jnp.int32),
        value_carry=empty_carry(networks[1].memory, num_envs),
    )
    # Some of these arrays are weakly typed, those that an update returns are not: it would compile twice.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)


def initial(spec: Spec, config: cfg.Config) -> dict[str, Any]:
    """The arguments of ``init`` besides the key. ``config`` is settled."""
    policy = dataclasses.replace(config.policy, std_rate=None)  # does not affect the state
    networks = {"policy": policy, "value": config.value, "history": config.history}
    return {"spec": spec, **networks, "num_envs": config.shape[1]}


def state_shapes(spec: Spec, config: cfg.Config) -> TrainState:
    """Shapes and dtypes of the state; makes no array and compiles nothing. ``config`` is settled."""
    root = jax.eval_shape(jax.random.key, jax.ShapeDtypeStruct((), jnp.uint32))
    return jax.eval_shape(partial(init, **initial(spec, config)), root)


def carry_size(spec: Spec, config: cfg.Config) -> int:
    """Numbers that the policy's memory carries for one environment, S; 0 without a memory."""
    if not config.has_memory:
        return 0
    memory = state_shapes(spec, config.settled(spec)).learner.policy.memory
    return 0 if memory is None else memory.carry_size


def make_optimizer(max_grad_norm: float | Float[Array, ""] | None) -> optax.GradientTransformation:
    """Clipping of the gradient by its global norm, then Adam (eps 1e-5) without its step size.

    The step size changes with each iteration, so the caller applies it.
    """
    limit = optax.identity() if max_grad_norm is None else optax.clip_by_global_norm(max_grad_norm)  # pyright: ignore[reportArgumentType]
    return optax.flatten(optax.chain(limit, optax.scale_by_adam(*BETAS, eps=EPSILON)))
