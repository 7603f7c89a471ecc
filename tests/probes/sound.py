"""Small environments of many fields that are right: ``poise check`` may give notes, no warning and no error.

Some look odd, and are right all the same. Those of ``HELD_OUT`` were written after the rules.
"""

import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from poise import Task, register

EVERYWHERE = (-np.inf, np.inf)
BEAM = str(Path(__file__).parents[2] / "examples" / "ball_and_beam.xml")


class Small(gym.Env):
    """What most of them share; ``begin``, ``see`` and ``move`` are theirs."""

    observation_space = Box(*EVERYWHERE, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    limit = 50

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.begin(self.np_random)
        return self.see(), {}

    def step(self, action):
        self.t += 1
        reward, over = self.move(action)
        return self.see(), reward, bool(over), self.t >= self.limit, {}


def numbers(n, dtype=np.float32):
    return Box(*EVERYWHERE, (n,), dtype)


# control


class Cart(Small):
    """A cart on a track that is to stand still in the middle."""

    observation_space = numbers(2)

    def begin(self, rng):
        self.x, self.v = rng.uniform(-1, 1, 2)

    def see(self):
        return np.array([self.x, self.v], np.float32)

    def move(self, action):
        self.v += 0.1 * float(action[0]) - 0.01 * self.v
        self.x += 0.1 * self.v
        return -(self.x**2), abs(self.x) > 3


class Swing(Small):
    """A pendulum; never terminated, a float64 observation."""

    observation_space = numbers(3, np.float64)
    action_space = Box(-2.0, 2.0, (1,), np.float64)
    limit = 200

    def begin(self, rng):
        self.angle, self.speed = rng.uniform(-np.pi, np.pi), rng.uniform(-1, 1)

    def see(self):
        return np.array([np.cos(self.angle), np.sin(self.angle), self.speed])

    def move(self, action):
        self.speed = np.clip(self.speed + 0.05 * (10 * np.sin(self.angle) + 3 * action[0]), -8, 8)
        self.angle += 0.05 * self.speed
        return -(((self.angle + np.pi) % (2 * np.pi) - np.pi) ** 2) - 0.1 * self.speed**2, False


class Regulator(Small):
    """Without bounds of the action, whose natural size is 1."""

    observation_space = numbers(2)
    action_space = Box(*EVERYWHERE, (1,), np.float32)

    def begin(self, rng):
        self.x = rng.normal(size=2)

    def see(self):
        return self.x.astype(np.float32)

    def move(self, action):
        self.x = np.array([self.x[0] + 0.1 * self.x[1], self.x[1] + 0.5 * float(action[0])])
        return -float(self.x @ self.x) - 0.1 * float(action[0]) ** 2, np.abs(self.x).max() > 10


class Boiler(Small):
    """Slow: 2 ms a step, and a heat capacity that shows an action only after a while."""

    action_space = Box(0.0, 1.0, (1,), np.float32)
    limit = 300

    def begin(self, rng):
        self.kelvin = rng.uniform(290, 310)

    def see(self):
        return np.array([self.kelvin], np.float32)

    def move(self, action):
        time.sleep(0.002)
        self.kelvin += 0.01 * float(action[0]) - 0.001 * (self.kelvin - 290)
        return -abs(self.kelvin - 300) / 10, False


class DeadTime(Small):
    """What is done shows twenty steps later."""

    observation_space = numbers(2)
    limit = 120

    def begin(self, rng):
        self.pipe, self.level = [0.0] * 20, float(rng.uniform(-1, 1))

    def see(self):
        return np.array([self.level, self.pipe[-1]], np.float32)[:2] * [1, 0]

    def move(self, action):
        self.pipe.append(float(action[0]))
        self.level += 0.1 * self.pipe.pop(0)
        return -abs(self.level), abs(self.level) > 5


class Ship(Small):
    """Episodes of 3,000 steps that no registration declares."""

    observation_space = numbers(2)
    limit = 3000

    def begin(self, rng):
        self.heading, self.rate = rng.uniform(-1, 1), 0.0

    def see(self):
        return np.array([self.heading, self.rate], np.float32)

    def move(self, action):
        self.rate += 0.01 * (float(action[0]) - self.rate)
        self.heading += 0.02 * self.rate
        return -(self.heading**2), False


class Voyage(Ship):
    """Of 7,000 steps, more than the check plays at first."""

    limit = 7000


class Valves(Small):
    """Six actions in a matrix, of ranges of their own."""

    observation_space = numbers(6)
    action_space = Box(np.float32([[0, 0, 0], [-5, -5, -5]]), np.float32([[1, 2, 3], [5, 5, 5]]))

    def begin(self, rng):
        self.x = rng.uniform(-1, 1, (2, 3))

    def see(self):
        return self.x.ravel().astype(np.float32)

    def move(self, action):
        assert action.shape == (2, 3)
        self.x = 0.9 * self.x + 0.1 * action
        return -float(np.abs(self.x - 1).sum()), False


class Mixed(Small):
    """One dimension with bounds, one without."""

    observation_space = numbers(2)
    action_space = Box(np.float32([0, -np.inf]), np.float32([1, np.inf]))

    def begin(self, rng):
        self.x = rng.uniform(-1, 1, 2)

    def see(self):
        return self.x.astype(np.float32)

    def move(self, action):
        self.x = self.x * 0.9 + 0.2 * np.clip(action, -2, 2)
        return -float(np.square(self.x - [0.5, -0.5]).sum()), False


# grids, boards, games


class Maze(Small):
    """Looks its action up in a dictionary; observes whole numbers."""

    observation_space = Box(0, 4, (2,), np.int64)
    action_space = Discrete(4)
    moves = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}  # noqa: RUF012

    def begin(self, rng):
        self.at = rng.integers(0, 4, 2)

    def see(self):
        return self.at.copy()

    def move(self, action):
        self.at = np.clip(self.at + self.moves[action], 0, 4)
        goal = (self.at == 4).all()
        return 1.0 if goal else -0.1, goal


