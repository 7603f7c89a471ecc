"""Tiny environments whose every number is known, one for each backend."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np

from poise.algo.networks import Policy as PolicyNetwork
from poise.algo.normalize import Normalizer
from poise.config import PPO, Config, Normalize, Policy
from poise.envs.native.jax_env import JaxEnv, JaxTask
from poise.envs.vector import EnvStep
from poise.placement import two_devices
from poise.spec import Spec
from poise.training.acting import Actor


class Counter:
    """Counts steps: obs = [environment, seed of the episode, step], reward = step + action.

    ``ends[n]`` is the length of environment n's episodes: positive, it terminates; negative, a time
    limit truncates; 0, it goes on for ever.
    """

    def __init__(self, ends):
        self.ends = np.array(ends)
        self.num_envs = len(ends)
        self.backend = "probe"
        self.spec = Spec.flat("Counter", (3,), (1,), (-1.0,), (1.0,))
        self.seed = np.zeros(self.num_envs)
        self.step_count = np.zeros(self.num_envs)
        self.running = np.zeros(self.num_envs, bool)
        self.actions = []

    def _obs(self):
        return np.stack([np.arange(self.num_envs), self.seed, self.step_count], axis=1).astype(float)

    def reset(self, mask, seeds):
        assert len(seeds) == mask.sum()
        self.seed[mask] = [s % 1000 for s in seeds]
        self.step_count[mask] = 0
        self.running[mask] = True
        return self._obs()

    def step(self, action):
        assert self.running.all(), "stepped after its end"
        self.actions.append(action.copy())
        self.step_count += 1
        over = (self.ends != 0) & (self.step_count == np.abs(self.ends))
        self.running = ~over
        reward = self.step_count + action[:, 0].astype(float)
        return EnvStep(self._obs(), reward, over & (self.ends > 0), over & (self.ends < 0))

    def close(self):
        pass


class Bandit:
    """One step: reward 1 - (action - 0.5)^2 for a continuous action, action == 1 for a discrete one."""

    def __init__(self, num_envs, *, discrete=False):
        self.num_envs, self.discrete = num_envs, discrete
        self.backend = "probe"
        continuous = Spec.flat("Bandit", (1,), (1,), (-1.0,), (1.0,))
        self.spec = Spec.flat("Bandit", (1,), num_choices=3) if discrete else continuous

    def reset(self, mask, seeds):
        return np.ones((self.num_envs, 1))

    def step(self, action):
        reward = (action == 1) * 1.0 if self.discrete else 1 - (action[:, 0].astype(float) - 0.5) ** 2
        over = np.ones(self.num_envs, bool)
        return EnvStep(np.ones((self.num_envs, 1)), reward, over, ~over)

    def close(self):
        pass


class Corridor:
    """Two states, no choice: obs 0 leads to obs 1 with reward 0, then an end with reward 1.

    Whether the end is a termination or a time limit is the environment's setting.
    """

    def __init__(self, num_envs, *, truncates):
        self.num_envs, self.truncates = num_envs, truncates
        self.backend = "probe"
        self.spec = Spec.flat("Corridor", (1,), (1,), (-1.0,), (1.0,), time_limit=2 if truncates else None)
        self.place = np.zeros(num_envs)

    def reset(self, mask, seeds):
        self.place[mask] = 0
        return self.place[:, None].copy()

    def step(self, action):
        over = self.place == 1
        reward = over * 1.0
        self.place = np.ones(self.num_envs)
        never = np.zeros(self.num_envs, bool)
        flags = (never, over) if self.truncates else (over, never)
        return EnvStep(self.place[:, None].copy(), reward, *flags)

    def close(self):
        pass


class GymCounter(gym.Env):
    """Counts steps, ends by itself after ``end``; obs has rank 2, action space starts at 5."""

    def __init__(self, end=3):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (1, 2), np.float64)
        self.action_space = gym.spaces.Discrete(3, start=5)
        self.end = end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.count = float(seed or 0), 0
        return np.array([[self.seed, 0.0]]), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.count += 1
        return np.array([[self.seed, float(self.count)]]), float(action), self.count == self.end, False, {}


class _NativeCounter(JaxEnv):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, end, limit):
        self.end, self.time_limit = end, limit

    def reset(self, *, key):
        import jax

        return jax.random.uniform(key), jnp.zeros(())

    def observe(self, state):
        return jnp.stack(state)

    def step(self, state, action, *, key):
        start, count = state
        return (start, count + 1), count + 1 + action[0], count + 1 == self.end


def NativeCounter(end, limit):
    """Counts steps in JAX; terminates after ``end`` (0: never), limited to ``limit`` steps."""
    return JaxTask.of("NativeCounter", _NativeCounter(end, limit))


def still_actor(spec):
    """Acts 0 whatever it sees."""
    policy = jax.tree.map(lambda x: x * 0, PolicyNetwork(spec, Policy(std_init=1.0), key=jax.random.key(0)))
    return Actor(policy, Normalizer.empty(spec), Normalize())


class BySeed(Counter):
    """The length of an episode is fixed by its seed: 1 to 10 steps."""

    def step(self, action):
        self.ends = self.seed % 10 + 1
        return super().step(action)


def small(num_envs=3, num_steps=8, **ppo):
    """Greedy to rounding, so that rewards are known: the fixed deviation is tiny."""
    return Config(
        total_steps=num_envs * num_steps,
        num_envs=num_envs,
        ppo=PPO(num_steps=num_steps, minibatch_size=2, **ppo),
        policy=Policy(std="fixed", std_init=1e-9),
    )


def first_state(spec, config):
    """The state that a training with this configuration begins with, after the checks of a new one."""
    config.check_against(spec)
    config.refuse_idle()
    return two_devices.init(spec, config.settled(spec))


class Fragile(JaxEnv):
    """The reward is NaN in about one episode of a hundred: which ones depends on the seed."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    time_limit = 7

    def reset(self, *, key):
        import jax

        return jax.random.uniform(key)

    def observe(self, state):
        return state[None]

    def step(self, state, action, *, key):
        return state, jnp.where(state > 0.99, jnp.nan, action[0]), state < 0
