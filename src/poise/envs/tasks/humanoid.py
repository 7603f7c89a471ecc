"""A body with 17 motors: run forward, or stand up."""

from typing import ClassVar

import numpy as np

from poise.envs.mujoco import Task
from poise.envs.tasks.assets import gymnasium_model


class _Body(Task):
    """The common part of Humanoid and HumanoidStandup.

    Observation: positions without the first two, velocities; inertia and velocity of the center of mass of
    each body; forces of the motors; external force on each body.
    """

    frame_skip = 5
    time_limit = 1000
    derived = ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")
    first_body: ClassVar[int] = 0  # the first observed body; 0 is the world
    first_motor: ClassVar[int] = 0  # the first degree of freedom whose force is observed

    def draw(self, rng, qpos, qvel):
        return (
            qpos + rng.uniform(low=-0.01, high=0.01, size=qpos.size),
            qvel + rng.uniform(low=-0.01, high=0.01, size=qvel.size),
        )

    def observe(self, batch):
        def bodies(field):
            return field[:, self.first_body :].reshape(len(field), -1)

        return np.concatenate(
            (
                batch.qpos[:, 2:],
                batch.qvel,
                bodies(batch.cinert),
                bodies(batch.cvel),
                batch.qfrc_actuator[:, self.first_motor :],
                bodies(batch.cfrc_ext),
            ),
            axis=1,
        )

    def _effort(self, batch):
        return 0.1 * np.square(batch.ctrl).sum(axis=1)

    def _impact(self, batch, weight):
        return np.minimum(weight * np.square(batch.cfrc_ext).sum(axis=(1, 2)), 10.0)


class HumanoidV4(_Body):
    """Gymnasium's Humanoid-v4: 1.25 times the speed (m/s), +5 while upright, minus effort."""

    model = gymnasium_model("humanoid.xml")
    bonus_for_last: ClassVar[bool] = True
    impact_cost: ClassVar[float] = 0.0

    def remember(self, batch):
        return self._center(batch)

    def outcome(self, batch, before, action):
        speed = (self._center(batch) - before) / (batch.model.opt.timestep * self.frame_skip)
        height = batch.qpos[:, 2]
        healthy = (height > 1.0) & (height < 2.0)
        bonus = 5.0 * np.ones(len(healthy)) if self.bonus_for_last else 5.0 * healthy
        effort, impact, forward = self._effort(batch), self._impact(batch, self.impact_cost), 1.25 * speed
        terms = {"reward_survive": bonus, "reward_forward": forward, "reward_ctrl": -effort}
        terms |= {"reward_contact": -impact} if self.impact_cost else {}
        return forward + bonus - (effort + impact), ~healthy, terms

    def _center(self, batch):
        """The first coordinate of the center of mass."""
        mass = batch.model.body_mass
        return np.einsum("b,nb->n", mass, batch.xipos[:, :, 0]) / mass.sum()


class HumanoidV5(HumanoidV4):
    """Gymnasium's Humanoid-v5: external forces cost, the world is not observed, no bonus at the end."""

    bonus_for_last = False
    impact_cost = 5e-7
    first_body = 1
    first_motor = 6


class HumanoidStandupV4(_Body):
    """Gymnasium's HumanoidStandup-v4: height (m) over the time step (s), minus effort and impact."""

    model = gymnasium_model("humanoidstandup.xml")

    def outcome(self, batch, before, action):
        height = batch.qpos[:, 2] / batch.model.opt.timestep
        effort, impact = self._effort(batch), self._impact(batch, 0.5e-6)
        terms = {"reward_linup": height, "reward_quadctrl": -effort, "reward_impact": -impact}
        return height - effort - impact + 1, np.zeros(len(action), bool), terms


class HumanoidStandupV5(HumanoidStandupV4):
    """Gymnasium's HumanoidStandup-v5: the world and degrees of freedom without a motor are not observed."""

    first_body = 1
    first_motor = 6