class Lake(Small):
    """Slippery, with holes; a reward at the goal alone, which random play seldom reaches. One-hot."""

    observation_space = Box(0, 1, (16,), np.int8)
    action_space = Discrete(4)

    def begin(self, rng):
        self.at = [0, 0]

    def see(self):
        return np.eye(16, dtype=np.int8)[4 * self.at[0] + self.at[1]]

    def move(self, action):
        turn = int(self.np_random.integers(-1, 2))
        step = ((0, 1), (1, 0), (0, -1), (-1, 0))[(int(action) + turn) % 4]
        self.at = [min(3, max(0, a + b)) for a, b in zip(self.at, step, strict=True)]
        place = 4 * self.at[0] + self.at[1]
        return float(place == 15), place in (5, 7, 11, 12, 15)


class Catch(Small):
    """A ball falls, a paddle is under it or not: ten steps, planes of bits as of MinAtar. First and last
    choice do nothing."""

    observation_space = Box(0, 1, (10, 10, 2), bool)
    action_space = Discrete(4)

    def begin(self, rng):
        self.row, self.ball, self.paddle = 0, int(rng.integers(10)), 5

    def see(self):
        planes = np.zeros((10, 10, 2), bool)
        planes[self.row, self.ball, 0] = planes[9, self.paddle, 1] = True
        return planes

    def move(self, action):
        self.paddle = int(np.clip(self.paddle + (0, -1, 1, 0)[action], 0, 9))
        self.row += 1
        return float(self.row == 9 and self.ball == self.paddle), self.row == 9


class Noughts(Small):
    """Noughts and crosses against random play; a wrong move loses."""

    observation_space = Box(-1, 1, (9,), np.int8)
    action_space = Discrete(9)

    def begin(self, rng):
        self.board = np.zeros(9, np.int8)

    def see(self):
        return self.board.copy()

    def won(self, who):
        b = self.board.reshape(3, 3) == who
        return b.all(0).any() or b.all(1).any() or b.diagonal().all() or b[:, ::-1].diagonal().all()

    def move(self, action):
        if self.board[action]:
            return -1.0, True
        self.board[action] = 1
        free = np.flatnonzero(self.board == 0)
        if self.won(1) or not len(free):
            return float(self.won(1)), True
        self.board[self.np_random.choice(free)] = -1
        return -float(self.won(-1)), self.won(-1)


