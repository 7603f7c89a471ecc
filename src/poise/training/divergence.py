"""Where an iteration of learning diverged: repeats it, one minibatch at a time."""

import math
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Int

from poise.algo.hyperparameters import Hyperparameters
from poise.algo.losses import policy_loss, value_loss
from poise.algo.minibatches import take
from poise.algo.prepare import recompute
from poise.algo.state import TrainState
from poise.algo.update import Measured, descend
from poise.errors import DIVERGED, TOO_LARGE, TrainingError
from poise.placement.two_devices import Ready, epoch_blocks, epoch_rows
from poise.types import Batch

Kind = Literal["policy", "value"]


@partial(jax.jit, static_argnames="kind")
def _one(
    params: Any, opt_state: Any, batch: Batch, hyper: Hyperparameters, *, kind: Kind
) -> tuple[Any, Any, Any, Array, Array]:
    """Parameters and optimizer after one minibatch; its gradient, loss and approximate KL."""
    if kind == "policy":
        (loss, metrics), gradient = jax.value_and_grad(policy_loss, has_aux=True)(params, batch, hyper)
        kl, step_size = metrics.kl, hyper.policy_step_size
    else:
        loss, gradient = jax.value_and_grad(value_loss)(params, batch)
        kl, step_size = jax.numpy.zeros(()), hyper.value_step_size
    return *descend(params, opt_state, gradient, step_size, hyper), gradient, loss, kl


def refuse_infinite(
    metrics: Mapping[str, float | int | None],
    measured: Measured,
    before: TrainState,
    ready: Ready,
    hyper: Hyperparameters,
    place: str,
) -> None:
    """Stops a training in which something became infinite or NaN.

    ``before``: the state that the iteration began with. Learning is repeated from it, to name the first array
    that was not finite.

    Raises:
        TrainingError: names the array, the place and the usual cause.
    """
    problem = _problem(metrics, measured)
    if problem is None:  # nearly always: the flags were computed within the compiled update
        return
    what, cause = problem
    # statistics that overflow have no first minibatch
    first = first_bad(before, ready, hyper) if cause == DIVERGED else None
    raise TrainingError(f"{what} in {place}{f', {first}' if first else ''}. {cause}")


def _problem(metrics: Mapping[str, float | int | None], measured: Measured) -> tuple[str, str] | None:
    """What became infinite or NaN, and its usual cause."""
    if not measured.prepared.finite:
        return "the statistics of observations and returns are infinite or NaN", TOO_LARGE
    for name in ("policy/loss", "value/loss"):
        value = metrics[name]
        if value is None or not math.isfinite(value):
            return f"{name} is {value}", DIVERGED
    for name, finite in (("policy", measured.policy_finite), ("value function", measured.value_finite)):
        if not finite:
            return f"after learning, the {name} is infinite or NaN", DIVERGED
    return None


def first_bad(state: TrainState, ready: Ready, hyper: Hyperparameters) -> str | None:
    """The first loss, gradient or parameter that is infinite or NaN, with its epoch and minibatch.

    None if the repetition, which rounds differently, has none.
    """
    for kind, epoch, number, parts in _repeated(state, ready, hyper):
        for name, tree in parts.items():
            if (odd := _odd(tree)) is not None:
                return f"first the {kind}'s {name} ({odd}) in epoch {epoch}, minibatch {number}"
    return None


Step = tuple[Kind, int, int, dict[str, Any]]  # network, epoch, minibatch, and the arrays by name


def _repeated(state: TrainState, ready: Ready, hyper: Hyperparameters) -> Iterator[Step]:
    """An iteration of learning, minibatch by minibatch."""
    learner = state.learner
    # on the host: the two networks may have learned on devices of their own
    batch, transitions = jax.device_get((ready.prepared.batch, ready.prepared.transitions))
    networks: dict[Kind, Any] = {
        "policy": jax.device_get((learner.policy, learner.policy_opt)),
        "value": jax.device_get((learner.value, learner.value_opt)),
    }
    stopped = False
    # The same order as in ``update``: between two blocks, advantages are computed again.
    for block in epoch_blocks(hyper):
        if block.start:
            batch = jax.device_get(jax.jit(recompute)(networks["value"][0], batch, transitions, hyper))
        own = epoch_rows(ready.rows, block, hyper)
        for_policy, for_value = (_minibatches(batch, rows, block.start) for rows in own)
        if not stopped:
            networks["policy"], stopped = yield from _learn("policy", networks["policy"], for_policy, hyper)
        networks["value"], _ = yield from _learn("value", networks["value"], for_value, hyper)


Minibatch = tuple[int, int, Batch]  # epoch and number, both counted from 1, and the rows


def _learn(
    kind: Kind, network: Any, minibatches: Iterator[Minibatch], hyper: Hyperparameters
) -> Generator[Step, None, tuple[Any, bool]]:
    """One network through some epochs. Returns it, and whether ``target_kl`` stopped it."""
    for epoch, number, minibatch in minibatches:
        *network, gradient, loss, kl = _one(*network, minibatch, hyper, kind=kind)
        yield kind, epoch, number, {"loss": loss, "gradient": gradient, "parameters after it": network[0]}
        if kind == "policy" and hyper.target_kl is not None and bool(kl > hyper.target_kl):
            return network, True
    return network, False


def _minibatches(batch: Batch, rows: Int[np.ndarray, "E minibatches M"], before: int) -> Iterator[Minibatch]:
    """The minibatches of some epochs; ``before``: epochs that came earlier."""
    for epoch, order in enumerate(rows):
        for number, row in enumerate(order):
            # ``take`` makes a list of minibatches, as in ``update``; here the list has one
            minibatch = jax.tree.map(lambda x: x[0], take(batch, jax.numpy.asarray(row[None])))
            yield before + epoch + 1, number + 1, minibatch


def _odd(tree: Any) -> str | None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.asarray(leaf)
        if not np.isfinite(values).all():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            value = values[~np.isfinite(values)].flat[0]
            return f"{name} is {value}" if name else f"{value}"
    return None
