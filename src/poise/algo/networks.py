"""The policy and the value function: two separate MLPs, written for one observation."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from poise import config as cfg
from poise.algo.distributions import Categorical, DiagGaussian, Distribution
from poise.spec import Spec

Activation = Literal["tanh", "relu"]
Init = Literal["orthogonal", "uniform"]


class MLP(eqx.Module):
    """Fully connected layers, ``x W + b``, with an activation between them and none at the end.

    Orthogonal initialization: Saxe et al. 2013, arXiv:1312.6120; gain sqrt 2 in the hidden layers,
    ``last_gain`` in the last, biases 0. Uniform: weights and biases within 1 / sqrt(inputs).
    """

    weight: tuple[Float[Array, "inputs outputs"], ...]
    bias: tuple[Float[Array, " outputs"], ...]
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        widths: tuple[int, ...],
        activation: Activation,
        init: Init,
        *,
        last_gain: float,
        key: PRNGKeyArray,
    ):
        gains = [math.sqrt(2)] * (len(widths) - 2) + [last_gain]  # sqrt 2 keeps the variance of a ReLU layer
        keys = jax.random.split(key, len(gains))
        layers = [
            _layer(inputs, outputs, init, gain, key=key)
            for inputs, outputs, gain, key in zip(widths[:-1], widths[1:], gains, keys, strict=True)
        ]
        self.weight = tuple(weight for weight, _ in layers)
        self.bias = tuple(bias for _, bias in layers)
        self.activation = activation

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        activate = {"tanh": jnp.tanh, "relu": jax.nn.relu}[self.activation]
        *hidden, last = zip(self.weight, self.bias, strict=True)
        for weight, bias in hidden:
            x = activate(x @ weight + bias)
        return x @ last[0] + last[1]


def _layer(inputs: int, outputs: int, init: Init, gain: float, *, key: PRNGKeyArray):
    match init:
        case "orthogonal":
            weight = jax.nn.initializers.orthogonal(gain)(key, (inputs, outputs), jnp.float32)
            return weight, jnp.zeros(outputs)
        case "uniform":
            limit = 1 / math.sqrt(inputs)
            for_weight, for_bias = jax.random.split(key)
            return (
                jax.random.uniform(for_weight, (inputs, outputs), minval=-limit, maxval=limit),
                jax.random.uniform(for_bias, (outputs,), minval=-limit, maxval=limit),
            )


class GaussianPolicy(eqx.Module):
    """N(mu(obs), sigma(obs)^2) with one of three deviations:

    fixed        sigma = std_init
    predicted    sigma = softplus(pre) * std_init / softplus(0) + std_min, pre an output of the network
                 (the form of Acme's MultivariateNormalDiagHead, Hoffman et al. 2020, arXiv:2006.00979)
    independent  sigma = exp(log_std) + std_min, log_std a parameter, log(std_init) at the start

    ``head_tanh`` "mean" puts a tanh on mu, "all" on mu and pre.
    """

    mlp: MLP
    log_std: Float[Array, " A"] | None
    std: Literal["fixed", "predicted", "independent"] = eqx.field(static=True)
    std_init: float = eqx.field(static=True)
    std_min: float = eqx.field(static=True)
    head_tanh: Literal["none", "mean", "all"] = eqx.field(static=True)

    def __init__(self, spec: Spec, config: cfg.Policy, *, key: PRNGKeyArray):
        outputs = spec.action_size * (2 if config.std == "predicted" else 1)
        widths = (spec.obs_size, *config.hidden, outputs)
        # orthogonal weights with a small gain: at first, the mean is close to 0 for every observation
        self.mlp = MLP(widths, config.activation, config.init, last_gain=0.01, key=key)
        independent = config.std == "independent"
        std_init = cfg.known(config.std_init)
        self.log_std = jnp.full(spec.action_size, math.log(std_init)) if independent else None
        self.std, self.std_init, self.std_min = config.std, std_init, config.std_min
        self.head_tanh = config.head_tanh

    def __call__(self, obs: Float[Array, " O"]) -> DiagGaussian:
        out = self.mlp(obs)
        if self.head_tanh == "all":
            out = jnp.tanh(out)
        if self.std == "predicted":
            mean, pre = jnp.split(out, 2)
            std = jax.nn.softplus(pre) * (self.std_init / math.log(2)) + self.std_min  # softplus(0) = log 2
        elif self.log_std is not None:  # independent
            mean, std = out, jnp.exp(self.log_std) + self.std_min
        else:  # fixed
            mean, std = out, jnp.full_like(out, self.std_init)
        return DiagGaussian(jnp.tanh(mean) if self.head_tanh == "mean" else mean, std)


class CategoricalPolicy(eqx.Module):
    """softmax(logits(obs)) over the environment's choices."""

    mlp: MLP

    def __init__(self, spec: Spec, config: cfg.Policy, *, key: PRNGKeyArray):
        widths = (spec.obs_size, *config.hidden, spec.action_size)  # one logit for each choice
        self.mlp = MLP(widths, config.activation, config.init, last_gain=0.01, key=key)

    def __call__(self, obs: Float[Array, " O"]) -> Categorical:
        return Categorical(self.mlp(obs))


Policy = GaussianPolicy | CategoricalPolicy


def make_policy(spec: Spec, config: cfg.Policy, *, key: PRNGKeyArray) -> Policy:
    """A new policy for the environment's action space."""
    kind = CategoricalPolicy if spec.discrete else GaussianPolicy
    return kind(spec, config, key=key)


class ValueFunction(eqx.Module):
    """V(obs), the expected discounted sum of the normalized rewards from here on."""

    mlp: MLP

    def __init__(self, spec: Spec, config: cfg.Value, *, key: PRNGKeyArray):
        widths = (spec.obs_size, *config.hidden, 1)
        self.mlp = MLP(widths, config.activation, config.init, last_gain=1.0, key=key)

    def __call__(self, obs: Float[Array, " O"]) -> Float[Array, ""]:
        return self.mlp(obs)[0]


def scale_log_std(step: Any, factor: float | Float[Array, ""]) -> Any:
    """A step of a network's parameters; the entry for an independent log_std is multiplied by ``factor``."""
    if isinstance(step, GaussianPolicy) and step.log_std is not None:
        return eqx.tree_at(lambda s: s.log_std, step, factor * step.log_std)
    return step


def distributions(policy: Policy, obs: Float[Array, "B O"]) -> Distribution:
    """The action distribution of each row; its arrays carry a leading axis B."""
    return jax.vmap(policy)(obs)
