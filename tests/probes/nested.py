"""Small environments whose observations or actions have several parts, for ``poise check``.

``SOUND`` are right. ``AILING`` has the finding about each of the others: its rule, its severity, and what it
must say of the part.
"""

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from sound import EVERYWHERE, Small, numbers


class Crane(Small):
    """A crab on rails, a hook that takes or releases, and a lamp."""

    observation_space = Dict(
        crab=Dict(place=numbers(1), speed=numbers(1)), held=Discrete(2), lamps=MultiBinary(2)
    )
    action_space = Dict(push=Box(-2.0, 1.0, (1,)), hook=Discrete(2, start=1), lamps=MultiBinary(2))

    def begin(self, rng):
        self.x, self.v = rng.uniform(-1, 1, 2)
        self.held, self.lamps = int(rng.integers(2)), rng.integers(0, 2, 2).astype(np.int8)

    def see(self):
        crab = {"place": np.float32([self.x]), "speed": np.float32([self.v])}
        return {"crab": crab, "held": self.held, "lamps": self.lamps.copy()}

    def move(self, action):
        assert self.action_space.contains(action), action
        self.v += 0.1 * float(action["push"][0])
        self.x += 0.1 * self.v
        self.held, self.lamps = int(action["hook"]) - 1, action["lamps"].copy()
        return self.held - self.x**2 - 0.1 * float(self.lamps.sum()), abs(self.x) > 3


class Walk(Small):
    """A walk on a ring of nine fields; a wall forbids one of three moves, and an assertion sees to that."""

    observation_space = Dict(at=Discrete(9, start=-4), action_mask=MultiBinary(3))
    action_space = Discrete(3, start=5)

    def begin(self, rng):
        self.at = int(rng.integers(9))

    def mask(self):
        return np.array([self.at != 0, True, self.at != 8])

    def see(self):
        return {"at": self.at - 4, "action_mask": self.mask().astype(np.int8)}

    def move(self, action):
        assert self.mask()[action - 5], "a forbidden move"
        self.at += int(action) - 6
        return -abs(self.at - 4), False


class Told(Walk):
    """The mask in the info, of a plain observation."""

    observation_space = Discrete(9)

    def see(self):
        return self.at

    def reset(self, **options):
        obs, _ = super().reset(**options)
        return obs, {"action_mask": self.mask()}

    def step(self, action):
        *returned, _ = super().step(action)
        return *returned, {"action_mask": self.mask()}


class Asked(Walk):
    """The mask from a method; two choices, each with flags of its own."""

    observation_space = numbers(1)
    action_space = MultiDiscrete([3, 2], start=[5, 0])

    def action_masks(self):
        return np.append(self.mask(), [True, self.t % 2 == 0])

    def see(self):
        return np.float32([self.at])

    def move(self, action):
        assert action[1] == 0 or self.t % 2 == 1, "a forbidden value"
        return super().move(action[0])[0] - 0.1 * float(action[1]), False


class Eye(Small):
    """A picture with a dot, and a speed."""

    observation_space = Dict(eye=Box(0, 255, (12, 12, 3), np.uint8), speed=numbers(1))
    action_space = Discrete(3)

    def begin(self, rng):
        self.at, self.v = int(rng.integers(12)), 0

    def see(self):
        eye = np.zeros((12, 12, 3), np.uint8)
        eye[5, self.at, :2] = 255
        return {"eye": eye, "speed": np.float32([self.v])}

    def move(self, action):
        self.v = int(action) - 1
        self.at = int(np.clip(self.at + self.v, 0, 11))
        return -abs(self.at - 5), False


# with one mistake each


class Mass(Crane):
    """A leaf that never changes."""

    observation_space = Dict(
        crab=Dict(place=numbers(1), speed=numbers(1), mass=numbers(2)), held=Discrete(2), lamps=MultiBinary(2)
    )

    def see(self):
        obs = super().see()
        obs["crab"]["mass"] = np.float32([7, self.x])
        return obs


class Word(Crane):
    """A leaf that no network reads."""

    observation_space = Dict(crab=Dict(place=numbers(1), speed=numbers(1)), word=Text(8))

    def see(self):
        return {"crab": super().see()["crab"], "word": "lift"}


class Clock(Crane):
    """A time stamp as float32, in a tuple."""

    observation_space = Tuple((numbers(2), numbers(1)))

    def see(self):
        return np.float32([self.x, self.v]), np.float32([1.7e9 + self.t])


class Beyond(Crane):
    observation_space = Dict(crab=Box(-0.5, 0.5, (2,), np.float32), held=Discrete(2))

    def see(self):
        return {"crab": np.float32([self.v / 100, self.x]), "held": self.held}


