import time

import gymnasium
import numpy as np


class Sleepy(gymnasium.Env):
    """Hold a drifting point at 0; each step takes 5 ms, as a slow simulator would."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._x, self._t = self.np_random.normal(size=2), 0
        return self._x.astype(np.float32), {}

    def step(self, action):
        time.sleep(0.005)
        self._x[1] += 0.1 * float(action[0])
        self._x[0] += 0.1 * self._x[1]
        self._t += 1
        return self._x.astype(np.float32), -float(self._x @ self._x), False, self._t >= 50, {}
