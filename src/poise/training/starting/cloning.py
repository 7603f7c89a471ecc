"""Behavior cloning: fits a policy to demonstrations before PPO begins, by maximum likelihood.

Pomerleau 1989, "ALVINN". The loss of a minibatch is the mean of -log pi(action | observation), with the
policy's own distribution, whose deviation is a constant here: fitted, it would be that of the errors, close
to 0, and PPO would have nothing left to explore with (docs/starting.md). The optimizer is that of PPO, and
begins anew after it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Shaped

from poise.algo.distributions import DiagGaussian, Distribution, Joint
from poise.algo.hyperparameters import Hyperparameters
from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.algo.state import TrainState, make_optimizer
from poise.algo.update import descend
from poise.config import Config
from poise.envs.packing import Obs
from poise.errors import TrainingError
from poise.seeds import Stream, stream_key
from poise.training.acting import respond
from poise.training.origin import obs_from_origin, with_origin


class Demonstrations(NamedTuple):
    """Steps that somebody has played, in any order.

    ``obs``: as a policy reads them before it normalizes, ``[B, ...]``. ``action``: in the policy's units.
    """

    obs: Obs
    action: Shaped[np.ndarray, "B ..."]

    @property
    def num_rows(self) -> int:
        return len(self.action)


class Cloned(NamedTuple):
    """What the demonstrations have made, and their mean log-probability before and after, in nats a step."""

    policy: Policy
    normalizer: Normalizer
    before: float
    after: float


def normalizer_of(shown: Demonstrations, empty: Normalizer, config: Config, *, in_jax: bool) -> Normalizer:
    """The statistics of the demonstrations' observations. ``in_jax``: such environments have no origin."""
    obs = {k: v[None] for k, v in shown.obs.items()} if isinstance(shown.obs, dict) else shown.obs[None]
    origin = empty if in_jax else with_origin(empty, obs, config.normalize)
    relative = jax.tree.map(jnp.asarray, obs_from_origin(shown.obs, origin.origin))
    return origin.observe(relative)


def clone(
    state: TrainState,
    shown: Demonstrations,
    config: Config,
    *,
    in_jax: bool,
    watch: Callable[[int], None] = lambda epoch: None,
) -> Cloned:
    """Fits the policy of ``state``, a training's first, to the demonstrations.

    Args:
        state: with random networks.
        shown: at least one minibatch of them is learned from in an epoch, the remainder of a shuffle is not.
        config: settled; the learning rate is the first of PPO's.
        in_jax: whether the environment is written in JAX.
        watch: is called with the number of each epoch, from 1.

    Raises:
        TrainingError: the policy became infinite or NaN.
    """
    normalizer = normalizer_of(shown, state.normalizer, config, in_jax=in_jax)
    obs = jax.tree.map(jnp.asarray, obs_from_origin(shown.obs, normalizer.origin))
    action, hyper = jnp.asarray(shown.action), Hyperparameters.of(config, 0)
    policy = jax.device_put(state.learner.policy, jax.local_devices()[0])
    opt: Any = make_optimizer(None).init(policy)  # pyright: ignore[reportArgumentType]
    key = stream_key(config.seed, Stream.DEMONSTRATIONS)
    before = _log_prob(policy, normalizer, obs, action, hyper)
    size = min(config.minibatch_size, shown.num_rows)
    for epoch in range(config.demonstration_epochs):
        rows = _shuffled(jax.random.fold_in(key, epoch), shown.num_rows, size)
        policy, opt = _epoch(policy, opt, normalizer, (obs, action), rows, hyper)
        watch(epoch + 1)
    after = float(_log_prob(policy, normalizer, obs, action, hyper))
    if not np.isfinite(after) or not all(np.isfinite(x).all() for x in jax.tree.leaves(policy)):
        raise TrainingError(
            "demonstrations: the policy became infinite or NaN; lower ppo.policy_learning_rate or "
            "demonstration_epochs"
        )
    return Cloned(policy, normalizer, float(before), after)


def _shuffled(key: PRNGKeyArray, count: int, size: int) -> Int[Array, "minibatches M"]:
    order = jax.random.permutation(key, count)
    return order[: count // size * size].reshape(-1, size)


@jax.jit
def _epoch(
    policy: Policy,
    opt: optax.OptState,
    normalizer: Normalizer,
    shown: tuple[PyTree[Array], Shaped[Array, "B ..."]],
    rows: Int[Array, "minibatches M"],
    hyper: Hyperparameters,
) -> tuple[Policy, optax.OptState]:
    """A step of Adam for each minibatch."""

    def step(now: tuple[Policy, optax.OptState], rows: Int[Array, " M"]):
        policy, opt = now
        obs, action = jax.tree.map(lambda x: x[rows], shown)
        gradient = jax.grad(lambda p: -_mean_log_prob(p, normalizer, obs, action, hyper))(policy)
        return descend(policy, opt, gradient, hyper.policy_step_size, hyper), None

    now, _ = jax.lax.scan(step, (policy, opt), rows)
    return now


def _mean_log_prob(
    policy: Policy, normalizer: Normalizer, obs: Any, action: Any, hyper: Hyperparameters
) -> Float[Array, ""]:
    def one(obs: Any, action: Any) -> Float[Array, ""]:
        reads = {"enabled": hyper.normalize_obs, "bound": hyper.obs_bound}
        distribution, _ = respond(policy, normalizer, obs, None, **reads)
        return _constant_std(distribution).log_prob(action)

    return jnp.mean(jax.vmap(one)(obs, action))


def _constant_std(given: Distribution) -> Distribution:
    """The distribution with a deviation that has no gradient."""
    match given:
        case DiagGaussian():
            return DiagGaussian(given.mean, jax.lax.stop_gradient(given.std))
        case Joint():
            box = DiagGaussian(given.box.mean, jax.lax.stop_gradient(given.box.std))
            return Joint(box, given.choices)
        case _:
            return given


_log_prob = jax.jit(_mean_log_prob)
