"""Gymnasium's MuJoCo tasks on the batch engine, each tested against Gymnasium's own."""

from poise.envs.mujoco import Task
from poise.envs.tasks.inverted_pendulum import InvertedPendulumV4, InvertedPendulumV5
from poise.envs.tasks.locomotion import HalfCheetah, HopperV4, HopperV5, Walker2dV4, Walker2dV5
from poise.envs.tasks.reacher import ReacherV4, ReacherV5

TASKS: dict[str, type[Task]] = {
    "InvertedPendulum-v4": InvertedPendulumV4,
    "InvertedPendulum-v5": InvertedPendulumV5,
    "Reacher-v4": ReacherV4,
    "Reacher-v5": ReacherV5,
    "HalfCheetah-v4": HalfCheetah,
    "HalfCheetah-v5": HalfCheetah,
    "Hopper-v4": HopperV4,
    "Hopper-v5": HopperV5,
    "Walker2d-v4": Walker2dV4,
    "Walker2d-v5": Walker2dV5,
}