class Cards(Small):
    """Twenty-one: one or two steps, a reward at the end."""

    observation_space = Box(0, 31, (2,), np.int64)
    action_space = Discrete(2)

    def begin(self, rng):
        self.mine, self.bank = int(rng.integers(4, 21)), int(rng.integers(1, 11))

    def see(self):
        return np.array([self.mine, self.bank])

    def move(self, action):
        if action == 1:
            self.mine += int(self.np_random.integers(1, 11))
            return (-1.0, True) if self.mine > 21 else (0.0, False)
        bank = self.bank + int(self.np_random.integers(1, 15))
        return float(np.sign(self.mine - bank)) if bank < 22 else 1.0, True


class Door(Small):
    """What is done matters only while a door is open, which is seldom."""

    observation_space = numbers(2)
    action_space = Discrete(3)
    limit = 200

    def begin(self, rng):
        self.open, self.inside = False, 0

    def see(self):
        return np.array([self.open, self.inside], np.float32)

    def move(self, action):
        entered = self.open and action == 1
        self.inside += entered
        self.open = bool(self.np_random.random() < 0.03)
        return float(entered), False


class Hill(Small):
    """Each step costs 1 until a goal that random play does not reach."""

    observation_space = numbers(2)
    action_space = Discrete(3)
    limit = 100

    def begin(self, rng):
        self.x, self.v = rng.uniform(-0.6, -0.4), 0.0

    def see(self):
        return np.array([self.x, self.v], np.float32)

    def move(self, action):
        self.v += 0.0005 * (int(action) - 1) - 0.0025 * np.cos(3 * self.x)
        self.x = max(-1.2, self.x + self.v)
        return -1.0, self.x > 0.5


# decisions


class Arms(Small):
    """A bandit without a state: one step, nothing observed."""

    action_space = Discrete(10)

    def begin(self, rng):
        pass

    def see(self):
        return np.zeros(1, np.float32)

    def move(self, action):
        return float(self.np_random.normal(int(action))), True


class Tour(Small):
    """A tour through eight places: it ends after eight choices, as it should, and that is observed."""

    observation_space = numbers(25)
    action_space = Discrete(8)

    def begin(self, rng):
        self.places, self.seen, self.at = rng.uniform(size=(8, 2)), np.zeros(8, bool), 0

    def see(self):
        return np.array([*self.places.ravel(), *self.seen, self.at], np.float32)

    def move(self, action):
        k = int(action)
        while self.seen[k]:
            k = (k + 1) % 8
        far = np.linalg.norm(self.places[k] - self.places[self.at])
        self.seen[k], self.at = True, k
        return -float(far), self.seen.all()


class Jobs(Small):
    """Two machines, twenty jobs: always twenty steps, and the jobs left are observed."""

    observation_space = numbers(4)
    action_space = Discrete(2)

    def begin(self, rng):
        self.left, self.load, self.next = 20, np.zeros(2), rng.exponential()

    def see(self):
        return np.array([self.left, *self.load, self.next], np.float32)

    def move(self, action):
        before = self.load.max()
        self.load[action] += self.next
        self.left, self.next = self.left - 1, self.np_random.exponential()
        return float(before - self.load.max()), self.left == 0


class Shelf(Small):
    """An inventory: orders of up to 19, counts observed."""

    observation_space = Box(0, 1000, (2,), np.int32)
    action_space = Discrete(20)

    def begin(self, rng):
        self.stock, self.demand = 10, int(rng.poisson(6))

    def see(self):
        return np.array([self.stock, self.demand], np.int32)

    def move(self, action):
        self.stock = min(100, self.stock + int(action))
        sold = min(self.stock, self.demand)
        self.stock, self.demand = self.stock - sold, int(self.np_random.poisson(6))
        return 3.0 * sold - 0.2 * self.stock - int(action), False


