"""Environments that are each sick in one way, for ``poise check``; the test names the class."""

import os
import time

import gymnasium as gym
import numpy as np


class Sound(gym.Env):
    """A point that is moved, and ends where it leaves [-2, 2]."""

    size = 1

    def __init__(self):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.size,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.x, self.count = 0.0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.count = float(self.np_random.uniform(-1, 1)), 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.x], np.float32)

    def reward(self):
        return 1 - abs(self.x)

    def step(self, action):
        self.count += 1
        self.x += 0.3 * float(action[0])
        return self.obs(), self.reward(), abs(self.x) > 2, self.count >= 100, {}


class Unseeded(Sound):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(np.random.default_rng().uniform(-1, 1))
        return self.obs(), {}


class Remembers(Sound):
    """Carries something over from the episode before."""

    drift = 0.0

    def step(self, action):
        self.drift += 0.001
        self.x += self.drift
        return super().step(action)


class OneStart(Sound):
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0.5
        return self.obs(), {}


class Aliased(Sound):
    def __init__(self):
        super().__init__()
        self.state = np.zeros(1, np.float32)

    def obs(self):
        self.state[0] = self.x
        return self.state


class WritesAction(Sound):
    def step(self, action):
        action *= 0.5
        return super().step(action)


class Doubles(Sound):
    def obs(self):
        return np.array([self.x])  # float64, declared float32


class Outside(Sound):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Box(-0.5, 0.5, (1,), np.float32)


class Dead(Sound):
    size = 3

    def obs(self):
        return np.array([self.x, 7, 0], np.float32)


class Unrewarded(Sound):
    def reward(self):
        return 0.0


class Sparse(Sound):
    def reward(self):
        return float(self.count == 99)


class Huge(Sound):
    def reward(self):
        return 1e9 * self.x


class Deaf(Sound):
    def step(self, action):
        return super().step(np.array([0.3]))


class Limited(Sound):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.count >= 40, False, info


class Endless(Sound):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        self.x = float(np.clip(self.x, -2, 2))
        return obs, reward, False, False, info


class NotANumber(Sound):
    def obs(self):
        return np.array([np.nan if self.count == 5 else self.x], np.float32)


class NoReward(Sound):
    def reward(self):
        return None


class Raises(Sound):
    def step(self, action):
        if self.x > 1.5:
            raise ValueError("off the rails")
        return super().step(action)


class Hangs(Sound):
    def step(self, action):
        if self.count == 3:
            time.sleep(60)
        return super().step(action)


class Dies(Sound):
    def step(self, action):
        if self.count == 3:
            os._exit(9)
        return super().step(action)


class Pictures(Sound):
    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Text(8)


class Unmakable(Sound):
    def __init__(self):
        raise OSError("no simulator is running")


class OldReset(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class InfoIsAList(Sound):
    """Which poise does not look at."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], []
