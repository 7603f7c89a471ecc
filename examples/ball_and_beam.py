"""Your own robot: keep a ball in the middle of a beam that a servo tilts.

In this folder: poise train ball_and_beam:BallAndBeam-v0
"""

from pathlib import Path

import numpy as np

from poise import Task, register

BALL = 2  # the bodies are the world, the beam, the ball


class BallAndBeam(Task):
    """Observation: tilt (rad), place of the ball (m), and their velocities. Action: the tilt wanted (rad)."""

    model = str(Path(__file__).with_name("ball_and_beam.xml"))
    frame_skip = 4  # physics steps of 5 ms in one step of 20 ms
    time_limit = 250
    varied = ("body_mass",)  # each episode has a ball of its own

    def draw(self, rng, qpos, qvel):
        return np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.4, 0.4)]), qvel

    def vary(self, rng, values):
        values["body_mass"][BALL] *= rng.uniform(0.5, 2.0)

    def observe(self, batch):
        return np.concatenate((batch.qpos, batch.qvel), axis=1)

    def outcome(self, batch, before, action):
        distance = np.abs(batch.qpos[:, 1])
        fallen = distance > 0.5
        return np.where(fallen, 0.0, 1 - 2 * distance), fallen


register("BallAndBeam-v0", BallAndBeam)