class Desk(Small):
    """Trading: hold, buy, sell, hold and write a line."""

    observation_space = numbers(2)
    action_space = Discrete(4)
    limit = 100

    def begin(self, rng):
        self.price, self.held = float(rng.normal()), 0

    def see(self):
        return np.array([self.price, self.held], np.float32)

    def move(self, action):
        self.held = {0: self.held, 1: 1, 2: -1, 3: self.held}[int(action)]
        change = -0.3 * self.price + 0.1 * float(self.np_random.normal())
        self.price += change
        return self.held * change, False


class Battery(Small):
    """Storage of energy at a price that follows the day, in float64 with the hour of the year."""

    observation_space = numbers(3, np.float64)
    limit = 168

    def begin(self, rng):
        self.hour, self.charge = int(rng.integers(8000)), float(rng.uniform())

    def price(self):
        return 50 + 30 * np.sin(2 * np.pi * self.hour / 24)

    def see(self):
        return np.array([self.hour, self.price(), self.charge])

    def move(self, action):
        charge = float(np.clip(self.charge + 0.2 * action[0], 0, 1))
        reward = -(charge - self.charge) * self.price()
        self.charge, self.hour = charge, self.hour + 1
        return reward, False


class Crossing(Small):
    """A traffic light."""

    observation_space = Box(0, 200, (5,), np.float32)
    action_space = Discrete(2)

    def begin(self, rng):
        self.cars, self.green = rng.integers(0, 10, 4).astype(float), 0

    def see(self):
        return np.array([*self.cars, self.green], np.float32)

    def move(self, action):
        if int(action) == self.green:
            self.cars[2 * self.green : 2 * self.green + 2] -= 3
        self.green = int(action)
        self.cars = np.clip(self.cars + self.np_random.poisson(1, 4), 0, 200)
        return -float(self.cars.sum()) / 10, False


class Queue(Small):
    """Two servers; terminated where a line overflows. Flags of NumPy, a list as observation."""

    observation_space = Box(0, 50, (2,), np.float32)
    action_space = Discrete(2, start=-1)
    limit = 150

    def begin(self, rng):
        self.line = [0, 0]

    def see(self):
        return [float(n) for n in self.line]

    def step(self, action):
        obs, reward, over, cut, info = super().step(action)
        return obs, np.float32(reward), np.bool_(over), np.bool_(cut), info

    def move(self, action):
        self.line[int(action) + 1] += int(self.np_random.poisson(2.2))
        self.line = [max(0, n - k) for n, k in zip(self.line, (2, 1), strict=True)]
        return -sum(self.line) / 10, max(self.line) > 40


class Epidemic(Small):
    """Contacts are reduced or not; a city of a million, rewards of a size of 100,000."""

    observation_space = Box(0, 1e6, (3,), np.float32)
    action_space = Box(0.0, 1.0, (1,), np.float32)
    limit = 200

    def begin(self, rng):
        sick = float(rng.uniform(100, 10_000))
        self.people = np.array([1e6 - sick, sick, 0.0])

    def see(self):
        return self.people.astype(np.float32)

    def move(self, action):
        s, i, r = self.people
        new = 0.3 * (1 - 0.8 * float(action[0])) * s * i / 1e6
        self.people = np.array([s - new, i + new - 0.1 * i, r + 0.1 * i])
        return -new - 2e4 * float(action[0]), i < 50


class Reactor(Small):
    """A stirred tank that may run away; kelvin and pascal."""

    observation_space = numbers(3)
    action_space = Box(280.0, 330.0, (1,), np.float32)
    limit = 80

    def begin(self, rng):
        self.c, self.kelvin = rng.uniform(0.4, 0.6), rng.uniform(320, 330)

    def see(self):
        return np.array([self.c, self.kelvin, 101_325 + 10 * (self.kelvin - 325)], np.float32)

    def move(self, action):
        rate = 7.2e10 * np.exp(-8750 / self.kelvin) * self.c
        rate = min(rate, 20 * self.c)  # no more reacts than there is
        self.c += 0.05 * (1 - self.c - rate)
        self.kelvin += 0.05 * (350 - self.kelvin + 209 * rate + 2 * (float(action[0]) - self.kelvin))
        return -abs(self.kelvin - 330) / 10, self.kelvin > 500


