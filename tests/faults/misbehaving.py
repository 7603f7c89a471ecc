"""An environment that does what the file ``plan`` beside it says: kind, episode and step."""

import os
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from poise.seeds import Stream, episode_seed


class Misbehaving(CartPoleEnv):
    def __init__(self):
        super().__init__()
        self.kind, episode, self.at = Path("plan").read_text().split()
        self.wanted = episode_seed(0, Stream.TRAINING, 1, int(episode))

    def reset(self, *, seed=None, options=None):
        self.seed_now, self.count = seed, 0
        obs, info = super().reset(seed=seed, options=options)
        if self.due():
            obs, _ = self.misbehave(obs, 0.0)
        return obs, info

    def step(self, action):
        self.count += 1
        obs, reward, terminated, truncated, info = super().step(action)
        if self.due():
            obs, reward = self.misbehave(obs, reward)
        return obs, reward, terminated or self.count == 5, truncated, info

    def due(self):
        return self.seed_now == self.wanted and self.count == int(self.at)

    def misbehave(self, obs, reward):
        match self.kind:
            case "raise":
                raise RuntimeError("the cart left the rails")
            case "nan":
                return obs * np.nan, reward
            case "infinite":
                return (obs, np.inf) if self.count else (obs * np.inf, reward)
            case "shape":
                return obs[:2], reward
            case "dtype":
                return np.array(["a", "b", "c", "d"]), reward
            case "none":
                return None, reward
            case "hang":
                time.sleep(1000)
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return obs, reward


gym.register("Misbehaving-v0", Misbehaving)
