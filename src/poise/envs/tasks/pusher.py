"""Push a cylinder to a goal with a seven-jointed arm: minus two distances (m), minus squared torque."""

import numpy as np

from poise.envs.mujoco import Task
from poise.envs.tasks.assets import gymnasium_model


class PusherV5(Task):
    """Gymnasium's Pusher-v5. (Its -v4 needs an older MuJoCo.)

    Observation: seven angles (rad) and their velocities, then tip, object and goal (m).
    """

    model = gymnasium_model("pusher_v5.xml")
    frame_skip = 5
    time_limit = 100
    derived = ("xpos",)

    def draw(self, rng, qpos, qvel):
        while True:
            cylinder = np.array([rng.uniform(low=-0.3, high=0), rng.uniform(low=-0.2, high=0.2)])
            if np.linalg.norm(cylinder) > 0.17:
                break
        qpos = np.concatenate((qpos[:-4], cylinder, np.zeros(2)))
        qvel = qvel + rng.uniform(low=-0.005, high=0.005, size=qvel.size)
        qvel[-4:] = 0
        return qpos, qvel

    def observe(self, batch):
        return np.concatenate((batch.qpos[:, :7], batch.qvel[:, :7], *self._places(batch)), axis=1)

    def outcome(self, batch, before, action):
        tip, thing, goal = self._places(batch)
        near, far = (np.linalg.norm(thing - place, axis=1) for place in (tip, goal))
        effort = 0.1 * np.square(action).sum(axis=1)
        terms = {"reward_dist": -far, "reward_ctrl": -effort, "reward_near": -0.5 * near}
        return -far - effort - 0.5 * near, np.zeros(len(action), bool), terms

    def _places(self, batch):
        return (batch.xpos[:, batch.model.body(name).id] for name in ("tips_arm", "object", "goal"))
