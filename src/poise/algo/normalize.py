"""Running statistics and the scaling with them. They are updated once per iteration and saved."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from poise.algo.encoders import Pixels, image_size, unit_pixels
from poise.algo.groups import moments_of_groups
from poise.algo.hyperparameters import Number
from poise.spec import NUMBERS, Leaf, Spec
from poise.types import Tensor

EPSILON = 1e-8  # added to a variance before its square root: an entry that never changes is divided by 1e-4


class RunningStats(eqx.Module):
    """Mean and variance of all samples seen, each of shape S; mean 0, variance 1 before the first.

    ``m2`` is the sum of squared distances from the mean. Merging: Chan, Golub, LeVeque 1979,
    "Updating formulae and a pairwise algorithm for computing sample variances", eq. 2.1.
    """

    count: Float[Array, ""]
    mean: Float[Array, "*S"]
    m2: Float[Array, "*S"]

    @classmethod
    def empty(cls, *shape: int) -> "RunningStats":
        return cls(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))

    @property
    def var(self) -> Float[Array, "*S"]:
        """Population variance."""
        return jnp.where(self.count > 0, self.m2 / jnp.maximum(self.count, 1), 1.0)  # never 0 / 0

    @property
    def std(self) -> Float[Array, "*S"]:
        return jnp.sqrt(self.var + EPSILON)

    def merge(self, sample: Float[Array, "B *S"], groups: int = 1) -> "RunningStats":
        """The statistics of all samples so far and of these B, of each group."""
        size = jnp.asarray(sample.shape[0] * groups, self.count.dtype)
        mean, m2 = moments_of_groups(sample, groups)
        count = self.count + size
        delta = mean - self.mean  # from the old mean to that of the sample
        return RunningStats(
            count,
            self.mean + delta * (size / count),
            self.m2 + m2 + delta**2 * (self.count * size / count),
        )


class Normalizer(eqx.Module):
    """Statistics of the observations and of the discounted return. An iteration returns new ones.

    ``origin``: a constant that was subtracted from every observation that statistics and networks see, to
    keep its digits (``poise.training.origin``). None: nothing was. ``images``: of each channel of an image,
    its pixels from 0 to 1. ``leaves``: of the observation, if it is more than numbers that are normalized.
    """

    obs: RunningStats
    ret: RunningStats
    origin: Float[Tensor, " O"] | None = None
    images: dict[str, RunningStats] = eqx.field(default_factory=dict)
    leaves: tuple[Leaf, ...] = eqx.field(static=True, default=())

    @classmethod
    def empty(cls, spec: Spec) -> "Normalizer":
        images = {leaf.name: RunningStats.empty(image_size(leaf)[2]) for leaf in spec.images}
        plain = all(leaf.kind == "vector" for leaf in spec.obs)
        leaves = () if plain else spec.obs
        return cls(RunningStats.empty(spec.obs_size), RunningStats.empty(), images=images, leaves=leaves)

    def observe(self, obs: PyTree[Array], groups: int = 1) -> "Normalizer":
        """The normalizer with the statistics of these observations too, ``[B, ...]`` of each group."""
        if not isinstance(obs, dict):
            return dataclasses.replace(self, obs=self.obs.merge(obs, groups))
        rows = next(iter(obs.values())).shape[0]
        numbers = self.obs.merge(obs.get(NUMBERS, jnp.zeros((rows, 0))), groups)
        images = {}
        for leaf in (x for x in self.leaves if x.kind == "image"):
            pixels = unit_pixels(leaf, obs[leaf.name])
            images[leaf.name] = self.images[leaf.name].merge(pixels.reshape(-1, pixels.shape[-1]), groups)
        return dataclasses.replace(self, obs=numbers, images=images)

    def scale(self, obs: PyTree[Array], *, enabled: bool, bound: Number | None) -> PyTree[Array]:
        """One observation as the networks read it. Zeros and ones of one-hot leaves stay as they are."""
        if not isinstance(obs, dict):
            return self._scale_numbers(obs, enabled, bound)
        scaled = dict(obs)
        if NUMBERS in obs:
            scaled[NUMBERS] = self._scale_numbers(obs[NUMBERS], enabled, bound)
        for name, stats in self.images.items():
            mean, std = (stats.mean, stats.std) if enabled else (0 * stats.mean, 0 * stats.mean + 1)
            scaled[name] = Pixels(obs[name], mean, std)
        return scaled

    def _scale_numbers(
        self, numbers: Float[Array, " O"], enabled: bool, bound: Number | None
    ) -> Float[Array, " O"]:
        scaled = normalize_obs(self.obs, numbers, enabled=enabled, bound=bound)
        return jnp.where(self.one_hot, numbers, scaled) if self.leaves else scaled

    @property
    def one_hot(self) -> Bool[np.ndarray, " O"]:
        """Which numbers are zeros and ones that are not normalized."""
        kinds, widths = [x.kind == "one_hot" for x in self.leaves], [x.width for x in self.leaves]
        return np.repeat(kinds, widths) if self.leaves else np.zeros(self.obs.mean.shape, bool)


def numbers_of(obs: Any) -> Any:
    """The numbers of an observation, without images and masks."""
    return obs[NUMBERS] if isinstance(obs, dict) else obs


def with_numbers(obs: Any, numbers: Float[Tensor, "*B O"]) -> Any:
    """The observation with other numbers."""
    return {**obs, NUMBERS: numbers} if isinstance(obs, dict) else numbers


def normalize_obs(
    stats: RunningStats, obs: Float[Array, " O"], *, enabled: bool, bound: Number | None
) -> Float[Array, " O"]:
    """clip((obs - mean) / sqrt(var + 1e-8), -bound, bound); without ``enabled`` only the clip."""
    if enabled:
        obs = (obs - stats.mean) / stats.std
    return obs if bound is None else jnp.clip(obs, -bound, bound)


def normalize_reward(
    stats: RunningStats, reward: Float[Array, "T N"], *, enabled: bool, bound: Number | None
) -> Float[Array, "T N"]:
    """clip(reward / sqrt(var of the return + 1e-8), -bound, bound); without ``enabled`` only the clip.

    The default bound of 1,000 is almost never reached. A bound of 10 would often be. If an episode's only
    reward comes at its end, the return is 0 at nearly every step and its deviation is small: rewards of 1 and
    3 would become equal.
    """
    if enabled:
        reward = reward / stats.std  # no mean is subtracted: that would change which policy is best
    return reward if bound is None else jnp.clip(reward, -bound, bound)


def discounted_return(
    before: Float[Array, " N"], reward: Float[Array, "T N"], done: Bool[Array, "T N"], gamma: Number
) -> tuple[Float[Array, " N"], Float[Array, "T N"]]:
    """The running return of each environment, G_t = gamma G_{t-1} + R_t; it starts at 0 in each episode.

    Returns G after the last step, to continue with, and G at every step. It sums past rewards, not future
    ones, and serves only as a scale, as in Engstrom et al. 2020, arXiv:2005.12729, section 2.
    """

    def step(running, now):
        reward, done = now
        running = gamma * running + reward
        return jnp.where(done, 0.0, running), running

    return jax.lax.scan(step, before, (reward, done), unroll=8)
