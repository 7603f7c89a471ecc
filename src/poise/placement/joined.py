"""What groups of environments own and return, put together as one group of all environments would have it.

``G`` groups, each of ``n = N / G`` environments.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.minibatches import epoch_keys, shuffle
from poise.algo.state import TrainState
from poise.algo.update import Measured
from poise.config import Config
from poise.placement.mesh import Layout
from poise.types import Rollout, Transitions


def place(state: TrainState, layout: Layout) -> TrainState:
    """The state on the devices of the layout."""
    shared, own = layout.place(*eqx.partition(state, is_shared(state)))
    return eqx.combine(shared, own)


def is_shared(state: TrainState) -> Any:
    """False for what a group has of its own: the arrays with an axis of environments."""
    own = {"running_return", "value_carry"}
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].name not in own, state)


def _by_env(x: Shaped[Array, "G n ..."]) -> Shaped[Array, "N ..."]:
    return x.reshape(-1, *x.shape[2:])


def _by_step(x: Shaped[Array, "G T n ..."]) -> Shaped[Array, "T N ..."]:
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def joined(rollout: Rollout) -> Rollout:
    """The rollouts of all groups, side by side."""

    def join(path: Any, x: Array) -> Array:
        return (_by_env if path[0].name == "carry" else _by_step)(x)

    return jax.tree_util.tree_map_with_path(join, rollout)


def joined_rows(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays of the rows of a rollout, ``[G, T, n, ...]``, of all groups side by side."""
    return jax.tree.map(_by_step, arrays)


def joined_measures(measured: Measured, num_steps: int, *, by_rows: bool) -> Measured:
    """What was measured in learning, as one group would return it.

    ``by_rows``: an item is a row, not a sequence of one environment.
    """

    def rows(x: Shaped[Array, "G rows ..."]) -> Shaped[Array, "all_rows ..."]:
        """Of each group in C order of [T, N / G], of all in that of [T, N]."""
        by_step = x.reshape(x.shape[0], num_steps, -1, *x.shape[2:])
        return _by_step(by_step).reshape(-1, *x.shape[2:])

    prepared, of_first = measured.prepared, jax.tree.map(lambda x: x[0], measured)
    old = prepared.transitions
    steps = jax.tree.map(_by_step, (old.reward, old.terminated, old.truncated, old.begins))
    transitions = Transitions(
        reward=steps[0],
        next_obs=jax.tree.map(rows, old.next_obs),
        terminated=steps[1],
        truncated=steps[2],
        begins=steps[3],
        value_carry=jax.tree.map(_by_env, old.value_carry),
    )
    joined = dataclasses.replace(
        of_first.prepared,  # what all groups share
        batch=jax.tree.map(rows if by_rows else _by_env, prepared.batch),
        transitions=transitions,
        running_return=_by_env(prepared.running_return),
        value_carry=jax.tree.map(_by_env, prepared.value_carry),
        distribution=jax.tree.map(rows, prepared.distribution),
    )
    finite = measured.policy_finite.all(), measured.value_finite.all()
    return Measured(joined, of_first.policy, of_first.value_loss, *finite)


def group_shuffles(state: TrainState, config: Config, groups: int) -> Int[np.ndarray, "E minibatches M"]:
    """The items of each minibatch of an iteration, of all groups, by their places in the joined batch."""
    hyper = Hyperparameters.of(config, 0, groups=groups)
    num_steps, num_envs = config.shape
    size, parts = num_steps * num_envs // groups // (hyper.sequence_length or 1), []
    for group in range(groups):
        key = state.key if groups == 1 else jax.random.fold_in(state.key, group)  # as ``own_key``
        keys = epoch_keys(key, jnp.asarray(state.iteration), hyper.num_epochs)
        rows = np.asarray(shuffle(keys, size, hyper.num_items))
        if hyper.sequence_length is None:  # C order of [T, N]
            step, env = np.divmod(rows, num_envs // groups)
            parts.append(step * num_envs + group * (num_envs // groups) + env)
        else:
            parts.append(group * size + rows)
    return np.concatenate(parts, axis=-1).astype(np.int32)
