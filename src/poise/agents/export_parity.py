"""Random observations for an exported policy, and how far its actions are from the agent's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from poise.agents.agent import Agent
from poise.agents.export_plan import ParityError, Plan, is_bytes
from poise.algo.distributions import FORBIDDEN
from poise.algo.networks import Policy
from poise.algo.normalize import Normalizer
from poise.envs.packing import arrays_of, at, pack, read_leaves
from poise.spec import MASK, NUMBERS, Leaf, Part, Path, Spec
from poise.store.checkpoint import Trained
from poise.training.acting import see_and_remember
from poise.training.origin import obs_from_origin

ROWS = 1000  # on which an export is compared with the agent
STEPS, SEQUENCES = 20, 50  # a policy with a memory is also compared on so many sequences of so many steps
TOLERANCE = 1e-5  # relative to half the range of an action, or to the action if that is larger
IMAGE_TOLERANCE = 1e-3  # for policies with images: of impala the agent's own rounding gives up to 1e-4


@dataclass(frozen=True)
class Trial:
    """What an exported policy and the agent act on: T steps of N environments.

    Attributes:
        obs: as environments return it, each array with the axes T and N in front; tuples may be dictionaries.
        mask: where masks are not part of the observation.
        begins: where an episode begins.
    """

    obs: Any
    mask: Bool[np.ndarray, "T N M"] | None
    begins: Bool[np.ndarray, "T N"]

    def step(self, index: int) -> tuple[Any, Bool[np.ndarray, "N M"] | None]:
        """Observations and masks of one step."""
        obs = map_tree(lambda array: array[index], self.obs)
        return obs, None if self.mask is None else self.mask[index]


def trials(plan: Plan) -> Iterator[Trial]:
    """Single observations; for a memory also sequences."""
    # images in parts: all at once would take gigabytes
    count = SEQUENCES if plan.images else ROWS
    yield _trial(plan, np.ones((ROWS // count, count), bool), seed=0)
    if plan.memory is not None:
        begins = np.random.default_rng(2).random((STEPS, SEQUENCES)) < 0.1
        begins[0] = True
        yield _trial(plan, begins, seed=1)


def one_step(
    obs: Any, mask: Bool[np.ndarray, "N M"] | None
) -> tuple[Any, Bool[np.ndarray, "1 N M"] | None, Bool[np.ndarray, "1 N"]]:
    """Observations with an axis N as those of a trial of one step, in which episodes begin."""
    obs = map_tree(lambda array: np.asarray(array)[None], obs)
    begins = np.ones((1, len(next(iter(flat(obs).values()))[0])), bool)
    return obs, None if mask is None else mask[None], begins


def _trial(plan: Plan, begins: Bool[np.ndarray, "T N"], seed: int) -> Trial:
    def over_time(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(*begins.shape, *rows.shape[1:])

    separate = plan.mask is not None and not plan.mask.path
    mask = over_time(_random_mask(plan.spec, np.random.default_rng(seed))) if separate else None
    return Trial(map_tree(over_time, observations(plan, seed)), mask, begins)


def observations(plan: Plan, seed: int = 0) -> Any:
    """Random observations of all leaves, as environments return them, with an axis of ``ROWS`` in front.

    70% of the vectors have the spread of those seen in training; the others lie 10 or 100 times as far from
    the mean, so that the bounds of observations and of actions are reached. The first one is the mean itself.
    Values of one-hot leaves and pixels are uniform.
    """
    rng = np.random.default_rng(seed)
    numbers, start, leaves = _random_numbers(plan, rng), 0, {}
    for leaf in plan.spec.obs:
        if leaf.kind == "mask" and not leaf.path:
            continue
        leaves[leaf.path] = _random_leaf(leaf, plan.spec, rng)
        if leaf not in plan.numbers.values():
            continue
        if leaf.kind == "vector":
            leaves[leaf.path] = numbers[:, start : start + leaf.width].reshape(ROWS, *leaf.shape)
        start += leaf.width
    return nested(leaves)


def _random_numbers(plan: Plan, rng: np.random.Generator) -> Float[np.ndarray, "ROWS O"]:
    size = sum(leaf.width for leaf in plan.numbers.values())
    mean, std = (np.zeros(size), np.ones(size)) if plan.mean is None else (plan.mean, plan.std)
    assert std is not None
    spread = rng.choice([1.0, 10.0, 100.0], size=(ROWS, 1), p=[0.7, 0.2, 0.1])
    spread[0] = 0
    rows = mean + std * spread * rng.standard_normal((ROWS, size))
    return rows.astype(np.float32) if plan.origin is None else rows + plan.origin.astype(np.float64)


def _random_leaf(leaf: Leaf, spec: Spec, rng: np.random.Generator) -> Shaped[np.ndarray, "ROWS ..."]:
    shape = (ROWS, *leaf.shape)
    match leaf.kind:
        case "vector":
            return rng.standard_normal(shape, np.float32)
        case "one_hot":
            low = np.array(leaf.first)
            high = low + np.array(leaf.sizes)
            return rng.integers(low, high, (ROWS, len(leaf.sizes))).reshape(shape)
        case "image" if is_bytes(leaf):
            return rng.integers(0, 256, shape, np.uint8)
        case "image":
            return rng.uniform(leaf.low, leaf.high, shape).astype(np.float32)
        case "mask":
            return _random_mask(spec, rng).reshape(shape)


def _random_mask(spec: Spec, rng: np.random.Generator) -> Bool[np.ndarray, "ROWS M"]:
    """Each value is allowed or not; one value of each choice always is."""
    mask = rng.random((ROWS, spec.num_logits)) < 0.5
    start = 0
    for size in spec.sizes:
        mask[np.arange(ROWS), start + rng.integers(0, size, ROWS)] = True
        start += size
    return mask


def compare(trial: Trial, action: Any, agent: Agent, trained: Trained, plan: Plan) -> float:
    """The largest difference to the agent's actions, in the environment's units; 0 if there are only choices.

    ``action``: of the exported policy, as environments take it, with the axes T and N in front.

    Raises:
        ParityError: it is larger than the tolerance, or choices differ.
    """
    expected, carries = _agent_acts(agent, trial)
    for part in plan.spec.action:
        shape, right = (np.shape(at(actions, part.path))[1:] for actions in (action, expected))
        if shape != right:
            raise ParityError(f"the exported policy gives actions of shape {shape}, not {right}")
    wrong = ~(_lost(trial, (action, expected), carries, trained, agent) <= _tolerance(plan))
    if wrong.any():
        raise ParityError(
            f"the exported policy's choice differs from the agent's on {wrong.sum()} of {trial.begins.size} "
            "observations"
        )
    if plan.scale is None:
        return 0.0
    exported, agents = (_columns(plan.spec.boxes, actions, trial) for actions in (action, expected))
    difference = np.abs(exported - agents)
    largest = float(np.max(difference / np.maximum(np.abs(agents), plan.scale), initial=0.0))
    if not largest <= _tolerance(plan):  # NaN is an error, too
        raise ParityError(
            f"the exported policy's actions differ from the agent's by up to {largest:.2g} "
            "(half the action range = 1), "
            f"{_tolerance(plan):g} is allowed"
        )
    return float(np.max(difference, initial=0.0))


def _tolerance(plan: Plan) -> float:
    return IMAGE_TOLERANCE if plan.images else TOLERANCE


def _agent_acts(agent: Agent, trial: Trial) -> tuple[Any, Float[np.ndarray, "T N S"] | None]:
    """The agent's actions with the axes T and N in front, and what its memory held before each step."""
    memory, actions, carries = agent.memory(trial.begins.shape[1]), [], []
    for t, begins in enumerate(trial.begins):
        obs, mask = trial.step(t)
        memory.reset(begins)
        carries.append(None if memory.carry is None else memory.carry.copy())
        with jax.default_matmul_precision("float32"):  # a GPU would round products to fewer bits
            actions.append(agent.act(obs, action_mask=mask, memory=memory))
    stacked = map_tree(lambda *steps: np.stack(steps), *actions)
    return stacked, None if memory.carry is None else np.stack(carries)