class Crop(Small):
    """Water now, a harvest after a season that is observed: a reward at the end alone."""

    observation_space = numbers(3)
    action_space = Discrete(3)

    def begin(self, rng):
        self.soil, self.growth, self.day = float(rng.uniform(0.2, 0.8)), 0.0, 0

    def see(self):
        return np.array([self.soil, self.growth, self.day], np.float32)

    def move(self, action):
        rain = self.np_random.exponential(0.05)
        self.soil = float(np.clip(self.soil + 0.1 * int(action) + rain - 0.1, 0, 1))
        self.growth += 1 - abs(self.soil - 0.5)
        self.day += 1
        return (self.growth if self.day == 40 else 0.0), self.day == 40


# odd, and right


class Stamped(Small):
    """A time stamp and a northing beside what matters, in float64, which holds their digits."""

    observation_space = numbers(3, np.float64)

    def begin(self, rng):
        self.x = float(rng.uniform(-1, 1))

    def see(self):
        return np.array([1.7e9 + 10 * self.x, 5.3e6 + self.x, self.t])

    def move(self, action):
        self.x += 0.1 * float(action[0])
        return -abs(self.x), abs(self.x) > 2


class Serial(Small):
    """Large whole numbers."""

    observation_space = Box(0, 2**40, (1,), np.int64)
    action_space = Discrete(3)

    def begin(self, rng):
        self.x = int(rng.integers(-10, 10))

    def see(self):
        return np.array([2**39 + 100 * self.x])

    def move(self, action):
        self.x += int(action) - 1
        return -abs(self.x) / 10, False


class Talks(Cart):
    """Prints, and tells infos of changing shape."""

    def step(self, action):
        print("a step")
        return (*super().step(action)[:4], {"seen": np.zeros(self.t), f"key{self.t}": [{}]})


class Smooth:
    """A running mean and variance, of one episode."""

    def __init__(self):
        self.mean, self.var, self.count = 0.0, 1.0, 1

    def update(self, value):
        self.count += 1
        change = value - self.mean
        self.mean += change / self.count
        self.var += (change * (value - self.mean) - self.var) / self.count


class Belief(Small):
    """Observes a posterior that each episode begins anew."""

    observation_space = numbers(2)
    action_space = Discrete(2)

    def begin(self, rng):
        self.posterior, self.truth = Smooth(), float(rng.normal())

    def see(self):
        return np.array([self.posterior.mean, self.posterior.var], np.float32)

    def move(self, action):
        if action == 0:
            self.posterior.update(self.truth + float(self.np_random.normal()))
            return -0.05, False
        return -abs(self.posterior.mean - self.truth), True


class Spectrum(Small):
    """Two thousand numbers."""

    observation_space = numbers(2000)

    def begin(self, rng):
        self.peak = float(rng.uniform(200, 1800))

    def see(self):
        return np.exp(-(((np.arange(2000) - self.peak) / 50) ** 2)).astype(np.float32)

    def move(self, action):
        self.peak = float(np.clip(self.peak + 50 * action[0], 0, 1999))
        return -abs(self.peak - 1000) / 1000, False


class Tiles(Small):
    """A small view in bytes, as of MiniGrid."""

    observation_space = Box(0, 255, (7, 7, 3), np.uint8)
    action_space = Discrete(3)

    def begin(self, rng):
        self.view, self.facing = rng.integers(0, 5, (7, 7, 3), np.uint8), 0

    def see(self):
        return np.rot90(self.view, self.facing).copy()

    def move(self, action):
        self.facing += int(action) - 1
        return float(self.view[0, 0, 0] == self.see()[0, 0, 0]), False


