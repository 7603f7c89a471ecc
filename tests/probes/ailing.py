"""Small environments of many fields with one mistake each; ``poise check`` has to name it.

``FIRST`` and ``HELD_OUT`` have the rule that names each; the latter were written after the rules.
"""

import random
import sys
import time

import gymnasium as gym
import numpy as np
import sound
from gymnasium.spaces import Box, Dict, Discrete, Text
from sound import BEAM, EVERYWHERE, Beam, Cart, Desk, Maze, Shelf, Small, numbers

from poise import register

# not repeatable


class GlobalNoise(Cart):
    def move(self, action):
        self.v += 0.01 * np.random.randn()  # noqa: NPY002
        return super().move(action)


class StandardRandom(Shelf):
    def move(self, action):
        self.demand = random.randint(0, 12)
        return super().move(action)


class GeneratorOfItsOwn(Cart):
    def __init__(self):
        self.rng = np.random.default_rng(7)

    def begin(self, rng):
        super().begin(self.rng)


class EveryTenth(Cart):
    """Each tenth episode is harder."""

    episodes = 0

    def begin(self, rng):
        self.episodes += 1
        super().begin(rng)
        self.x += self.episodes % 10 == 0


class SharedPast(Maze):
    """A list in the class, which all instances write into."""

    visited: list = []  # noqa: RUF012

    def move(self, action):
        reward, goal = super().move(action)
        self.visited.append(tuple(self.at))
        return reward - 0.01 * (len(self.visited) % 7), goal


class WallClock(Cart):
    def see(self):
        return np.array([self.x, time.perf_counter() % 10], np.float32)


class KeepsSpeed(Cart):
    v = 0.0

    def begin(self, rng):
        self.x = rng.uniform(-1, 1)


class RandomEnd(Desk):
    """Only the end is left to chance that no seed decides."""

    def move(self, action):
        reward, _ = super().move(action)
        return reward, np.random.default_rng().random() < 0.05


class NoisyReward(Cart):
    def move(self, action):
        reward, over = super().move(action)
        return reward + random.gauss(0, 0.1), over


# nothing to do


class LocalCopy(Maze):
    """Moves a copy and forgets it."""

    def move(self, action):
        np.clip(self.at.copy() + self.moves[action], 0, 4)
        self.at = self.np_random.integers(0, 4, 2)
        return -float(self.at.sum()), False


class WrongName(Desk):
    """Compares a number with a word."""

    def move(self, action):
        self.held = 1 if action == "buy" else self.held
        change = float(self.np_random.normal())
        self.price += change
        return change, False


class Unmoved(Cart):
    """Continuous, and multiplied by 0."""

    gain = 0.0

    def move(self, action):
        return super().move(self.gain * action)


class OtherReward(Cart):
    """The agent moves, and is paid for the weather."""

    observation_space = numbers(3)

    def begin(self, rng):
        super().begin(rng)
        self.weather = 0.0

    def see(self):
        return np.array([self.x, self.v, self.weather], np.float32)

    def move(self, action):
        super().move(action)
        self.weather += float(self.np_random.normal())
        return self.weather, False


class AlwaysPaid(Cart):
    """One for each step, and every episode is as long."""

    def move(self, action):
        super().move(action)
        self.x = float(np.clip(self.x, -3, 3))
        return 1.0, False


class NeverPaid(Maze):
    def move(self, action):
        super().move(action)
        return 0, False


# ranges


class Stuck(Cart):
    action_space = Box(0.0, 0.0, (1,), np.float32)


class HalfStuck(sound.Valves):
    action_space = Box(np.float32([[0, 0, 2], [-5, -5, -5]]), np.float32([[1, 2, 2], [5, 5, 5]]))


class Volts(Small):
    """No bounds, and what is wanted is some hundred volts."""

    action_space = Box(*EVERYWHERE, (1,), np.float32)

    def begin(self, rng):
        self.wanted = float(rng.uniform(-1, 1))

    def see(self):
        return np.array([self.wanted], np.float32)

    def move(self, action):
        reward = 1 - abs(float(action[0]) / 100 - self.wanted)
        self.wanted = float(self.np_random.uniform(-1, 1))
        return reward, False


