"""One step of Adam for large networks on a CPU.

On a CPU, XLA gives a loop over many numbers to several threads, and waits for all of them after it. But
policy and value function learn at the same time, so no thread is free: with two layers of 512 units, the
loops of Adam can take ten times as long as the matrix products. So the numbers of a large network are visited
in blocks, which XLA does not divide (benchmarks/NOTES.md).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from poise.algo.hyperparameters import Hyperparameters, Number
from poise.algo.networks import scale_log_std
from poise.algo.state import BETAS, EPSILON
from poise.types import Tensor

BLOCK = 2**14  # numbers: XLA divides loops that read and write 2**19 bytes or more
Vector = Float[Array, " numbers"]


def is_large(params: Any) -> bool:
    """Whether XLA would divide the loops of Adam among threads."""
    return jax.default_backend() == "cpu" and sum(leaf.size for leaf in jax.tree.leaves(params)) > BLOCK


def descend_in_blocks(
    params: Any, opt_state: Any, gradient: Any, step_size: Number, hyper: Hyperparameters
) -> tuple[Any, optax.OptState]:
    """``poise.algo.update.descend`` with the same state, ``BLOCK`` numbers after another.

    What remains of each array is one vector at the end.
    """
    clip, adam = opt_state
    count, mu, nu = adam.count + 1, adam.mu, adam.nu
    leaves, tree = jax.tree.flatten(params)
    rates = jax.tree.leaves(scale_log_std(tree.unflatten([step_size] * len(leaves)), hyper.std_rate))
    factor = clipping(gradient, hyper.max_grad_norm)
    flat, slopes = ([x.reshape(-1) for x in xs] for xs in (leaves, jax.tree.leaves(gradient)))
    ends = [sum(leaf.size for leaf in leaves[: i + 1]) for i in range(len(leaves))]
    starts = [0, *ends[:-1]]

    def block(i, carry, start, slope, rate):
        params, mu, nu = carry
        here, there = i * BLOCK, start + i * BLOCK
        m, v = moments(_cut(mu, there), _cut(nu, there), _cut(slope, here) * factor)
        # without the barrier XLA takes m and v for the step, computes them twice and copies mu and nu
        mu, nu = jax.lax.optimization_barrier((_put(mu, m, there), _put(nu, v, there)))
        step = direction(_cut(mu, there), _cut(nu, there), count)
        return _put(params, _cut(params, here) - rate * step, here), mu, nu

    for i, (start, slope, rate) in enumerate(zip(starts, slopes, rates, strict=True)):
        if slope.size < BLOCK:
            continue
        visit = partial(block, start=start, slope=slope, rate=rate)
        flat[i], mu, nu = jax.lax.fori_loop(0, slope.size // BLOCK, visit, (flat[i], mu, nu))

    tails = [slope.size // BLOCK * BLOCK for slope in slopes]
    rest = [slice(start + tail, end) for start, tail, end in zip(starts, tails, ends, strict=True)]
    mean, square = (jnp.concatenate([vector[part] for part in rest]) for vector in (mu, nu))
    slope = jnp.concatenate([slope[tail:] for slope, tail in zip(slopes, tails, strict=True)])
    m, v = moments(mean, square, slope * factor)
    m, v, step = jax.lax.optimization_barrier((m, v, direction(m, v, count)))
    at = 0
    for i, (part, tail, rate) in enumerate(zip(rest, tails, rates, strict=True)):
        own = slice(at, at + part.stop - part.start)
        mu, nu = _put(mu, m[own], part.start), _put(nu, v[own], part.start)
        flat[i] = _put(flat[i], flat[i][tail:] - rate * step[own], tail)
        at = own.stop
    after = tree.unflatten([x.reshape(leaf.shape) for x, leaf in zip(flat, leaves, strict=True)])
    return after, (clip, adam._replace(count=count, mu=mu, nu=nu))


def clipping(gradient: Any, max_norm: Number | None) -> Number:
    """The factor with which the gradient has at most this norm, of all its numbers."""
    if max_norm is None:
        return 1.0
    norm = optax.tree.norm(gradient)
    return jnp.where(norm < max_norm, 1.0, max_norm / norm)


def moments(mu: Vector, nu: Vector, slope: Vector) -> tuple[Vector, Vector]:
    """Adam's running means of the gradient and of its square, after one more."""
    first, second = BETAS
    return first * mu + (1 - first) * slope, second * nu + (1 - second) * slope**2


def direction(mu: Vector, nu: Vector, count: Int[Array, ""]) -> Vector:
    """Adam's step, without its size: the means as if they had not begun at 0, one by the root of the other.

    Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    mean, square = (
        x / (1 - decay ** count.astype(x.dtype)) for x, decay in zip((mu, nu), BETAS, strict=True)
    )
    return mean / (jnp.sqrt(square) + EPSILON)


def _cut(vector: Vector, at: Int[Tensor, ""]) -> Float[Array, " block"]:
    return jax.lax.dynamic_slice(vector, (at,), (BLOCK,))


def _put(vector: Vector, part: Float[Array, " part"], at: Int[Tensor, ""] | int) -> Vector:
    return jax.lax.dynamic_update_slice(vector, part, (at,))
