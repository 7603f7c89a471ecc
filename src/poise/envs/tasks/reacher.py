"""Bring the tip of a two-link arm to a target: minus distance (m), minus squared torque."""

from typing import Any

import numpy as np

from poise.envs.mujoco import Task
from poise.envs.tasks.assets import gymnasium_model

_FINGERTIP, _TARGET = 3, 4  # body ids in reacher.xml; body 0 is the world


class ReacherV4(Task):
    """Gymnasium's Reacher-v4: the distance in the reward is the one before the step.

    Observation: cos and sin of both angles, target position (m), joint velocities (rad/s), tip minus target.
    """

    model = gymnasium_model("reacher.xml")
    frame_skip = 2
    time_limit = 50
    derived = ("xpos",)

    def draw(self, rng, qpos, qvel):
        qpos = rng.uniform(low=-0.1, high=0.1, size=qpos.size) + qpos
        while True:
            goal = rng.uniform(low=-0.2, high=0.2, size=2)
            if np.linalg.norm(goal) < 0.2:
                break
        qpos[-2:] = goal
        qvel = qvel + rng.uniform(low=-0.005, high=0.005, size=qvel.size)
        qvel[-2:] = 0
        return qpos, qvel

    def observe(self, batch):
        angle = batch.qpos[:, :2]
        return np.concatenate(
            (np.cos(angle), np.sin(angle), batch.qpos[:, 2:], batch.qvel[:, :2], self._gap(batch)), axis=1
        )

    def remember(self, batch) -> Any:
        return self._gap(batch)

    def outcome(self, batch, before, action):
        return self._outcome(before, action)

    def _gap(self, batch):
        return batch.xpos[:, _FINGERTIP] - batch.xpos[:, _TARGET]

    def _outcome(self, gap, action):
        near, effort = -np.sqrt(np.add.reduce(gap * gap, axis=1)), np.add.reduce(action * action, axis=1)
        return near - effort, np.zeros(len(action), bool), {"reward_dist": near, "reward_ctrl": -effort}


class ReacherV5(ReacherV4):
    """Gymnasium's Reacher-v5: the distance after the step, and no constant height in the observation."""

    def observe(self, batch):
        return super().observe(batch)[:, :-1]

    def remember(self, batch) -> Any:
        return None

    def outcome(self, batch, before, action):
        return self._outcome(self._gap(batch), action)