class Gauge(Small):
    """A single number, not in an array; 300 choices."""

    observation_space = Box(0.0, 1.0, (), np.float32)
    action_space = Discrete(300)

    def begin(self, rng):
        self.x = float(rng.uniform())

    def see(self):
        return np.float32(self.x)

    def move(self, action):
        reward = -abs(self.x - int(action) / 299)
        self.x = float(self.np_random.uniform())
        return reward, False


def _counted(env):
    wrappers = gym.wrappers
    env = wrappers.RecordEpisodeStatistics(wrappers.FrameStackObservation(env, 4))
    return wrappers.TransformReward(wrappers.FlattenObservation(env), lambda reward: 0.01 * reward)


gym.register("Stacked-v0", lambda: _counted(Cart()), max_episode_steps=40)


class Beam(Task):
    """On the batch engine, with a mass and a gravity of each episode."""

    model, frame_skip, time_limit = BEAM, 4, 60
    varied = ("body_mass",)

    def draw(self, rng, qpos, qvel):
        return np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.4, 0.4)]), qvel

    def vary(self, rng, values):
        values["body_mass"][2] *= rng.uniform(0.5, 2.0)

    def observe(self, batch):
        return np.concatenate((batch.qpos, batch.qvel, batch.ctrl), axis=1)

    def outcome(self, batch, before, action):
        distance = np.abs(batch.qpos[:, 1])
        return 1 - 2 * distance, distance > 0.5


class BeamDerived(Beam):
    """Reads a computed field in ``outcome`` alone, and names it."""

    derived = ("xpos",)
    varied = ()

    def outcome(self, batch, before, action):
        height = batch.xpos[:, 2, 2]
        return -np.abs(batch.qpos[:, 1]) + 0.1 * height, np.abs(batch.qpos[:, 1]) > 0.5


register("Beam-v0", Beam)
register("BeamDerived-v0", BeamDerived)

# written after the rules


class Elevator(Small):
    """Five floors, people who wait; a time limit of 400 that is long beside the horizon."""

    observation_space = Box(0, 100, (6,), np.int64)
    action_space = Discrete(3)
    limit = 400

    def begin(self, rng):
        self.wait, self.floor = rng.integers(0, 3, 5), 0

    def see(self):
        return np.array([self.floor, *self.wait])

    def move(self, action):
        if action == 1:
            self.wait[self.floor] = 0
        else:
            self.floor = int(np.clip(self.floor + int(action) - 1, 0, 4))
        arrivals = self.np_random.random(5) < 0.05
        self.wait = np.minimum(self.wait + arrivals, 100)
        return -float(self.wait.sum()), False


class Turbine(Small):
    """Yaw of a wind turbine: gusts, a rate limit, an angle that wraps, power in watts."""

    observation_space = numbers(3, np.float64)
    action_space = Box(-0.5, 0.5, (1,), np.float64)
    limit = 90

    def begin(self, rng):
        self.wind, self.yaw = rng.uniform(-np.pi, np.pi), 0.0

    def see(self):
        return np.array([np.sin(self.wind - self.yaw), np.cos(self.wind - self.yaw), self.yaw])

    def move(self, action):
        self.yaw += float(np.clip(action[0], -0.1, 0.1))
        self.wind += 0.05 * self.np_random.normal()
        return 2e6 * max(0.0, np.cos(self.wind - self.yaw)) ** 3 / 1e3, False


class Nim(Small):
    """Takes one to three; the last one wins. Episodes of two to seven steps."""

    observation_space = Box(0, 20, (1,), np.int64)
    action_space = Discrete(3, start=1)

    def begin(self, rng):
        self.left = int(rng.integers(8, 21))

    def see(self):
        return np.array([self.left])

    def move(self, action):
        self.left = max(0, self.left - int(action))
        if not self.left:
            return 1.0, True
        self.left = max(0, self.left - int(self.np_random.integers(1, 4)))
        return (-1.0, True) if not self.left else (0.0, False)


