"""Many choices, most of them forbidden: ``masked:Masked-v0``.

The right one of 80 choices is shown. In each step 60 of the others are forbidden. An episode has 100 steps;
each right choice gives 1, so 100 is the optimum.
"""

import gymnasium as gym
import numpy as np


class Masked(gym.Env):
    def __init__(self, size=80, num_forbidden=60):
        self.size, self.num_forbidden = size, num_forbidden
        self.observation_space = gym.spaces.Discrete(size)
        self.action_space = gym.spaces.Discrete(size)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.show(), {}

    def show(self):
        self.right = int(self.np_random.integers(self.size))
        others = np.delete(np.arange(self.size), self.right)
        self.mask = np.ones(self.size, bool)
        self.mask[self.np_random.choice(others, self.num_forbidden, replace=False)] = False
        return self.right

    def action_masks(self):
        return self.mask

    def step(self, action):
        reward = float(action == self.right)
        return self.show(), reward, False, False, {}


gym.register("Masked-v0", Masked, max_episode_steps=100)
