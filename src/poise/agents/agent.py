"""A trained agent: raw observations in, the environment's actions out."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise import envs
from poise.agents.evaluation import UNLIMITED, Evaluation, Limits, Player, evaluate_agent
from poise.config import LAST_SEED, Config
from poise.envs.naming import names_module
from poise.envs.packing import Obs, first_of, pack, read_leaves, unpack_action
from poise.errors import PoiseError
from poise.spec import MASK, Spec
from poise.store.checkpoint import Manifest, Trained, Which, agent_folder, load_agent
from poise.system.terminal import typed
from poise.training.acting import ActionScale, empty_carry, make_actor, quiet


class AgentError(PoiseError):
    """The agent cannot do this: for example, the observation has another shape."""


class Memory:
    """What an agent's memory holds for each of N environments; empty for an agent without a memory."""

    def __init__(self, carry: Float[np.ndarray, "N S"] | None):
        self.carry = carry

    def reset(self, mask: Any = slice(None)) -> None:
        """At the start of an episode; ``mask``: in which environments, by default in all."""
        if self.carry is not None:
            self.carry[mask] = 0


class Agent:
    """Acts with the normalization it was trained with. Made by ``poise.load``.

    Attributes:
        spec: shapes and bounds of the environment it was trained on.
        config: how it was trained.
        steps: environment steps it was trained for.
    """

    def __init__(self, trained: Trained, manifest: Manifest):
        self._manifest = manifest
        self._actor = make_actor(trained.policy, trained.normalizer, manifest.config.normalize)
        self._scale = ActionScale(manifest.spec, normalize=manifest.config.normalize.action)
        self._rng = np.random.default_rng()
        obs, see = manifest.spec.obs, manifest.config.policy.see
        self._unread = tuple(x for x in obs if see and x.name not in see and x.kind != "mask")
        self._read = dataclasses.replace(manifest.spec, obs=tuple(x for x in obs if x not in self._unread))

    @property
    def spec(self) -> Spec:
        return self._manifest.spec

    @property
    def config(self) -> Config:
        return self._manifest.config

    @property
    def steps(self) -> int:
        return self._manifest.steps

    def __repr__(self) -> str:
        return f"Agent({self.spec.id!r}, {self.steps:,} steps)"

    def memory(self, num_envs: int = 1) -> Memory:
        """A memory for N environments whose episodes begin now, for ``act``."""
        return Memory(empty_carry(self._actor, num_envs))

    def act(
        self,
        obs: Any,
        *,
        sample: bool = False,
        rng: np.random.Generator | None = None,
        action_mask: Any = None,
        memory: Memory | None = None,
        episode_start: Any = None,
    ) -> Any:
        """The action for one raw observation, or for a batch of them.

            memory = agent.memory(num_envs)  # for an agent with a memory
            action = agent.act(obs, memory=memory, episode_start=terminated | truncated)

        Args:
            obs: as the environment returns it, or each of its arrays with one leading axis N more. Numbers of
                any type. Parts that the policy does not read (``policy.see``) may be missing.
            sample: draw from the policy's distribution; otherwise the greedy action, its mode.
            rng: where samples are drawn from; by default a generator of the agent's own, unseeded.
            action_mask: where the environment has masks that are not part of its observation: 1 for each
                value that is allowed, for all choices in a row, ``[M]`` or ``[N, M]``; or one mask in the
                form of the action space.
            memory: what the agent remembers of the episodes so far; it is changed.
            episode_start: ``[N]``: where an episode begins with this observation; the memory is reset there.

        Returns:
            What ``env.step`` takes: an array of the action's shape within its bounds, an int where the action
            is one Discrete, or dictionaries and tuples of these; with a leading axis N for a batch.

        Raises:
            AgentError: ``obs`` has another shape, a mask or memory is missing, or a mask has no effect.
        """
        spec, rows, single = self.spec, *self._packed(obs, action_mask)
        count = len(next(iter(rows.values())) if isinstance(rows, dict) else rows)
        carry = self._carry(memory, episode_start, count)
        noise = spec.draw_noise(rng or self._rng, count, dtype=float) if sample else None
        with quiet():
            action = self._scale(self._actor.act(rows, noise, carry))
        batch = unpack_action(spec, action)
        if not single:
            return batch
        first = first_of(batch)
        return int(first) if isinstance(first, np.integer) else first

    def _packed(self, obs: Any, action_mask: Any) -> tuple[Obs, bool]:
        """The observations as the policy reads them, and whether it is a single one without the axis N."""
        spec, read = self.spec, self._read.obs
        try:
            values = read_leaves(self._read, obs)
        except (LookupError, TypeError) as error:
            names = ", ".join(leaf.name for leaf in read)
            raise AgentError(f"obs has no {error}; this policy reads {names}") from error
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
        arrays |= {leaf.name: np.zeros((count, *leaf.shape)) for leaf in self._unread}
        return pack(spec, arrays, count), single

    def _mask(self, values: Mapping[str, Any], action_mask: Any) -> dict[str, Any]:
        """The mask that is not part of the observation."""
        if not self.spec.masked or MASK in values:
            if action_mask is None:
                return {}
            why = "obs has the mask" if self.spec.masked else f"{self.spec.id} was trained without masks"
            raise AgentError(f"action_mask has no effect: {why}; leave it out")
        if action_mask is None:
            raise AgentError(f"{self.spec.id} has masks of its choices: give action_mask")
        if not isinstance(action_mask, dict | tuple):
            return {MASK: action_mask}
        from poise.envs.spaces import flat_mask  # which imports Gymnasium

        try:
            return {MASK: flat_mask(action_mask, self.spec)}
        except (LookupError, TypeError, ValueError) as error:
            raise AgentError(f"action_mask does not have the form of the actions: {error}") from error

    def _carry(
        self, memory: Memory | None, episode_start: Any, count: int
    ) -> Float[np.ndarray, "N S"] | None:
        """What the memory holds before this step of N environments; None without a memory."""
        if not self._actor.carry_size:
            return None
        if memory is None or memory.carry is None or len(memory.carry) != count:
            raise AgentError(
                f"this agent has a memory: give memory=agent.memory({count}), the same one at each step"
            )
        if episode_start is not None:
            memory.reset(np.asarray(episode_start, bool).reshape(count))
        return memory.carry

    def evaluate(
        self,
        episodes: int = 100,
        *,
        seed: int | None = None,
        env: str | None = None,
        limits: Limits = UNLIMITED,
    ) -> Evaluation:
        """Plays greedy episodes, each to its end, on seeds that training never saw.

        Args:
            episodes: how many.
            seed: the seeds of the episodes derive from it; by default the run's, which repeats its score.
            env: another environment with the same spaces. Also needed where the agent's own names a
                module (``module:Task``): a folder alone never makes Python import one.
            limits: steps and seconds that it may take (``poise.agents.evaluation.Limits``).

        Raises:
            AgentError: the environment names a module and ``env`` does not repeat it, or a number is
                out of bounds.
            EnvError: the environment cannot be made, or has other shapes.
        """
        if episodes < 1:
            raise AgentError(f"episodes = {episodes}: must be >= 1")
        seed = self.config.seed if seed is None else seed
        if not 0 <= seed <= LAST_SEED:
            raise AgentError(f"seed = {seed}: must be >= 0 and <= {LAST_SEED}")
        return evaluate_agent(
            self.world(env),
            self.spec,
            self._actor,
            self._scale,
            seed=seed,
            episodes=episodes,
            limits=limits,
        )

    def player(self, num_envs: int) -> Player:
        """The greedy policy on packed observations of N environments whose episodes begin now."""
        return Player(self._actor, self._scale, num_envs)

    def world(self, env: str | None) -> envs.Resolved:
        """The environment to act in: ``env``, or the agent's own.

        The agent's own is stepped by the backend it was trained on, another by the fastest.

        Raises:
            AgentError: the agent's own names a module, and ``env`` does not repeat it.
        """
        own = self._manifest.env
        if env is None and names_module(own):
            raise AgentError(
                f"this agent's environment {own!r} names a Python module; to import and run it, "
                f"repeat the name: {typed('--env', own)} (in Python: env={own!r})"
            )
        task = envs.resolve(own if env is None else env)
        if task.id == own:
            task = envs.resolve(own, self._manifest.backend)
        return task._replace(reading=self.spec)


def load(folder: str | Path, which: Which = "last") -> Agent:
    """The agent of a run folder, or of one checkpoint folder.

    Reads two files and executes nothing in them; neither Gymnasium nor MuJoCo is imported.

    Args:
        folder: the run folder that ``poise.train`` left, or a checkpoint in it.
        which: the last agent of a run folder, or the one that scored best when the training ended.

    Raises:
        CheckpointError: the folder holds no agent, or the agent was changed or damaged.
    """
    return Agent(*load_agent(agent_folder(Path(folder), which)))