class Portfolio(Small):
    """Weights of five assets, made to sum to 1: only their differences count. Five years of days."""

    observation_space = numbers(10)
    action_space = Box(-5.0, 5.0, (5,), np.float32)
    limit = 1260

    def begin(self, rng):
        self.returns, self.weights = rng.normal(0, 0.01, 5), np.full(5, 0.2)

    def see(self):
        return np.concatenate((100 * self.returns, self.weights)).astype(np.float32)

    def move(self, action):
        weights = np.exp(action - action.max())
        weights /= weights.sum()
        cost = 0.001 * np.abs(weights - self.weights).sum()
        self.returns = 0.1 * self.returns + self.np_random.normal(3e-4, 0.01, 5)
        self.weights = weights
        return float(np.log1p(weights @ self.returns - cost)), False


class Dosing(Small):
    """Insulin: what is given acts with a delay of hours, and most actions of the day are 0."""

    observation_space = numbers(2)
    action_space = Box(0.0, 10.0, (1,), np.float32)
    limit = 288

    def begin(self, rng):
        self.glucose, self.active = float(rng.uniform(80, 160)), 0.0

    def see(self):
        return np.array([self.glucose, self.t % 288], np.float32)

    def move(self, action):
        self.active = 0.97 * self.active + 0.03 * float(action[0])
        meal = 40 * (self.np_random.random() < 0.02)
        self.glucose += meal - 2 * self.active + 0.02 * (120 - self.glucose)
        return float(70 < self.glucose < 180), self.glucose < 40


class Hanoi(Small):
    """Three discs; moves that are not allowed do nothing. A reward at the goal, rarely reached."""

    observation_space = Box(0, 2, (3,), np.int8)
    action_space = Discrete(6)
    limit = 100
    pairs = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))

    def begin(self, rng):
        self.pegs = [0, 0, 0]

    def see(self):
        return np.array(self.pegs, np.int8)

    def move(self, action):
        source, target = self.pairs[action]
        top = next((d for d, peg in enumerate(self.pegs) if peg == source), None)
        above = next((d for d, peg in enumerate(self.pegs) if peg == target), 9)
        if top is not None and top < above:
            self.pegs[top] = target
        return float(self.pegs == [2, 2, 2]), self.pegs == [2, 2, 2]


class Reels(Small):
    """A non-stationary bandit that goes on: what is observed is the last pay."""

    action_space = Discrete(4)
    limit = 200

    def begin(self, rng):
        self.means, self.last = rng.normal(size=4), 0.0

    def see(self):
        return np.array([self.last], np.float32)

    def move(self, action):
        self.means += 0.05 * self.np_random.normal(size=4)
        self.last = float(self.means[action] + 0.1 * self.np_random.normal())
        return self.last, False


class Auction(Small):
    """Twelve rounds with a budget, whose round is observed as one of twelve; the last one ends it."""

    observation_space = numbers(14)
    action_space = Box(0.0, 1.0, (), np.float32)

    def begin(self, rng):
        self.budget, self.value = 3.0, float(rng.uniform())

    def see(self):
        return np.array([*np.eye(12)[min(self.t, 11)], self.budget, self.value], np.float32)

    def move(self, action):
        bid, other = min(float(action), self.budget), float(self.np_random.uniform())
        won, value = bid > other, self.value
        self.budget -= other * won
        self.value = float(self.np_random.uniform())
        return (value - other) * won, self.t == 12


class Snake(Small):
    """A body that grows, on a board of numbers; ended by the wall, mostly after few steps."""

    observation_space = Box(-1, 1, (6, 6), np.float32)
    action_space = Discrete(4)
    limit = 100

    def begin(self, rng):
        self.body, self.food = [(3, 3)], tuple(int(i) for i in rng.integers(0, 6, 2))

    def see(self):
        board = np.zeros((6, 6), np.float32)
        for cell in self.body:
            board[cell] = 1
        board[self.food] = -1
        return board

    def move(self, action):
        row, column = self.body[0]
        head = (row + (0, 1, 0, -1)[action], column + (1, 0, -1, 0)[action])
        if not (0 <= head[0] < 6 and 0 <= head[1] < 6) or head in self.body:
            return -1.0, True
        self.body.insert(0, head)
        if head != self.food:
            self.body.pop()
            return 0.0, False
        self.food = tuple(int(i) for i in self.np_random.integers(0, 6, 2))
        return 1.0, False


