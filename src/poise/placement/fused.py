"""Drives iterations on an accelerator: many of them are one compiled call, from start states to metrics.

A GPU does the work of an iteration in less time than a process needs to ask for it. So it is asked for a
number of iterations at once, and returns what is recorded of each.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Int, PyTree

from poise.types import Tensor

# (what an iteration changes, what it only reads, its number within the call)
# -> (the same after it, what is recorded of it, what is kept of the last one alone)
Iterate = Callable[[Any, Any, Any], tuple[Any, Any, Any]]


@partial(jax.jit, static_argnames=("iterate", "most"))
def run_iterations(
    now: PyTree, given: PyTree, count: Int[Tensor, ""], *, iterate: Iterate, most: int
) -> tuple[PyTree, PyTree, PyTree]:
    """``count`` iterations, at most ``most``. Another count compiles nothing and changes no bit.

    Returns what they have led to; what is recorded of each, ``[most, ...]``, zeros from ``count`` on; and
    what is kept of the last one.
    """
    _, row, last = jax.eval_shape(iterate, now, given, jax.ShapeDtypeStruct((), jnp.int32))
    rows = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), row)
    last = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), last)

    def body(number, carry):
        now, rows, _ = carry
        now, row, last = iterate(now, given, number)
        return now, jax.tree.map(lambda all, x: all.at[number].set(x), rows, row), last

    return jax.lax.fori_loop(0, jnp.asarray(count), body, (now, rows, last))