class Newtons(Small):
    """No bounds, a mass of a ton that is to be moved by ten meters."""

    observation_space = numbers(2)
    action_space = Box(*EVERYWHERE, (1,), np.float32)

    def begin(self, rng):
        self.x, self.v = float(rng.choice([-10.0, 10.0])), 0.0

    def see(self):
        return np.array([self.x, self.v], np.float32)

    def move(self, action):
        self.v += float(np.clip(action[0], -5000, 5000)) / 1000
        self.x += self.v
        return -abs(self.x) / 10, abs(self.x) > 100


class DeadZone(Cart):
    action_space = Box(-3.4e38, 3.4e38, (1,), np.float32)

    def move(self, action):
        push = float(np.clip(action[0], -1000, 1000))
        return super().move(np.array([push / 1000 if abs(push) > 50 else 0.0]))


# observations


class Camera(Small):
    observation_space = Box(0, 255, (96, 96, 3), np.uint8)
    action_space = Discrete(3)

    def begin(self, rng):
        self.at = int(rng.integers(90))

    def see(self):
        picture = np.zeros((96, 96, 3), np.uint8)
        picture[45:51, self.at : self.at + 6] = 255
        return picture

    def move(self, action):
        self.at = int(np.clip(self.at + 3 * (int(action) - 1), 0, 90))
        return -abs(self.at - 45) / 45, False