def _columns(parts: Sequence[Part], action: Any, trial: Trial) -> Float[np.ndarray, "rows columns"]:
    """These parts of actions side by side, a row for each observation."""
    rows = trial.begins.size
    columns = [np.asarray(at(action, part.path), float).reshape(rows, -1) for part in parts]
    return np.concatenate([np.zeros((rows, 0)), *columns], axis=1)


def _lost(
    trial: Trial,
    actions: tuple[Any, Any],
    carries: Float[np.ndarray, "T N S"] | None,
    trained: Trained,
    agent: Agent,
) -> Float[np.ndarray, " rows"]:
    """For each observation with different choices, how much the agent prefers its own: the gap of logits.

    ``actions``: of the exported policy and of the agent. Of two values with the same logit either is right.
    """
    exported, expected = (_columns(agent.spec.choices, action, trial) for action in actions)
    different = exported != expected
    rows = np.flatnonzero(different.any(axis=1))
    if not len(rows):
        return np.zeros(0)
    gaps = _gaps(_logits(trial, rows, carries, trained, agent), agent.spec.sizes)
    return np.where(different[rows], gaps, 0).max(axis=1)


def _gaps(logits: Float[np.ndarray, "rows M"], sizes: tuple[int, ...]) -> Float[np.ndarray, "rows K"]:
    """How much the largest logit of each choice exceeds the second largest, relative to it if it is above 1.

    Infinite if a choice has one value.
    """
    gaps = np.full((len(logits), len(sizes)), np.inf)
    for k, own in enumerate(np.split(logits, np.cumsum(sizes)[:-1], axis=1)):
        ranked = np.sort(own, axis=1)
        if sizes[k] > 1:
            gaps[:, k] = (ranked[:, -1] - ranked[:, -2]) / np.maximum(np.abs(ranked[:, -1]), 1)
    return gaps


