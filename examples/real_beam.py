"""The ball and beam as a robot has them: delays, noise, and parts that are never quite as in the model.

In this folder: poise train real_beam:RealBeam-v0 --history 4
"""

from pathlib import Path

import mujoco
import numpy as np

from poise import Task, register

XML = str(Path(__file__).with_name("real_beam.xml"))  # the servo and the sensors have delays
MODEL = mujoco.MjModel.from_xml_path(XML)
BALL, ROLL, SERVO = MODEL.body("ball").id, MODEL.joint("roll").id, MODEL.actuator("servo").id


class RealBeam(Task):
    """Observation: tilt (rad) and place of the ball (m), as they are measured; the last action (rad)."""

    model = XML
    frame_skip = 4  # 20 ms
    time_limit = 250
    derived = ("sensordata",)
    varied = ("body_mass", "dof_damping", "actuator_gainprm", "actuator_biasprm")

    def draw(self, rng, qpos, qvel):
        return np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.4, 0.4)]), qvel

    def vary(self, rng, values):
        values["body_mass"][BALL] *= rng.uniform(0.5, 2.0)
        values["dof_damping"][ROLL] *= rng.uniform(0.5, 2.0)
        gain = rng.uniform(0.8, 1.2)  # of a position servo: gainprm is kp, biasprm is 0, -kp, -kv
        values["actuator_gainprm"][SERVO, 0] *= gain
        values["actuator_biasprm"][SERVO, 1] *= gain

    def observe(self, batch, noise):
        measured = batch.sensordata + noise.normal(scale=[0.002, 0.005], size=2)
        return np.concatenate((measured, batch.ctrl), axis=1)

    def outcome(self, batch, before, action):
        distance = np.abs(batch.qpos[:, 1])
        fallen = distance > 0.5
        return np.where(fallen, 0.0, 1 - 2 * distance), fallen


register("RealBeam-v0", RealBeam)
