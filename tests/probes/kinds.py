"""An environment of each kind of observation, action and mask that docs/observations.md names.

Observations are drawn from their space. Each class keeps what it is given: ``given[name]`` has, for each
array of an action, its type, its shape and its values.
"""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

LIMIT = 8  # steps of an episode
NUMBERS = Box(-1.0, 1.0, (2,), np.float32)
given: dict[str, dict[str, "Given"]] = {}


class Given:
    """What came for one array of the action."""

    def __init__(self):
        self.forms, self.values = set(), []

    def add(self, value):
        array = np.asarray(value)
        self.forms.add((array.dtype.name, array.shape, isinstance(value, np.ndarray | np.generic)))
        self.values.append(array.ravel())

    @property
    def low(self):
        return np.min(self.values, axis=0).tolist()

    @property
    def high(self):
        return np.max(self.values, axis=0).tolist()


def arrays(action, path="action"):
    """The arrays of an action by their paths."""
    if isinstance(action, dict | tuple):
        inner = action.items() if isinstance(action, dict) else enumerate(action)
        return {name: array for key, each in inner for name, array in arrays(each, f"{path}.{key}").items()}
    return {path: action}


class Kind(gym.Env):
    """What all of them share."""

    observation_space: gym.Space = NUMBERS
    action_space: gym.Space = Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.see(), self.info()

    def see(self):
        self.allowed = self.np_random.random(2) < 0.5
        return self.observation_space.sample()

    def info(self):
        return {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.check(action)
        for name, array in arrays(action).items():
            given.setdefault(type(self).__name__, {}).setdefault(name, Given()).add(array)
        self.t += 1
        return self.see(), float(self.np_random.normal()), False, self.t == LIMIT, self.info()

    def check(self, action):
        """Raises an AssertionError if a value is forbidden."""


class Scalar(Kind):
    observation_space = Box(-1.0, 1.0, (), np.float32)
    action_space = Box(-2.0, 3.0, (), np.float32)


class Table(Kind):
    """Some dimensions of the action have no bounds."""

    observation_space = Box(-np.inf, np.inf, (3, 2), np.float64)
    action_space = Box(np.array([-0.1, -np.inf, 0]), np.array([0.1, np.inf, np.inf]), dtype=np.float64)

    def see(self):
        super().see()
        return self.np_random.normal(size=(3, 2))


class Last(Kind):
    observation_space = Box(0, 255, (6, 7, 3), np.uint8)
    action_space = Discrete(3, start=5)


class First(Kind):
    """The mask in the info, in the form of the action space."""

    observation_space = Box(-1.0, 1.0, (2, 7, 6), np.float32)
    action_space = MultiDiscrete([3, 2], start=[0, 4])

    def info(self):
        flags = np.array([True, *self.allowed])
        return {"action_mask": (flags.astype(np.int8), np.array([1, self.allowed[0]], np.int8))}

    def check(self, action):
        assert action[0] == 0 or self.allowed[action[0] - 1]
        assert action[1] == 4 or self.allowed[0]


class Field(Kind):
    """The mask from a method, of two flags for each bit."""

    observation_space = Discrete(4, start=-2)
    action_space = MultiBinary(2)

    def action_masks(self):
        return np.stack([np.ones(2, bool), self.allowed], axis=1).ravel()

    def check(self, action):
        assert (self.allowed | (action == 0)).all()


class Dials(Kind):
    observation_space = MultiDiscrete([3, 2], start=[1, 0])
    action_space = MultiBinary((2, 2))


class Lamps(Kind):
    observation_space = MultiBinary(3)
    action_space = Box(-1.0, 1.0, (2, 2), np.float64)


class Robot(Kind):
    """Nested in both, with everything in the action."""

    observation_space = Tuple((Dict(arm=NUMBERS, tool=Discrete(3)), MultiBinary(2)))
    action_space = Dict(
        aim=Box(-2.0, 2.0, (2,), np.float64),
        keys=Tuple((Discrete(3, start=1), MultiBinary(2), MultiDiscrete([2, 2], start=[0, 7]))),
    )


class Guided(Kind):
    """A text that no network reads, and the mask as a part of the observation."""

    observation_space = Dict(place=NUMBERS, order=Text(5), action_mask=MultiBinary(3))

    def see(self):
        return {**super().see(), "action_mask": np.array([1, *self.allowed], np.int8)}

    def check(self, action):
        assert action == 0 or self.allowed[action - 1]


class Words(Kind):
    observation_space = Text(5)
