"""Balance one pole on a cart, or two on top of each other."""

from typing import ClassVar

import numpy as np

from poise.envs.mujoco import Task
from poise.envs.tasks.assets import gymnasium_model


class InvertedPendulumV4(Task):
    """Gymnasium's InvertedPendulum-v4: +1 for each step that the pole stays within 0.2 rad.

    Observation: cart position (m), pole angle (rad), velocities.
    """

    model = gymnasium_model("inverted_pendulum.xml")
    frame_skip = 2
    time_limit = 1000

    def draw(self, rng, qpos, qvel):
        return (
            qpos + rng.uniform(low=-0.01, high=0.01, size=qpos.size),
            qvel + rng.uniform(low=-0.01, high=0.01, size=qvel.size),
        )

    def observe(self, batch):
        return np.concatenate((batch.qpos, batch.qvel), axis=1)

    def outcome(self, batch, before, action):
        terminated = self._fallen(batch)
        return np.ones(len(terminated)), terminated

    def _fallen(self, batch):
        finite = np.logical_and.reduce(np.isfinite(self.observe(batch)), axis=1)
        return ~(finite & (np.abs(batch.qpos[:, 1]) <= 0.2))


class InvertedPendulumV5(InvertedPendulumV4):
    """Gymnasium's InvertedPendulum-v5: no reward for the step that ends the episode."""

    def outcome(self, batch, before, action):
        terminated = self._fallen(batch)
        return (~terminated).astype(float), terminated


class InvertedDoublePendulumV4(Task):
    """Gymnasium's InvertedDoublePendulum-v4: +10 a step, minus penalties for a low, off-center or fast tip.

    Observation: cart position (m), sin and cos of both angles, velocities and constraint
    forces, both within 10.
    """

    model = gymnasium_model("inverted_double_pendulum.xml")
    frame_skip = 5
    time_limit = 1000
    derived = ("site_xpos", "qfrc_constraint")
    num_forces: ClassVar[int] = 3  # number of observed constraint forces
    bonus_for_last: ClassVar[bool] = True  # also for the step that ends the episode

    def draw(self, rng, qpos, qvel):
        return (
            qpos + rng.uniform(low=-0.1, high=0.1, size=qpos.size),
            qvel + rng.standard_normal(qvel.size) * 0.1,
        )

    def observe(self, batch):
        angle = batch.qpos[:, 1:]
        velocity, force = (np.clip(v, -10, 10) for v in (batch.qvel, batch.qfrc_constraint))
        return np.concatenate(
            (batch.qpos[:, :1], np.sin(angle), np.cos(angle), velocity, force[:, : self.num_forces]), axis=1
        )

    def outcome(self, batch, before, action):
        x, _, y = batch.site_xpos[:, 0].T
        _, v1, v2 = batch.qvel.T
        terminated = y <= 1
        bonus = 10.0 if self.bonus_for_last else 10.0 * ~terminated
        far, fast = 0.01 * x**2 + (y - 2) ** 2, 1e-3 * v1**2 + 5e-3 * v2**2
        return bonus - far - fast, terminated, {"distance_penalty": -far, "velocity_penalty": -fast}


class InvertedDoublePendulumV5(InvertedDoublePendulumV4):
    """Gymnasium's InvertedDoublePendulum-v5: one constraint force, no reward for the last step."""

    num_forces = 1
    bonus_for_last = False
