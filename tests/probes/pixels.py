"""An environment whose observation has three axes; the folder ``earlier/pixels`` has a training on it.

It has a mask in its info, too, which earlier versions of poise did not read.
"""

import gymnasium as gym
import numpy as np


class Pixels(gym.Env):
    """Press 1 where the first pixel is bright."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (5, 5, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.show(), {"action_mask": np.ones(2, np.int8)}

    def show(self):
        self.picture = self.np_random.integers(0, 256, (5, 5, 3), np.uint8)
        return self.picture

    def step(self, action):
        reward = float(action == (self.picture[0, 0, 0] > 127))
        return self.show(), reward, False, False, {"action_mask": np.ones(2, np.int8)}

    def render(self):
        return np.repeat(np.repeat(self.picture, 8, 0), 8, 1)


gym.register("Pixels-v0", Pixels, max_episode_steps=7)
