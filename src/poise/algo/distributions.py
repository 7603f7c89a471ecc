"""Action distributions of one observation. Batches are made with ``jax.vmap``."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

FORBIDDEN = -1e9  # the logit of a value that is masked or does not exist: its probability is 0 in float32


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


class Choices(eqx.Module):
    """K independent choices with ``sizes`` values each; their logits stand one after another, [M]."""

    logits: Float[Array, " M"]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def log_prob(self, action: Int[Array, " K"]) -> Float[Array, ""]:
        """The sum of the log-probabilities of the K values, in nats."""
        log_p = jax.nn.log_softmax(self._table(self.logits, FORBIDDEN), axis=1)
        return jnp.sum(jnp.take_along_axis(log_p, action[:, None], axis=1))

    def entropy(self) -> Float[Array, ""]:
        """The sum over the choices, in nats."""
        log_p = jax.nn.log_softmax(self._table(self.logits, FORBIDDEN), axis=1)
        return -jnp.sum(jnp.exp(log_p) * log_p)

    def draw(self, noise: Float[Array, " M"]) -> Int[Array, " K"]:
        """The samples for standard Gumbel ``noise``."""
        return jnp.argmax(self._table(self.logits + noise, 2 * FORBIDDEN), axis=1)

    def _table(self, values: Float[Array, " M"], rest: float) -> Float[Array, "K most"]:
        """A row for each choice; ``rest`` beyond its size."""
        most = max(self.sizes)
        if set(self.sizes) == {most}:
            return values.reshape(-1, most)
        starts = np.cumsum((0, *self.sizes[:-1]))[:, None]
        exists = np.arange(most) < np.array(self.sizes)[:, None]
        return jnp.where(exists, values[np.where(exists, starts + np.arange(most), 0)], rest)


class Joint(eqx.Module):
    """Boxes and choices together, independent of each other; an action is a row of both, [A + K]."""

    box: DiagGaussian
    choices: Choices

    def log_prob(self, action: Float[Array, " A_K"]) -> Float[Array, ""]:
        size = self.box.mean.shape[0]
        chosen = action[size:].astype(jnp.int32)
        return self.box.log_prob(action[:size]) + self.choices.log_prob(chosen)

    def entropy(self) -> Float[Array, ""]:
        return self.box.entropy() + self.choices.entropy()

    def draw(self, noise: Float[Array, " A_M"]) -> Float[Array, " A_K"]:
        size = self.box.mean.shape[0]
        chosen = self.choices.draw(noise[size:]).astype(jnp.float32)
        return jnp.concatenate([self.box.draw(noise[:size]), chosen])


Distribution = DiagGaussian | Categorical | Choices | Joint


def masked(logits: Float[Array, " M"], mask: Bool[Array, " M"]) -> Float[Array, " M"]:
    """The logits with those of forbidden values so low that their probability is 0.

    Probability, entropy, KL and greedy action then obey the mask. Huang and Ontanon 2020, arXiv:2006.14171.
    """
    return jnp.where(mask, logits, FORBIDDEN)