class Diffusion(Small):
    """A rod of 64 points that is heated at one end; a microsecond changes it by a millionth."""

    observation_space = numbers(64, np.float64)
    action_space = Box(0.0, 5.0, (1,), np.float64)
    limit = 150

    def begin(self, rng):
        self.rod = 300 + 1e-3 * rng.normal(size=64)

    def see(self):
        return self.rod.copy()

    def move(self, action):
        self.rod[0] += 1e-4 * float(action[0])
        self.rod[1:-1] += 0.2 * (self.rod[2:] - 2 * self.rod[1:-1] + self.rod[:-2])
        return -1e3 * abs(float(self.rod.mean()) - 300.001), False


class Gait(Small):
    """Twelve joints without bounds, of size 1; falls when they are thrown about."""

    observation_space = numbers(24)
    action_space = Box(*EVERYWHERE, (12,), np.float32)
    limit = 200

    def begin(self, rng):
        self.q, self.v = 0.1 * rng.normal(size=12), np.zeros(12)

    def see(self):
        return np.concatenate((self.q, self.v)).astype(np.float32)

    def move(self, action):
        torque = np.tanh(action)
        self.v = 0.9 * self.v + 0.1 * torque - 0.05 * self.q
        self.q = self.q + 0.1 * self.v
        return float(self.v[0] - 0.01 * torque @ torque), np.abs(self.q).max() > 2


class Weeks(Small):
    """A forest that is cut or left, over 60 years; fires; long waits until a tree is worth something."""

    observation_space = Box(0, 1e4, (2,), np.int32)
    action_space = Discrete(2)
    limit = 60

    def begin(self, rng):
        self.age = int(rng.integers(0, 10))

    def see(self):
        return np.array([self.age, self.t], np.int32)

    def move(self, action):
        if action == 1:
            worth, self.age = max(0, self.age - 15), 0
            return float(worth), False
        self.age = 0 if self.np_random.random() < 0.02 else self.age + 1
        return 0.0, False


class Cable(Task):
    """On the batch engine: noise of the sensor from the seeds that are drawn, as a field of the model."""

    model, frame_skip, time_limit = BEAM, 2, 80
    derived, varied = ("xpos",), ("body_gravcomp",)

    def draw(self, rng, qpos, qvel):
        return rng.uniform(-0.05, 0.05, 2), 0.1 * rng.normal(size=2)

    def vary(self, rng, values):
        values["body_gravcomp"][:] = rng.uniform(-0.1, 0.1)

    def observe(self, batch):
        return np.stack((batch.xpos[:, 2, 0], batch.qvel[:, 1], batch.qpos[:, 0]), axis=1)

    def remember(self, batch):
        return batch.qpos[:, 1].copy()

    def outcome(self, batch, before, action):
        return -np.abs(batch.qpos[:, 1] - before) - np.abs(action[:, 0]), np.abs(batch.qpos[:, 1]) > 0.4


register("Cable-v0", Cable)

FIRST = (
    *("Cart", "Swing", "Regulator", "Boiler", "DeadTime", "Ship", "Voyage", "Valves", "Mixed"),
    *("Maze", "Lake", "Catch", "Noughts", "Cards", "Door", "Hill"),
    *("Arms", "Tour", "Jobs", "Shelf", "Desk", "Battery", "Crossing", "Queue", "Epidemic", "Reactor", "Crop"),
    *("Stamped", "Serial", "Talks", "Belief", "Spectrum", "Tiles", "Gauge"),
    *("Stacked-v0", "Beam-v0", "BeamDerived-v0"),
)
HELD_OUT = (
    *("Elevator", "Turbine", "Nim", "Portfolio", "Dosing", "Hanoi", "Reels", "Auction", "Snake"),
    *("Diffusion", "Gait", "Weeks", "Cable-v0"),
)
