"""A trained agent: raw observations in; the environment's actions, values and distributions out."""

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from poise import envs
from poise.agents.answers import Answers, Distribution, first_row
from poise.agents.evaluation import (
    UNLIMITED,
    Evaluation,
    Limits,
    Noise,
    PlayedStep,
    Player,
    opened,
    score,
)
from poise.agents.reading import AgentError as AgentError
from poise.agents.reading import Memory, Reading, carry_of
from poise.checked import Place, as_path
from poise.config import LAST_SEED, Config
from poise.envs.adjusting import plain_settings
from poise.envs.forms.text import Named, Variant, parse
from poise.envs.naming import reaches_outside
from poise.envs.packing import only_action, unpack_action
from poise.own.naming import Network, check_networks, import_named, names_in
from poise.seeds import Stream, episode_seed
from poise.spec import Spec
from poise.store.checkpoint import (
    Manifest,
    Trained,
    Which,
    agent_folder,
    load_agent,
    read_manifest,
    save_agent,
)
from poise.system.terminal import typed
from poise.training.acting import ActionScale, empty_carry, make_actor, quiet
from poise.training.iteration import Progress
from poise.training.starting.curriculum import settings_in


class Agent:
    """Acts with the normalization it was trained with. Made by ``poise.load``, or by ``Agent.of``.

    Attributes:
        spec: shapes and bounds of the environment it was trained on.
        config: how it was trained.
        steps: environment steps it was trained for.
    """

    def __init__(self, trained: Trained, manifest: Manifest):
        self._trained, self._manifest = trained, manifest
        self._actor = make_actor(trained.policy, trained.normalizer, manifest.config.normalize)
        self._scale = ActionScale(manifest.spec, normalize=manifest.config.normalize.action)
        self._rng = np.random.default_rng()
        self._answers = Answers(trained, manifest.spec, manifest.config, self._scale)
        self._policy_reads = Reading(manifest.spec, manifest.config.policy.see, who="policy")
        self._value_reads = Reading(manifest.spec, manifest.config.value.see, who="value function")

    @classmethod
    def of(cls, progress: Progress) -> "Agent":
        """The agent of a training, after the iterations up to ``progress``.

        for progress in poise.iterations(config, env):
            ...
        agent = poise.Agent.of(progress)
        agent.save("my-agent")
        """
        spec, config = progress.spec, progress.config
        notes = {"settings": settings_in(progress.world)} if config.curriculum else {}
        return cls(Trained.of(progress.state), Manifest(spec.id, "auto", progress.steps, spec, config, notes))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes the agent into a folder of its own, for ``poise.load`` and the commands that take an agent.

        Returns the folder. An agent that is there already is replaced.

        Raises:
            CheckpointError: something else is there, or the folder cannot be written.
        """
        # of the notes of a run, only what its curriculum decided is part of the agent
        notes = {name: value for name, value in self._manifest.notes.items() if name == "settings"}
        manifest = dataclasses.replace(self._manifest, notes=notes)
        return save_agent(as_path("folder", folder), self._trained, manifest)

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
        """A memory for N environments whose episodes begin now.

        For ``act``, or for one of ``value``, ``distribution`` and ``log_prob``: each of them moves its memory
        on by one observation, so each needs one of its own.
        """
        return Memory(num_envs, empty_carry(self._actor, num_envs))

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
        spec, (rows, count, single) = self.spec, self._policy_reads.rows(obs, action_mask)
        carry = self._carry(memory, episode_start, "act", count)
        noise = spec.draw_noise(rng or self._rng, count, dtype=float) if sample else None
        with quiet():
            action = self._scale(self._actor.act(rows, noise, carry))
        batch = unpack_action(spec, action)
        return only_action(batch) if single else batch

    def value(self, obs: Any, *, memory: Memory | None = None, episode_start: Any = None) -> Any:
        """The expected return from one raw observation on, or from each of a batch.

        It is the value function's estimate of ``r_0 + gamma r_1 + gamma^2 r_2 + ...``, of the sampling policy
        and without an end by a time limit, in the units of the environment's reward; gamma is
        ``agent.config.ppo.gamma``. The value function learned rewards divided by a running standard deviation
        (``normalize.reward``): its output is multiplied by the deviation of the last rollout.

        Args:
            obs: as ``act`` takes it, without masks. Parts that the value function does not read
                (``value.see``) may be missing.
            memory, episode_start: as ``act`` takes them. The value function has a memory of its own: give
                another ``agent.memory(num_envs)`` than to ``act``.

        Returns:
            A float, or an array ``[N]`` for a batch.

        Raises:
            AgentError: as ``act``, or the memory belongs to another method.
        """
        rows, count, single = self._value_reads.rows(obs)
        size = self._answers.value_carry_size
        carry = carry_of(memory, episode_start, method="value", size=size, count=count)
        return _unbatched(self._answers.value(rows, carry), single)

    def distribution(
        self, obs: Any, *, action_mask: Any = None, memory: Memory | None = None, episode_start: Any = None
    ) -> Distribution:
        """How ``act(obs, sample=True)`` draws the action for one raw observation, or for each of a batch.

        Args:
            obs, action_mask, memory, episode_start: as ``act`` takes them. With a memory, give another
                ``agent.memory(num_envs)`` than to ``act``.

        Raises:
            AgentError: as ``act``, or the memory belongs to another method.
        """
        rows, count, single = self._policy_reads.rows(obs, action_mask)
        carry = self._carry(memory, episode_start, "distribution", count)
        answer = self._answers.distribution(rows, carry)
        return first_row(answer) if single else answer

    def log_prob(
        self,
        obs: Any,
        action: Any,
        *,
        action_mask: Any = None,
        memory: Memory | None = None,
        episode_start: Any = None,
    ) -> Any:
        """The log-probability, in nats, with which ``act(obs, sample=True)`` returns an action.

        The sum over the parts of the action. Of choices it is the logarithm of a probability, -inf where a
        mask forbids the value. Of a dimension of a Box it is that of a density, in the policy's units
        (``poise.Distribution``) as PPO has it, if the action is within the environment's bounds. An action
        at a bound may have been clipped: there it is the logarithm of the probability of all draws at the
        bound or beyond it.

        Args:
            obs, action_mask, memory, episode_start: as ``act`` takes them. With a memory, give another
                ``agent.memory(num_envs)`` than to ``act``.
            action: as ``act`` returns it: one for one observation, or a batch for a batch.

        Returns:
            A float, or an array ``[N]`` for a batch.

        Raises:
            AgentError: as ``act``, or the action has another form or is outside of the action space of the
                environment that the agent was trained on.
        """
        rows, count, single = self._policy_reads.rows(obs, action_mask)
        performed = self._answers.performed(action, None if single else count)
        carry = self._carry(memory, episode_start, "log_prob", count)
        return _unbatched(self._answers.log_prob(rows, performed, carry), single)

    def _carry(
        self, memory: Memory | None, episode_start: Any, method: str, count: int
    ) -> Float[np.ndarray, "N S"] | None:
        """What the policy's memory holds before this step; None without one."""
        size = self._actor.carry_size
        return carry_of(memory, episode_start, method=method, size=size, count=count)

    def evaluate(
        self,
        episodes: int = 100,
        *,
        seed: int | None = None,
        env: Any = None,
        sample: bool = False,
        on_step: Callable[[PlayedStep], None] | None = None,
        limits: Limits = UNLIMITED,
    ) -> Evaluation:
        """Plays episodes, each to its end, on seeds that training never saw.

        Args:
            episodes: how many.
            seed: the seeds of the episodes derive from it; by default the run's, which repeats its score.
            env: another environment with the same spaces. (The agent's own has the last settings of the
                curriculum, if there was one.) Its name, which is also needed where the agent's own names a
                module (``module:Task``): a folder alone never makes Python import one. Or the class or the
                function that the run was trained on, which gets the run's arguments and wrappers once more;
                another class gets none. Or an object: an environment of Gymnasium, a ``SyncVectorEnv`` or
                ``AsyncVectorEnv``, also within wrappers, what ``poise.make`` returns, or a function without
                arguments that makes one. An object is stepped in this process, begins each episode by
                ``reset(seed=...)`` and stays open; what a function makes is closed.
            sample: draw actions from the policy's distribution. The draws of an episode follow from its
                seed: the same seed gives the same returns, up to rounding at any number of environments.
                Otherwise actions are greedy.
            on_step: is called with each step of each episode (``poise.PlayedStep``). It may return anything.
            limits: steps and seconds that it may take (``poise.agents.evaluation.Limits``).

        Raises:
            AgentError: the environment names a module and ``env`` does not repeat it, or a number is
                out of bounds.
            EnvError: the environment cannot be made, or has other shapes.
            EnvFault: it failed, or returned something invalid.
        """
        if episodes < 1:
            raise AgentError(f"episodes = {episodes}: must be >= 1")
        seed = self.config.seed if seed is None else seed
        if not 0 <= seed <= LAST_SEED:
            raise AgentError(f"seed = {seed}: must be >= 0 and <= {LAST_SEED}")
        seeds = [episode_seed(seed, Stream.EVALUATION, 0, i) for i in range(episodes)]
        with self._opened(env, episodes, limits) as world:
            noise = Noise(self.spec, world.num_envs) if sample else None
            player = Player(self._actor, self._scale, world.num_envs, noise)
            return score(world, player, seeds, limits=limits, on_step=on_step)

    def _opened(self, env: Any, episodes: int, limits: Limits) -> AbstractContextManager[envs.VectorEnv]:
        if env is not None and not isinstance(env, str):
            from poise.envs.forms.given import is_by_name  # which imports Gymnasium
            from poise.envs.forms.objects import opened_object

            if not is_by_name(self._manifest.env, env):
                return opened_object(env, self.spec)
        task = self.world(env)
        return opened(task, self.spec, episodes, limits, self.settings_for(task))

    def settings_for(self, task: envs.Resolved) -> dict[str, Any]:
        """What a curriculum had decided last, where ``task`` is what the agent was trained in.

        Another environment has settings of its own.

        Raises:
            AgentError: the notes of the checkpoint are damaged.
        """
        settings = self._manifest.notes.get("settings", {}) if self.config.curriculum else {}
        try:
            return plain_settings(settings) if task.id == self._manifest.env else {}
        except envs.EnvError as error:
            raise AgentError(f"the settings of this agent's environment: {error}") from error

    def player(self, num_envs: int) -> Player:
        """The greedy policy on packed observations of N environments whose episodes begin now."""
        return Player(self._actor, self._scale, num_envs)

    def world(self, env: Any) -> envs.Resolved:
        """The environment to act in: ``env``, or the agent's own.

        The class or the function of which the agent's own was made stands for it, with its arguments and
        wrappers. The agent's own is stepped by the backend it was trained on, another by the fastest.

        Raises:
            AgentError: the agent's own, or a wrapper around it, names a module, and ``env`` does not repeat
                it.
        """
        own, repeated = self._manifest.env, env
        if env is None:
            self._check_repeated(own)
            repeated = own
        elif not isinstance(env, str):
            from poise.envs.forms.given import is_once_more  # which imports Gymnasium

            if is_once_more(own, env):
                self._check_repeated(str(Variant(Named("env"), parse(own).wrappers)))
                repeated = own
        task = envs.resolve(repeated)
        if task.id == own:
            task = envs.resolve(own, self._manifest.backend)
        return task._replace(reading=self.spec)

    def _check_repeated(self, unrepeated: str) -> None:
        """Refuses to import what only the folder names. ``unrepeated``: what the user has not given."""
        own = self._manifest.env
        if why := reaches_outside(unrepeated):
            raise AgentError(
                f"this agent's environment {own!r} {why}, repeat the name: {typed('--env', own)} "
                f"(in Python: env={own!r})"
            )


def _unbatched(values: Float[np.ndarray, " N"], single: bool) -> Any:
    return float(values[0]) if single else values


def load(folder: Place, which: Which = "last", *, network: Network = ()) -> Agent:
    """The agent of a run folder, or of one checkpoint folder.

    Reads two files and executes nothing in them; neither Gymnasium nor MuJoCo is imported.

    Args:
        folder: what ``poise.train`` returned, its folder, or a checkpoint in it.
        which: the last agent of a run folder, or the one that scored best when the training ended.
        network: the classes of the agent's own networks, or their names (``module:Class``), repeated: a
            folder alone never makes Python import one.

    Raises:
        CheckpointError: the folder holds no agent, or the agent was changed or damaged.
        ConfigError: the agent has a network of its own that was not named in this process, or ``network``
            names another.
    """
    folder = as_path("folder", folder)
    repeated, place = names_in(network), agent_folder(folder, which)
    import_named(repeated)
    check_networks(repeated, read_manifest(place).config.own_networks, folder)
    return Agent(*load_agent(place))
