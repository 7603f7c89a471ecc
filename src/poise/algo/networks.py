"""The policy and the value function: two separate networks, written for one observation."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from poise import config as cfg
from poise.algo.distributions import Categorical, Choices, DiagGaussian, Distribution, Joint, masked
from poise.algo.encoders import MLP, Encoder
from poise.algo.memory import AnyMemory, Cell, Window
from poise.own.network import OwnNetwork, make_network
from poise.spec import MASK, Spec


class Policy(eqx.Module):
    """From an observation to the distribution of the action: encoder, memory if there is one, layers, heads.

    The first outputs are for the dimensions of boxes, N(mu, sigma^2), with one of three deviations:

    fixed        sigma = std_init
    predicted    sigma = softplus(pre) * std_init / softplus(0) + std_min, pre an output of the network
                 (the form of Acme's MultivariateNormalDiagHead, Hoffman et al. 2020, arXiv:2006.00979)
    independent  sigma = exp(log_std) + std_min, log_std a parameter, log(std_init) at the start

    ``head_tanh`` "mean" puts a tanh on mu, "all" on mu and pre. The other outputs are the logits of choices,
    softmax(logits(obs)). The log-probability of an action is the sum over its parts.
    """

    mlp: MLP | OwnNetwork
    log_std: Float[Array, " A"] | None
    encoder: Encoder
    memory: AnyMemory | None
    box_size: int = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)  # of the choices
    is_index: bool = eqx.field(static=True)  # whether an action is the index of one choice, not a row
    std: Literal["fixed", "predicted", "independent"] = eqx.field(static=True)
    std_init: float = eqx.field(static=True)
    std_min: float = eqx.field(static=True)
    head_tanh: Literal["none", "mean", "all"] = eqx.field(static=True)

    def __init__(self, spec: Spec, config: cfg.Policy, *, history: int = 1, key: PRNGKeyArray):
        box_outputs = spec.box_size * (2 if config.std == "predicted" else 1)
        # orthogonal weights with a small gain: at first, the outputs are close to 0 for every observation
        outputs = box_outputs + spec.num_logits
        self.encoder, self.memory, self.mlp = trunk(
            spec, config, outputs, history=history, last_gain=0.01, key=key
        )
        self.box_size, self.sizes, self.is_index = spec.box_size, spec.sizes, spec.action_row == ()
        std_init = cfg.known(config.std_init) if spec.box_size else 1.0
        independent = config.std == "independent" and spec.box_size > 0
        self.log_std = jnp.full(spec.box_size, math.log(std_init)) if independent else None
        self.std, self.std_init, self.std_min = config.std, std_init, config.std_min
        self.head_tanh = config.head_tanh

    def __call__(self, obs: PyTree[Array]) -> Distribution:
        return self.read(self.encoder(obs), obs)

    def read(self, features: Float[Array, " features"], obs: PyTree[Array]) -> Distribution:
        """The distribution for what encoder and memory give; ``obs`` may hold a mask of the choices."""
        out = self.mlp(features)
        if not self.sizes:
            return self._box(out)
        logits = out[len(out) - sum(self.sizes) :]
        if isinstance(obs, dict) and MASK in obs:
            logits = masked(logits, obs[MASK])
        if self.is_index:
            return Categorical(logits)
        choices = Choices(logits, self.sizes)
        return Joint(self._box(out[: len(out) - sum(self.sizes)]), choices) if self.box_size else choices

    def _box(self, out: Float[Array, " outputs"]) -> DiagGaussian:
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


class ValueFunction(eqx.Module):
    """V(obs), the expected discounted sum of the normalized rewards from here on."""

    mlp: MLP | OwnNetwork
    encoder: Encoder
    memory: AnyMemory | None

    def __init__(self, spec: Spec, config: cfg.Value, *, history: int = 1, key: PRNGKeyArray):
        self.encoder, self.memory, self.mlp = trunk(spec, config, 1, history=history, last_gain=1.0, key=key)

    def __call__(self, obs: PyTree[Array]) -> Float[Array, ""]:
        return self.read(self.encoder(obs), obs)

    def read(self, features: Float[Array, " features"], obs: PyTree[Array]) -> Float[Array, ""]:
        """The value for what encoder and memory give."""
        return self.mlp(features)[0]


def trunk(
    spec: Spec,
    config: cfg.Policy | cfg.Value,
    outputs: int,
    *,
    history: int,
    last_gain: float,
    key: PRNGKeyArray,
) -> tuple[Encoder, AnyMemory | None, MLP | OwnNetwork]:
    """What both networks are made of. Layers after a memory read the features and what it remembers."""
    encoder = Encoder(spec, config.see, config.images, key=jax.random.fold_in(key, 1))
    memory, inputs = None, encoder.num_features
    if history > 1:
        memory = Window(inputs, history)
    elif config.memory != "none":
        memory = Cell(
            inputs, config.memory_size or cfg.USUAL_MEMORY, config.memory, key=jax.random.fold_in(key, 2)
        )
    inputs += 0 if memory is None else memory.size
    if config.network is not None:
        own = make_network(f"{config.prefix}network", config.network, inputs, outputs, key=key)
        return encoder, memory, own
    return encoder, memory, MLP((inputs, *config.hidden, outputs), config, last_gain=last_gain, key=key)


def scale_log_std(step: Any, factor: float | Float[Array, ""]) -> Any:
    """A step of a network's parameters; the entry for an independent log_std is multiplied by ``factor``."""
    if isinstance(step, Policy) and step.log_std is not None:
        return eqx.tree_at(lambda s: s.log_std, step, factor * step.log_std)
    return step