class Frames(Camera):
    """Four small gray frames."""

    observation_space = Box(0, 255, (4, 42, 42), np.uint8)

    def see(self):
        frames = np.zeros((4, 42, 42), np.uint8)
        frames[:, 20, self.at // 3] = 255
        return frames


class Cloud(Cart):
    """Points of a scanner, 12,000 numbers."""

    observation_space = numbers(12_000)

    def see(self):
        return np.linspace(self.x, self.x + self.v, 12_000, dtype=np.float32)


class Seconds(Cart):
    """A time stamp as float32."""

    def see(self):
        return np.array([self.x, 1.7e9 + self.t], np.float32)


class Northing(Cart):
    def see(self):
        return np.array([5.3e6 + self.x, 6.9e5 + self.v], np.float32)


class HalfPrecision(Cart):
    observation_space = numbers(2, np.float16)

    def see(self):
        return np.array([1000 + self.x, self.v], np.float16)


class OwnStatistics:
    def __init__(self):
        self.mean, self.var, self.count = 0.0, 1.0, 1e-4

    def update(self, value):
        self.count += 1
        change = value - self.mean
        self.mean = self.mean + change / self.count
        self.var = self.var + (change * (value - self.mean) - self.var) / self.count


class HandNormalized(Cart):
    def __init__(self):
        self.statistics = OwnStatistics()

    def see(self):
        obs = super().see().astype(float)
        self.statistics.update(obs)
        return ((obs - self.statistics.mean) / np.sqrt(self.statistics.var + 1e-8)).astype(np.float32)


gym.register("Normalized-v0", lambda: gym.wrappers.NormalizeObservation(Cart()), max_episode_steps=40)
gym.register("Scaled-v0", lambda: gym.wrappers.NormalizeReward(Desk()), max_episode_steps=40)


class OneBuffer(Cart):
    """Returns the array that it goes on writing into."""

    def begin(self, rng):
        super().begin(rng)
        self.buffer = np.zeros(2, np.float32)

    def see(self):
        self.buffer[:] = self.x, self.v
        return self.buffer


class ClipsInPlace(Cart):
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def move(self, action):
        np.clip(action, -1, 1, out=action)
        return super().move(action)


# ends


class TimeIsUp(Cart):
    """A time limit as termination."""

    def step(self, action):
        obs, reward, over, cut, info = super().step(action)
        return obs, reward, over or cut, False, info

    def move(self, action):
        return super().move(action)[0], False


class TimeIsUpOnGrid(Maze):
    limit = 30

    def step(self, action):
        obs, _, _, cut, info = super().step(action)
        return obs, -float(np.abs(self.at - 4).sum()), cut, False, info


class Forever(Maze):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


# what is returned


class OldStep(Cart):
    def step(self, action):
        obs, reward, over, cut, info = super().step(action)
        return obs, reward, over or cut, info


class NoSeed(Cart):
    def reset(self):
        return super().reset()


class TwoRewards(Desk):
    def move(self, action):
        return np.zeros(2), False


class NumberAsFlag(Desk):
    def step(self, action):
        obs, reward, over, cut, info = super().step(action)
        return obs, reward, int(over), cut, info


class Pair(Desk):
    def see(self):
        return {"price": self.price, "held": self.held}


class Ragged(Desk):
    def see(self):
        return [self.price, [self.held]]


class Grows(Cart):
    """The shape changes after a while."""

    def see(self):
        return np.zeros(2 + (self.t > 30), np.float32)


class BlowsUp(Cart):
    def move(self, action):
        self.v = 4 * self.v + float(action[0])
        self.x += self.v**3
        return -abs(self.v), False


class DividesByZero(Cart):
    def move(self, action):
        super().move(action)
        return float(np.float64(1) / np.float64(max(0.0, self.x))), False


class MissingChoice(Maze):
    moves = {0: (0, 1), 1: (0, -1), 2: (1, 0)}  # noqa: RUF012


class Exits(Cart):
    def move(self, action):
        if self.x > 1.2:
            sys.exit(0)
        return super().move(action)


class Switches(Small):
    action_space = Box(0, 3, (3,), np.int64)


class Named(Small):
    observation_space = Dict({"name": Text(8)})


class NoLicence(Cart):
    def __init__(self):
        raise RuntimeError("no licence for the simulator")


# on the batch engine


class BeamShape(Beam):
    def outcome(self, batch, before, action):
        return batch.qpos, batch.qpos[:, 1] > 0.5


class BeamKey(Beam):
    def vary(self, rng, values):
        values["mass"][2] *= 2


class BeamNoise(Beam):
    def observe(self, batch):
        return batch.qpos + np.random.default_rng().normal(size=batch.qpos.shape)


class BeamHistory(Beam):
    """Keeps the observation before, in a task that has to keep nothing."""

    last = 0.0

    def observe(self, batch):
        now = batch.qpos.copy()
        obs, self.last = np.concatenate((now, now * 0 + self.last), axis=1), now
        return obs


class BeamUnnamed(Beam):
    """Reads a computed field in ``outcome`` alone, and does not name it: the first step has another one."""

    varied = ()

    def outcome(self, batch, before, action):
        return -np.abs(batch.xpos[:, 2, 0]), np.abs(batch.qpos[:, 1]) > 0.5


class BeamRoot(Beam):
    def observe(self, batch):
        return np.sqrt(batch.qpos)


class BeamDraw(Beam):
    def draw(self, rng, qpos, qvel):
        return np.zeros(3), qvel


class BeamField(Beam):
    varied = ("body_mas",)


class BeamFile(Beam):
    model = BEAM + ".missing"


for _task in (
    BeamShape,
    BeamDraw,
    BeamKey,
    BeamNoise,
    BeamHistory,
    BeamUnnamed,
    BeamRoot,
    BeamField,
    BeamFile,
):
    register(f"{_task.__name__}-v0", _task)

# written after the rules


class Sets(Maze):
    """The order of a set of objects, which is that of their addresses."""

    class Cell:
        pass

    def begin(self, rng):
        super().begin(rng)
        self.cells = [self.Cell() for _ in range(50)]

    def move(self, action):
        reward, goal = super().move(action)
        first = next(iter(set(self.cells)))
        return reward - 0.01 * self.cells.index(first), goal


class GlobalSeed(sound.Snake):
    """Seeds NumPy's own generator once, when it is made."""

    def __init__(self):
        np.random.seed(1)  # noqa: NPY002

    def begin(self, rng):
        super().begin(rng)
        self.food = tuple(np.random.randint(0, 6, 2))  # noqa: NPY002


class Wearing(sound.Turbine):
    """A gear that wears out, and that no reset replaces."""

    wear = 0.0

    def move(self, action):
        self.wear += 1e-6
        return super().move(action * (1 - self.wear))


class Curriculum(sound.Dosing):
    """Meals grow with the number of episodes."""

    count = 0

    def begin(self, rng):
        self.count += 1
        super().begin(rng)
        self.glucose += 0.5 * self.count


class SpaceSample(sound.Reels):
    """Draws with the space's own generator, which no reset seeds."""

    def move(self, action):
        reward, over = super().move(action)
        return reward + 0.01 * float(self.action_space.sample()), over


class Truncates(sound.Nim):
    """Any float action becomes 0 as a whole number."""

    action_space = Box(-0.9, 0.9, (1,), np.float32)

    def move(self, action):
        return super().move(1 + int(action[0]))


class Inverted(sound.Elevator):
    """The floor follows a plan, and the choice is only logged."""

    def move(self, action):
        self.log = int(action)
        return super().move((self.t % 3) if self.t % 7 else 1)


class Bonus(sound.Weeks):
    """Pays by the year. Its draws do not depend on what is done: where they do, no comparison shows this."""

    def begin(self, rng):
        super().begin(rng)
        self.weather = rng.normal(size=100)

    def move(self, action):
        super().move(action)
        return float(np.sin(self.t) + self.weather[self.t]), False


class Idle(sound.Auction):
    """Pays nothing for what is won."""

    def move(self, action):
        super().move(action)
        return 0.0, self.t == 12


class Fixed(sound.Portfolio):
    """One weight is held by its bounds."""

    action_space = Box(np.float32([-5, -5, -5, 1, -5]), np.float32([5, 5, 5, 1, 5]))


class Dollars(sound.Shelf):
    """An amount of money without bounds; thousands are needed."""

    action_space = Box(*EVERYWHERE, (1,), np.float32)

    def move(self, action):
        return super().move(np.clip(float(action[0]) / 500, 0, 19))


class Map(sound.Snake):
    """The board as a picture."""

    observation_space = Box(0, 255, (128, 128), np.uint8)

    def see(self):
        return np.kron(100 * np.abs(super().see()), np.ones((22, 22)))[:128, :128].astype(np.uint8)


class JulianDay(sound.Dosing):
    """Minutes since 1970 in float32, with steps of a second."""

    def see(self):
        return np.array([self.glucose, 28_000_000 + self.t / 60], np.float32)


class Ticks(sound.Desk):
    """Prices in units of 1e-9."""

    def see(self):
        return np.array([1e9 + self.price, self.held], np.float32)


def _wrapped():
    wrappers = gym.wrappers
    env = wrappers.NormalizeObservation(wrappers.FlattenObservation(sound.Snake()))
    return wrappers.RecordEpisodeStatistics(wrappers.ClipReward(wrappers.NormalizeReward(env), -5, 5))


gym.register("Recipe-v0", _wrapped, max_episode_steps=60)


class Shared(sound.Hanoi):
    """Observes the list that it goes on writing into, as an array."""

    def begin(self, rng):
        self.array = np.zeros(3, np.int8)
        self.pegs = self.array

    def see(self):
        return self.array

    def move(self, action):
        self.array[int(action) % 3] = int(action) // 2
        return float(self.array.sum() == 4), False


class Season(sound.Gait):
    """Always over after 64 steps, and the time is not observed; bounded."""

    action_space = Box(-1.0, 1.0, (12,), np.float32)
    limit = 1000

    def move(self, action):
        reward, _ = super().move(action)
        self.q = np.clip(self.q, -1, 1)
        return reward, self.t == 64


class Watchman(sound.Crossing):
    limit = 10**9


class NaNLater(sound.Diffusion):
    """Unstable after a while, where it is heated much."""

    def move(self, action):
        if self.rod[0] > 300.03:
            self.rod[3] = np.nan
        return super().move(action)


class LateKey(sound.Elevator):
    """A table that lacks the highest floor."""

    def move(self, action):
        {0: "a", 1: "b", 2: "c", 3: "d"}[self.floor]
        return super().move(action)


class NoneAtEnd(sound.Nim):
    """No observation after the end."""

    def see(self):
        return np.array([self.left]) if self.left else None


class Asserts(sound.Gauge):
    """Asks for Python's own int."""

    def move(self, action):
        assert type(action) is bool, "an action has to be a bool"
        return super().move(action)


class CableMemory(sound.Cable):
    """Reads what ``remember`` did not return."""

    def remember(self, batch):
        return None


class CableDrift(sound.Cable):
    """A sensor whose bias walks from step to step, in the task itself."""

    bias = 0.0

    def observe(self, batch):
        self.bias += 1e-4
        return super().observe(batch) + self.bias


for _task in (CableMemory, CableDrift):
    register(f"{_task.__name__}-v0", _task)

FIRST = {
    **dict.fromkeys(("GlobalNoise", "StandardRandom", "GeneratorOfItsOwn", "EveryTenth"), "not-repeatable"),
    **dict.fromkeys(("SharedPast", "WallClock", "KeepsSpeed", "RandomEnd", "NoisyReward"), "not-repeatable"),
    **dict.fromkeys(("LocalCopy", "WrongName", "Unmoved"), "action-ignored"),
    "OtherReward": "reward-ignores-action",
    **dict.fromkeys(("AlwaysPaid", "NeverPaid"), "reward-constant"),
    "HalfStuck": "action-range-empty",
    **dict.fromkeys(("Volts", "Newtons", "DeadZone"), "action-size"),
    **dict.fromkeys(("Camera", "Frames"), "observation-image"),
    "Cloud": "observation-large",
    **dict.fromkeys(("Seconds", "Northing", "HalfPrecision"), "observation-precision"),
    **dict.fromkeys(("HandNormalized", "Normalized-v0", "Scaled-v0"), "normalized-inside"),
    "OneBuffer": "observation-aliased",
    "ClipsInPlace": "action-changed",
    **dict.fromkeys(("TimeIsUp", "TimeIsUpOnGrid"), "limit-as-termination"),
    "Forever": "never-ends",
    **dict.fromkeys(("OldStep", "NoSeed", "TwoRewards", "NumberAsFlag", "Pair", "Ragged"), "breaks"),
    **dict.fromkeys(("Grows", "BlowsUp", "DividesByZero", "MissingChoice"), "breaks"),
    **dict.fromkeys(("Switches", "Named", "NoLicence", "Stuck"), "cannot-be-made"),
    **dict.fromkeys(("BeamShape-v0", "BeamDraw-v0", "BeamKey-v0", "BeamRoot-v0"), "breaks"),
    **dict.fromkeys(("BeamNoise-v0", "BeamHistory-v0", "BeamUnnamed-v0"), "not-repeatable"),
    **dict.fromkeys(("BeamField-v0", "BeamFile-v0"), "cannot-be-made"),
}
HELD_OUT = {
    **dict.fromkeys(("Sets", "GlobalSeed", "Wearing", "Curriculum", "SpaceSample"), "not-repeatable"),
    **dict.fromkeys(("Truncates", "Inverted"), "action-ignored"),
    "Bonus": "reward-ignores-action",
    "Idle": "reward-constant",
    "Fixed": "action-range-empty",
    "Dollars": "action-size",
    "Map": "observation-image",
    **dict.fromkeys(("JulianDay", "Ticks"), "observation-precision"),
    "Recipe-v0": "normalized-inside",
    "Shared": "observation-aliased",
    "Season": "limit-as-termination",
    "Watchman": "never-ends",
    **dict.fromkeys(("NaNLater", "LateKey", "NoneAtEnd", "Asserts", "CableMemory-v0"), "breaks"),
    "CableDrift-v0": "not-repeatable",
}
