"""Run forward: speed (m/s), a bonus for staying upright if the body can fall, minus effort."""

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from poise.envs.mujoco import Task
from poise.envs.tasks.assets import gymnasium_model


class _Runner(Task):
    """The common part of the runners. Observation: positions without the first, and velocities."""

    time_limit = 1000
    noise: ClassVar[float]  # half the range of the noise at the start
    control_cost: ClassVar[float]

    def draw(self, rng, qpos, qvel):
        return (
            qpos + rng.uniform(low=-self.noise, high=self.noise, size=qpos.size),
            qvel + rng.uniform(low=-self.noise, high=self.noise, size=qvel.size),
        )

    def observe(self, batch):
        return np.concatenate((batch.qpos[:, 1:], np.clip(batch.qvel, -10, 10)), axis=1)

    def remember(self, batch):
        return self._place(batch).copy()

    def outcome(self, batch, before, action):
        speed, effort = self._run_reward(batch, before), self._effort(action)
        return speed - effort, np.zeros(len(action), bool), {"reward_forward": speed, "reward_ctrl": -effort}

    def _place(self, batch):
        """Distance from the origin (m)."""
        return batch.qpos[:, 0]

    def _run_reward(self, batch, before):
        return (self._place(batch) - before) / (batch.model.opt.timestep * self.frame_skip)

    def _effort(self, action):
        return self.control_cost * np.square(action).sum(axis=1)


class _Faller(_Runner):
    """A runner whose episode ends when it falls."""

    noise = 5e-3
    control_cost = 1e-3
    bonus_for_last: ClassVar[bool] = True  # -v4 pays the bonus also for the step that ends the episode

    @abstractmethod
    def _healthy(self, batch) -> np.ndarray: ...

    def outcome(self, batch, before, action):
        healthy = self._healthy(batch)
        bonus = np.ones(len(action)) if self.bonus_for_last else healthy.astype(float)
        speed, effort = self._run_reward(batch, before), self._effort(action)
        terms = {"reward_forward": speed, "reward_ctrl": -effort, "reward_survive": bonus}
        return speed + bonus - effort, ~healthy, terms


class _Kicked(_Runner):
    """A runner that starts with normally distributed velocities."""

    def draw(self, rng, qpos, qvel):
        return (
            qpos + rng.uniform(low=-self.noise, high=self.noise, size=qpos.size),
            qvel + self.noise * rng.standard_normal(qvel.size),
        )


class HalfCheetah(_Kicked):
    """Gymnasium's HalfCheetah-v4 and -v5, which are alike."""

    model = gymnasium_model("half_cheetah.xml")
    frame_skip = 5
    noise = 0.1
    control_cost = 0.1

    def observe(self, batch):
        return np.concatenate((batch.qpos[:, 1:], batch.qvel), axis=1)


class HopperV4(_Faller):
    """Gymnasium's Hopper-v4: higher than 0.7 m, within 0.2 rad, all else within 100."""

    model = gymnasium_model("hopper.xml")
    frame_skip = 4

    def _healthy(self, batch):
        height, angle = batch.qpos[:, 1], batch.qpos[:, 2]
        bounded = (np.abs(batch.qpos[:, 2:]) < 100).all(axis=1) & (np.abs(batch.qvel) < 100).all(axis=1)
        return bounded & (height > 0.7) & (height < np.inf) & (np.abs(angle) < 0.2)


class HopperV5(HopperV4):
    """Gymnasium's Hopper-v5: no bonus for the step that ends the episode."""

    bonus_for_last = False


class Walker2dV4(_Faller):
    """Gymnasium's Walker2d-v4: between 0.8 and 2 m high, within 1 rad."""

    model = gymnasium_model("walker2d.xml")
    frame_skip = 4

    def _healthy(self, batch):
        height, angle = batch.qpos[:, 1], batch.qpos[:, 2]
        return (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)


class Walker2dV5(Walker2dV4):
    """Gymnasium's Walker2d-v5: both feet have the same friction, no bonus for the last step."""

    model = gymnasium_model("walker2d_v5.xml")
    bonus_for_last = False


class Swimmer(_Runner):
    """Gymnasium's Swimmer-v4 and -v5, which are alike. Its position in the plane is not observed."""

    model = gymnasium_model("swimmer.xml")
    frame_skip = 4
    noise = 0.1
    control_cost = 1e-4

    def observe(self, batch):
        return np.concatenate((batch.qpos[:, 2:], batch.qvel), axis=1)


class AntV4(_Kicked):
    """Gymnasium's Ant-v4: the torso between 0.2 and 1 m high."""

    model = gymnasium_model("ant.xml")
    frame_skip = 5
    noise = 0.1
    control_cost = 0.5
    derived = ("xpos",)
    torso: ClassVar[int] = 1

    def observe(self, batch):
        return np.concatenate((batch.qpos[:, 2:], batch.qvel), axis=1)

    def outcome(self, batch, before, action):
        healthy = self._healthy(batch)
        speed, bonus, costs = (
            self._run_reward(batch, before),
            self._bonus(healthy),
            self._costs(batch, action),
        )
        terms = {"reward_forward": speed, "reward_survive": bonus}
        terms |= {f"reward_{name}": -cost for name, cost in costs.items()}
        return speed + bonus - sum(costs.values()), ~healthy, terms

    def _place(self, batch):
        return batch.xpos[:, self.torso, 0]

    def _healthy(self, batch):
        finite = np.isfinite(batch.qpos).all(axis=1) & np.isfinite(batch.qvel).all(axis=1)
        height = batch.qpos[:, 2]
        return finite & (height >= 0.2) & (height <= 1.0)

    def _bonus(self, healthy):
        return np.ones(len(healthy))

    def _costs(self, batch, action):
        return {"ctrl": self._effort(action)}


class AntV5(AntV4):
    """Gymnasium's Ant-v5: external forces, clipped to 1, are observed and cost; no bonus at the end."""

    derived = ("xpos", "cfrc_ext")

    def observe(self, batch):
        forces = self._forces(batch)[:, 1:].reshape(len(batch.qpos), -1)
        return np.concatenate((super().observe(batch), forces), axis=1)

    def _bonus(self, healthy):
        return healthy.astype(float)

    def _costs(self, batch, action):
        contact = 5e-4 * np.square(self._forces(batch)).sum(axis=(1, 2))
        return {**super()._costs(batch, action), "contact": contact}

    def _forces(self, batch):
        return np.clip(batch.cfrc_ext, -1.0, 1.0)
