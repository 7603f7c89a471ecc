"""Environments that tell what they are given, of what type."""

import gymnasium as gym
import sound

given: dict[str, set] = {"Choices": set(), "Numbers": set()}


class Choices(sound.Desk):
    def step(self, action):
        given["Choices"].add((type(action), getattr(action, "dtype", None), getattr(action, "shape", None)))
        return super().step(action)


class Numbers(sound.Swing):
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), "float64")

    def step(self, action):
        given["Numbers"].add((type(action), action.dtype, action.shape, bool(abs(action[0]) <= 2)))
        return super().step(action)