class Narrow(Crane):
    """Another dtype than declared, in one leaf."""

    observation_space = Dict(crab=numbers(2, np.float64), held=Discrete(2))

    def see(self):
        return {"crab": np.float32([self.x, self.v]), "held": self.held}


class Shared(Crane):
    """One leaf is the array that it goes on writing into."""

    def see(self):
        return {**super().see(), "lamps": self.lamps}

    def move(self, action):
        before, result = self.lamps, super().move(action)
        before[:], self.lamps = self.lamps, before
        return result


class Writes(Crane):
    """Writes into one part of the action."""

    def move(self, action):
        result = super().move(action)
        action["push"] *= 0
        return result


class Lamps(Crane):
    """The second lamp is not wired."""

    def move(self, action):
        return super().move({**action, "lamps": action["lamps"] * np.int8([1, 0])})


class Unhooked(Crane):
    """The hook has no effect at all."""

    def move(self, action):
        return super().move({**action, "hook": np.int64(1)})


class Second(Small):
    """Two choices, of which the second has no effect."""

    observation_space = numbers(1)
    action_space = MultiDiscrete([3, 4])

    def begin(self, rng):
        self.x = float(rng.normal())

    def see(self):
        return np.float32([self.x])

    def move(self, action):
        self.x += 0.1 * (int(action[0]) - 1)
        return -abs(self.x), abs(self.x) > 5


class Stiff(Crane):
    """A dimension without a range, in one part."""

    action_space = Dict(
        push=Box(np.float32([-2, 1]), np.float32([1, 1])), hook=Discrete(2, start=1), lamps=MultiBinary(2)
    )


class Tons(Crane):
    """A part without bounds, of which thousands are needed."""

    action_space = Dict(push=Box(*EVERYWHERE, (1,)), hook=Discrete(2, start=1), lamps=MultiBinary(2))

    def move(self, action):
        super().move({**action, "push": np.float32([0])})
        push = float(action["push"][0]) / 2000
        self.x = float(np.clip(push, -5, 5))
        return -abs(push - 1), False


class Free(Walk):
    """A mask that forbids nothing, because the ring has no wall."""

    def mask(self):
        return np.ones(3, bool)

    def move(self, action):
        self.at = (self.at + int(action) - 6) % 9
        return -abs(self.at - 4), False


class Nothing(Walk):
    """A mask that forbids everything at step 3."""

    step_without = 3

    def see(self):
        obs = super().see()
        return {**obs, "action_mask": obs["action_mask"] * np.int8(self.t != self.step_without)}


class NothingAtFirst(Nothing):
    step_without = 0


class Blind(Eye):
    """A picture that is always black."""

    def see(self):
        obs = super().see()
        return {**obs, "eye": 0 * obs["eye"]}


class Many(Crane):
    """A leaf of 12,000 numbers."""

    observation_space = Dict(cloud=numbers(12_000), held=Discrete(2))

    def see(self):
        return {"cloud": np.linspace(self.x, self.v, 12_000, dtype=np.float32), "held": self.held}


SOUND = ("Crane", "Walk", "Told", "Asked", "Eye")
AILING = {
    "Mass": ("constant-observation", "note", "1 of 2 observed numbers in 'crab.mass' never changed: 0"),
    "Word": ("left-out", "note", "observation 'word' is Text: it is left out"),
    "Clock": ("observation-precision", "warning", "observed number 0 in '1' lies between 1,700,000,000"),
    "Beyond": ("outside-bounds", "note", "observations 'crab' were outside their space: obs['crab'][1] was"),
    "Narrow": ("observation-dtype", "note", "observations 'crab' are float32, their space says float64"),
    "Shared": ("observation-aliased", "warning", "had returned (obs['lamps']) was changed by the next step"),
    "Writes": ("action-changed", "warning", "step wrote into the array of the action"),
    "Lamps": ("action-part-ignored", "warning", "other values of action['lamps'][1] led to the same"),
    "Unhooked": ("action-part-ignored", "warning", "other values of action['hook'] led to the same"),
    "Second": ("action-part-ignored", "warning", "other values of action[1] led to the same"),
    "Stiff": ("action-range-empty", "warning", "action 1 of 2 in 'push' has no range: low = 1, high = 1"),
    "Tons": ("action-size", "warning", "action 0 in 'push' has no bounds, and"),
    "Free": ("mask-idle", "note", "the action_mask allowed everything in"),
    "Nothing": ("breaks", "error", "episode seed 0, step 3: action_mask allows no action"),
    "NothingAtFirst": ("breaks", "error", "episode seed 0, step 0: action_mask allows no action"),
    "Eye": ("observation-image", "note", "observation 'eye' is an image: 12 x 12 x 3, uint8"),
    "Blind": ("constant-observation", "note", "observation 'eye' is an image that never changed"),
    "Many": ("observation-large", "warning", "an observation has 12,002 numbers, 12,000 of them for 'cloud'"),
}