def _logits(
    trial: Trial,
    rows: Int[np.ndarray, " rows"],
    carries: Float[np.ndarray, "T N S"] | None,
    trained: Trained,
    agent: Agent,
) -> Float[np.ndarray, "rows M"]:
    """The agent's logits for some of the observations; those of forbidden values are very low."""

    def chosen(array: np.ndarray) -> np.ndarray:
        return array.reshape(trial.begins.size, *array.shape[2:])[rows]

    spec, normalize = agent.spec, agent.config.normalize
    leaves = {name: chosen(array) for name, array in read_leaves(spec, trial.obs).items()}
    if trial.mask is not None:
        leaves[MASK] = chosen(trial.mask)
    packed = arrays_of(pack(spec, leaves, len(rows)))
    obs = packed if set(packed) != {NUMBERS} else packed[NUMBERS]
    obs = obs_from_origin(obs, trained.normalizer.origin)
    carry = None if carries is None else chosen(carries)
    out = _outputs(trained.policy, trained.normalizer, obs, carry, normalize.obs_bound, enabled=normalize.obs)
    logits = np.asarray(out)[:, -spec.num_logits :]
    return np.where(packed[MASK], logits, FORBIDDEN) if MASK in packed else logits


@partial(jax.jit, static_argnames="enabled")
def _outputs(
    policy: Policy, normalizer: Normalizer, obs: Any, carry: Any, bound: Any, *, enabled: bool
) -> Float[Array, "rows outputs"]:
    """What the last layer gives."""

    def outputs(obs, carry):
        features, _ = see_and_remember(policy, normalizer.scale(obs, enabled=enabled, bound=bound), carry)
        return policy.mlp(features)

    return jax.vmap(outputs)(obs, carry)


def map_tree(function: Callable[..., Any], *trees: Any) -> Any:
    """``function`` of each array of nested dictionaries and tuples of the same form."""
    first = trees[0]
    if isinstance(first, dict):
        return {key: map_tree(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple):
        return tuple(map_tree(function, *inner) for inner in zip(*trees, strict=True))
    return function(*trees)


def flat(tree: Any, path: Path = ()) -> dict[Path, Any]:
    """The arrays of nested dictionaries and tuples by their paths."""
    if not isinstance(tree, dict | tuple):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {at: array for key, inner in items for at, array in flat(inner, (*path, key)).items()}


def nested(arrays: Mapping[Path, Any]) -> Any:
    """Nested dictionaries with each array at its path; the inverse of ``flat`` without tuples."""
    if () in arrays:
        return arrays[()]
    heads = dict.fromkeys(path[0] for path in arrays)
    return {h: nested({path[1:]: x for path, x in arrays.items() if path[0] == h}) for h in heads}
