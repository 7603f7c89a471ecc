"""A task that needs everything at once, and whose optimum is known: ``recall:Recall-v0``.

An image shows a cue in the first step of an episode, and then nothing: it has to be remembered. A vector
shows a number. The action has two parts: ``aim`` has to equal the number, ``pick`` the cue, or 3 where the
mask forbids the cue. Each step gives 1 for the right pick and 1 - (aim - number)^2: 16 in an episode at most.
"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

STEPS = 8
OPTIMUM = 2.0 * STEPS


class Recall(gym.Env):
    def __init__(self):
        self.observation_space = spaces.Dict(
            image=spaces.Box(0, 255, (6, 6, 1), np.uint8),
            number=spaces.Box(-1, 1, (1,), np.float32),
            action_mask=spaces.MultiBinary(4),
        )
        self.action_space = spaces.Dict(aim=spaces.Box(-1, 1, (1,), np.float32), pick=spaces.Discrete(4))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.step_number = int(self.np_random.integers(3)), 0
        self.show()
        return self.obs(), {}

    def show(self):
        self.number = float(self.np_random.uniform(-1, 1))
        self.mask = np.ones(4, np.int8)
        self.mask[self.np_random.integers(3)] = 0  # one of the cues is forbidden in each step

    def obs(self):
        image = np.zeros((6, 6, 1), np.uint8)
        if self.step_number == 0:
            image[2 * self.cue : 2 * self.cue + 2] = 255
        number = np.array([self.number], np.float32)
        return {"image": image, "number": number, "action_mask": self.mask.copy()}

    def step(self, action):
        assert self.mask[action["pick"]], "a forbidden value was picked"
        right = self.cue if self.mask[self.cue] else 3
        reward = float(action["pick"] == right) + 1 - (float(action["aim"][0]) - self.number) ** 2
        self.step_number += 1
        self.show()
        return self.obs(), reward, False, False, {}


gym.register("Recall-v0", Recall, max_episode_steps=STEPS)
