"""Action distributions of one observation. Batches are made with ``jax.vmap``."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class DiagGaussian(eqx.Module):
    """Normal distribution with independent dimensions, N(mean, std^2), in the policy's units."""

    mean: Float[Array, " A"]
    std: Float[Array, " A"]

    def log_prob(self, action: Float[Array, " A"]) -> Float[Array, ""]:
        """sum_i -((a_i - mu_i) / sigma_i)^2 / 2 - log sigma_i - log(2 pi) / 2, in nats."""
        z = (action - self.mean) / self.std
        return jnp.sum(-0.5 * z**2 - jnp.log(self.std) - 0.5 * math.log(2 * math.pi))

    def entropy(self) -> Float[Array, ""]:
        """sum_i log sigma_i + (1 + log(2 pi)) / 2, in nats."""
        return jnp.sum(jnp.log(self.std) + 0.5 * (1 + math.log(2 * math.pi)))

    def draw(self, noise: Float[Array, " A"]) -> Float[Array, " A"]:
        """The sample for standard normal ``noise``: mean + std * noise."""
        return self.mean + self.std * noise  # the noise comes from outside: NumPy acts with the same formula


class Categorical(eqx.Module):
    """A choice among A actions, P(a) = softmax(logits)[a]."""

    logits: Float[Array, " A"]

    def log_prob(self, action: Int[Array, ""]) -> Float[Array, ""]:
        return jax.nn.log_softmax(self.logits)[action]

    def entropy(self) -> Float[Array, ""]:
        log_p = jax.nn.log_softmax(self.logits)  # finite also where a probability underflows to 0
        return -jnp.sum(jnp.exp(log_p) * log_p)

    def draw(self, noise: Float[Array, " A"]) -> Int[Array, ""]:
        """The sample for standard Gumbel ``noise``: argmax(logits + noise).

        Gumbel (1954); the maximum of perturbed logits is distributed as softmax(logits).
        """
        return jnp.argmax(self.logits + noise)


Distribution = DiagGaussian | Categorical
