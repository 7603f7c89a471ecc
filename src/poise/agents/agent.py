"""A trained agent: raw observations in, the environment's actions out."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from poise import envs
from poise.agents.evaluation import UNLIMITED, Evaluation, Limits, evaluate_agent
from poise.config import LAST_SEED, Config
from poise.envs.vector import usual_dtype
from poise.errors import PoiseError
from poise.spec import Spec
from poise.store.checkpoint import Manifest, Trained, Which, agent_folder, load_agent
from poise.system.terminal import typed
from poise.training.acting import ActionScale, Actor, quiet


class AgentError(PoiseError):
    """The agent cannot do this: for example, the observation has another shape."""


class Agent:
    """Acts with the normalization it was trained with. Made by ``poise.load``.

    Attributes:
        spec: shapes and bounds of the environment it was trained on.
        config: how it was trained.
        steps: environment steps it was trained for.
    """

    def __init__(self, trained: Trained, manifest: Manifest):
        self._manifest = manifest
        self._actor = Actor(trained.policy, trained.normalizer, manifest.config.normalize)
        self._scale = ActionScale(manifest.spec, normalize=manifest.config.normalize.action)
        self._rng = np.random.default_rng()

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

    def act(
        self, obs: Any, *, sample: bool = False, rng: np.random.Generator | None = None
    ) -> Shaped[np.ndarray, "*N_A"] | int:
        """The action for one raw observation, or for a batch of them.

        Args:
            obs: of the environment's shape, or with one leading axis N more. Numbers of any type.
            sample: draw from the policy's distribution; otherwise the greedy action, its mode.
            rng: where samples are drawn from; by default a generator of the agent's own, unseeded.

        Returns:
            What ``env.step`` takes: an array of the action's shape within its bounds, or an int
            where actions are discrete; with a leading axis N (an integer array) for a batch.

        Raises:
            AgentError: ``obs`` has another shape.
        """
        spec = self.spec
        array = np.asarray(obs)
        array = array.astype(usual_dtype(array.dtype), copy=False)
        single = array.shape == spec.obs_shape
        if not single and array.shape[1:] != spec.obs_shape:
            shape = ", ".join(str(n) for n in spec.obs_shape)
            raise AgentError(
                f"obs has shape {list(array.shape)}; {spec.id} has [{shape}], or [N, {shape}] for a batch"
            )
        rows = array.reshape(-1, spec.obs_size)
        noise = spec.draw_noise(rng or self._rng, len(rows), dtype=float) if sample else None
        with quiet():
            action = self._scale(self._actor.act(rows, noise))
        if spec.discrete:
            action = action + spec.first_choice
            return int(action[0]) if single else action
        action = action.reshape(len(rows), *spec.action_shape)
        return action[0] if single else action

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

    def world(self, env: str | None) -> envs.Resolved:
        """The environment to act in: ``env``, or the agent's own.

        The agent's own is stepped by the backend it was trained on, another by the fastest.

        Raises:
            AgentError: the agent's own names a module, and ``env`` does not repeat it.
        """
        own = self._manifest.env
        if env is None and ":" in own:
            raise AgentError(
                f"this agent's environment {own!r} names a Python module; to import and run it, "
                f"repeat the name: {typed('--env', own)} (in Python: env={own!r})"
            )
        task = envs.resolve(own if env is None else env)
        return envs.resolve(own, self._manifest.backend) if task.id == own else task


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
