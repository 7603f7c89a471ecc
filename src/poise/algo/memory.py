"""Networks that remember: a gated recurrent unit, an LSTM or the last observations, and sequences as what is
learned from.

A carry is what the memory of one environment holds, one array of ``S`` numbers. It is set to 0 at the first
step of each episode.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

from poise.config import Memory
from poise.types import Tensor


class Cell(eqx.Module):
    """One step of a memory of H units: from the features of an observation and the carry to a new carry.

        gru    r, z = sigmoid(x W + h U + b),  n = tanh(x W_n + b_n + r (h U_n)),  h' = (1 - z) n + z h
        lstm   i, f, g, o = x W + h U + b,  c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')

    GRU: Cho et al. 2014, arXiv:1406.1078, with the reset gate after the product. LSTM: Hochreiter and
    Schmidhuber 1997, with a forget gate whose bias starts at 1 (Gers et al. 2000). The carry of a GRU is h,
    that of an LSTM is h and c, one after the other.
    """

    from_input: Float[Array, "features gates"]
    from_memory: Float[Array, "H gates"]
    bias: Float[Array, " gates"]
    kind: Memory = eqx.field(static=True)

    def __init__(self, num_features: int, size: int, kind: Memory, *, key: PRNGKeyArray):
        gates = 3 if kind == "gru" else 4
        for_input, for_memory = jax.random.split(key)
        orthogonal = jax.nn.initializers.orthogonal(1.0)
        # of each gate by itself: orthogonal matrices keep the size of what passes through them
        inputs = [
            orthogonal(k, (num_features, size), jnp.float32) for k in jax.random.split(for_input, gates)
        ]
        memories = [orthogonal(k, (size, size), jnp.float32) for k in jax.random.split(for_memory, gates)]
        self.from_input, self.from_memory = jnp.concatenate(inputs, axis=1), jnp.concatenate(memories, axis=1)
        bias = jnp.zeros(gates * size)
        self.bias = bias if kind == "gru" else bias.at[size : 2 * size].set(1.0)
        self.kind = kind

    @property
    def size(self) -> int:
        """Units, H."""
        return self.from_memory.shape[0]

    @property
    def carry_size(self) -> int:
        """Numbers of a carry, S."""
        return self.size if self.kind == "gru" else 2 * self.size

    def project(self, features: Float[Array, " features"]) -> Float[Array, " gates"]:
        """What the features give to the gates."""
        return features @ self.from_input + self.bias

    def step(self, carry: Float[Array, " S"], gates: Float[Array, " gates"]) -> Float[Array, " S"]:
        """The carry after a step whose features gave ``gates``."""
        hidden = self.output(carry)
        fed_back = hidden @ self.from_memory
        if self.kind == "gru":
            (r, z, n), (hr, hz, hn) = (jnp.split(x, 3) for x in (gates, fed_back))
            r, z = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(z + hz)
            return (1 - z) * jnp.tanh(n + r * hn) + z * hidden
        i, f, g, o = jnp.split(gates + fed_back, 4)
        cell = jax.nn.sigmoid(f) * carry[self.size :] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(cell), cell])

    def output(self, carry: Float[Array, " S"]) -> Float[Array, " H"]:
        """What the layers after the memory read: h."""
        return carry[: self.size]


class Window(eqx.Module):
    """The features of the last K observations, as they are. It has no parameters.

    The carry has all K, the newest last; before an episode's start they are 0.
    """

    num_features: int = eqx.field(static=True)
    length: int = eqx.field(static=True)  # K

    @property
    def size(self) -> int:
        """Numbers that the layers after it read besides the newest features."""
        return (self.length - 1) * self.num_features

    @property
    def carry_size(self) -> int:
        return self.length * self.num_features

    def project(self, features: Float[Array, " features"]) -> Float[Array, " features"]:
        return features

    def step(self, carry: Float[Array, " S"], features: Float[Array, " features"]) -> Float[Array, " S"]:
        """The carry without its oldest features and with these."""
        return jnp.concatenate([carry[self.num_features :], features])

    def output(self, carry: Float[Array, " S"]) -> Float[Array, " size"]:
        """What the layers after it read: all but the newest features, which they read in any case."""
        return carry[: self.size]


AnyMemory = Cell | Window


def flatten(x: Shaped[Tensor, "T N ..."]) -> Shaped[Array, "B ..."]:
    """One row per step of an environment, in C order."""
    return jnp.reshape(x, (-1, *x.shape[2:]))


def to_items(
    rows: Shaped[Array, "B ..."], *, shape: tuple[int, int], length: int | None
) -> Shaped[Array, "items ..."]:
    """The rows as items; ``shape``: T and N. Without ``length`` an item is a row. Otherwise it is a sequence
    of so many steps of one environment, ``[N * T / L, L, ...]``.
    """
    if length is None:
        return rows
    by_env = jnp.swapaxes(rows.reshape(*shape, *rows.shape[1:]), 0, 1)
    return by_env.reshape(-1, length, *rows.shape[1:])


def from_items(
    items: Shaped[Array, "items ..."], *, shape: tuple[int, int], length: int | None
) -> Shaped[Array, "B ..."]:
    """The rows of items again, in C order of [T, N]."""
    if length is None:
        return items
    num_steps, num_envs = shape
    return flatten(jnp.swapaxes(items.reshape(num_envs, num_steps, *items.shape[2:]), 0, 1))


def play(
    network: Any, obs: PyTree[Array], begins: Bool[Array, "T N"] | None, carry: Float[Array, "N S"] | None
) -> tuple[Any, Float[Array, "T N S"] | None]:
    """The outputs for rows ``[B, ...]`` in C order of [T, N], and the carry after each step.

    ``carry``: before the first step. Without a memory rows are independent, and there are no carries.
    """
    if network.memory is None:
        return jax.vmap(network)(obs), None
    assert begins is not None
    features = jax.vmap(network.encoder)(obs)
    gates = jax.vmap(network.memory.project)(features)

    def step(carry, now):
        gates, begins = now
        carry = jax.vmap(network.memory.step)(jnp.where(begins[:, None], 0.0, carry), gates)
        return carry, carry

    by_time = gates.reshape(*begins.shape, gates.shape[-1])
    _, after = jax.lax.scan(step, carry, (by_time, begins))
    return _read(network, features, flatten(after), obs), after


def play_on(network: Any, obs: PyTree[Array], after: Float[Array, "T N S"] | None) -> Any:
    """The outputs for rows that are each seen after the steps of ``after``."""
    if network.memory is None:
        return jax.vmap(network)(obs)
    features = jax.vmap(network.encoder)(obs)
    gates = jax.vmap(network.memory.project)(features)
    carry = jax.vmap(network.memory.step)(flatten(after), gates)
    return _read(network, features, carry, obs)


def play_items(
    network: Any,
    obs: PyTree[Array],
    begins: Bool[Array, "M L"] | None,
    carry: Float[Array, "M S"] | None,
) -> Any:
    """The outputs for each row of a minibatch of items. Rows of a sequence follow one another.

    Without ``begins`` an item is a row. ``carry``: before the first step of each sequence.
    """
    if begins is None:
        return jax.vmap(network)(obs)
    if network.memory is None:
        return jax.vmap(network)(jax.tree.map(flatten, obs))
    by_time = jax.tree.map(lambda x: flatten(jnp.swapaxes(x, 0, 1)), obs)
    outputs, _ = play(network, by_time, begins.T, carry)
    shape = begins.shape[1], begins.shape[0]
    return jax.tree.map(lambda x: flatten(jnp.swapaxes(x.reshape(*shape, *x.shape[1:]), 0, 1)), outputs)


def _read(network: Any, features: Float[Array, "B features"], carry: Float[Array, "B S"], obs: Any) -> Any:
    """What the layers after the memory give for each row."""
    remembered = jax.vmap(network.memory.output)(carry)
    return jax.vmap(network.read)(jnp.concatenate([features, remembered], axis=1), obs)


def first_carries(
    carry: Float[Array, "N S"] | None, after: Float[Array, "T N S"] | None, length: int | None
) -> Float[Array, "items S"] | None:
    """The carry before the first step of each sequence of ``to_items``; None without a memory."""
    if carry is None or after is None or length is None:
        return None
    before = jnp.concatenate([carry[None], after[length - 1 : -1 : length]])
    return flatten(jnp.swapaxes(before, 0, 1))


def empty_carry(cell: AnyMemory | None, num_envs: int) -> Float[Array, "N S"] | None:
    """The carries before the first step; None without a memory."""
    return None if cell is None else jnp.zeros((num_envs, cell.carry_size))
