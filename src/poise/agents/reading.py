"""What a user gives to an agent, checked and in the form of its networks: observations, masks, memories."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from poise.envs.packing import Obs, pack, read_leaves
from poise.errors import PoiseError
from poise.spec import MASK, Spec


class AgentError(PoiseError):
    """The agent cannot do this: for example, the observation has another shape."""


class Memory:
    """What an agent's memory holds for each of N environments; empty for an agent without a memory.

    Each call with it moves it on by one observation. So it belongs to the method that is first called with
    it: ``act``, ``value``, ``distribution`` or ``log_prob``.
    """

    def __init__(self, num_envs: int, carry: Float[np.ndarray, "N S"] | None):
        self.num_envs, self.carry = num_envs, carry
        self._method: str | None = None

    def reset(self, mask: Any = slice(None)) -> None:
        """At the start of an episode; ``mask``: in which environments, by default in all."""
        if self.carry is not None:
            self.carry[mask] = 0

    def lend(self, method: str, size: int) -> Float[np.ndarray, "N S"]:
        """The carry for a method that is called with a network whose carry has ``size`` numbers.

        Raises:
            AgentError: another method has moved it on.
        """
        if self._method not in (None, method):
            raise AgentError(
                f"this memory belongs to agent.{self._method}, which moves it on by one observation at each "
                f"call: give agent.{method} a memory of its own, agent.memory({self.num_envs})"
            )
        if self.carry is None or (self._method is None and self.carry.shape[1] != size):
            self.carry = np.zeros((self.num_envs, size), np.float32)
        self._method = method
        return self.carry


def carry_of(
    memory: Memory | None, episode_start: Any, *, method: str, size: int, count: int
) -> Float[np.ndarray, "N S"] | None:
    """What the memory holds before this step of ``count`` environments; None for a network without one.

    Args:
        episode_start: ``[N]``: where an episode begins.
        method: that is called with the memory.
        size: numbers that the network's memory carries for one environment, S; 0 without a memory.

    Raises:
        AgentError: the memory is missing, is of another number of environments, or belongs to another method.
    """
    if not size:
        return None
    if memory is None or memory.num_envs != count:
        raise AgentError(
            f"this agent has a memory: give memory=agent.memory({count}), the same one at each step"
        )
    carry = memory.lend(method, size)
    if episode_start is not None:
        memory.reset(np.asarray(episode_start, bool).reshape(count))
    return carry


class Reading:
    """Observations of an environment as one network reads them: those parts in ``see``, or all of them."""

    def __init__(self, spec: Spec, see: Sequence[str], *, who: Literal["policy", "value function"]):
        self._spec, self._who = spec, who
        # a mask is for the policy
        unseen = {x.name for x in spec.obs if see and x.name not in see and x.kind != "mask"}
        unseen |= {MASK} if who == "value function" else set()
        self._unread = tuple(leaf for leaf in spec.obs if leaf.name in unseen)
        self._read = dataclasses.replace(spec, obs=tuple(x for x in spec.obs if x.name not in unseen))

    def rows(self, obs: Any, action_mask: Any = None) -> tuple[Obs, int, bool]:
        """The observations as the network reads them, how many, and whether it is one without the axis N.

        Raises:
            AgentError: a part or the mask is missing, has another shape, or the mask has no effect.
        """
        spec, read = self._spec, self._read.obs
        try:
            values = read_leaves(self._read, obs)
        except (LookupError, TypeError) as error:
            names = ", ".join(leaf.name for leaf in read)
            raise AgentError(f"obs has no {error}; this {self._who} reads {names}") from error
        values |= self._mask(values, action_mask)
        arrays = {name: np.asarray(value) for name, value in values.items()}
        # a mask that is not part of the observation is a row of flags
        shapes = {x.name: x.shape if x.path or x.kind != "mask" else (spec.num_logits,) for x in read}
        single = all(arrays[name].shape == shape for name, shape in shapes.items())
        for name, shape in shapes.items():
            if not single and arrays[name].shape[1:] != shape:
                inner = ", ".join(map(str, shape))
                raise AgentError(
                    f"{name} has shape {list(arrays[name].shape)}; {spec.id} has [{inner}], or "
                    f"[N, {inner}] for a batch"
                )
        counts = {1 if single else len(array) for array in arrays.values()}
        if len(counts) > 1:
            raise AgentError(f"the arrays of obs have different numbers of rows: {sorted(counts)}")
        count = counts.pop()
        for leaf in self._unread:
            arrays[leaf.name] = np.full((count, *leaf.shape), float(leaf.kind == "mask"))
        return pack(spec, arrays, count), count, single

    def _mask(self, values: Mapping[str, Any], action_mask: Any) -> dict[str, Any]:
        """The mask that is not part of the observation."""
        if not self._read.masked or MASK in values:
            if action_mask is None:
                return {}
            why = "obs has the mask" if self._spec.masked else f"{self._spec.id} was trained without masks"
            raise AgentError(f"action_mask has no effect: {why}; leave it out")
        if action_mask is None:
            raise AgentError(f"{self._spec.id} has masks of its choices: give action_mask")
        if not isinstance(action_mask, dict | tuple):
            return {MASK: action_mask}
        from poise.envs.spaces import flat_mask  # which imports Gymnasium

        try:
            return {MASK: flat_mask(action_mask, self._spec)}
        except (LookupError, TypeError, ValueError) as error:
            raise AgentError(f"action_mask does not have the form of the actions: {error}") from error
