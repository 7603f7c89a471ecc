"""Balance a pole on a cart: +1 for each step that the pole stays within 0.2 rad."""

import numpy as np

from poise.envs.mujoco import Task
from poise.envs.tasks.assets import gymnasium_model


class InvertedPendulumV4(Task):
    """Gymnasium's InvertedPendulum-v4. Observation: cart position (m), pole angle (rad), velocities."""

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
        finite = np.isfinite(batch.qpos).all(axis=1) & np.isfinite(batch.qvel).all(axis=1)
        return ~finite | (np.abs(batch.qpos[:, 1]) > 0.2)


class InvertedPendulumV5(InvertedPendulumV4):
    """Gymnasium's InvertedPendulum-v5: no reward for the step that ends the episode."""

    def outcome(self, batch, before, action):
        terminated = self._fallen(batch)
        return (~terminated).astype(float), terminated
