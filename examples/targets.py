"""A curriculum and a fine-tuning: Gymnasium's Reacher with targets in a ring, whose radii are settings.

In this folder: poise train Reacher-v5, then poise train targets:Far-v0 --from RUN
"""

import numpy as np

from poise import register
from poise.envs.tasks.reacher import ReacherV5


class Ring(ReacherV5):
    """Reacher-v5 with targets ``inner`` to ``outer`` meters from the center, in all directions."""

    inner, outer = 0.0, 0.1

    def draw(self, rng, qpos, qvel):
        qpos, qvel = super().draw(rng, qpos, qvel)
        radius = np.sqrt(rng.uniform(self.inner**2, self.outer**2))  # the same number on each area
        angle = rng.uniform(-np.pi, np.pi)
        qpos[-2:] = radius * np.cos(angle), radius * np.sin(angle)
        return qpos, qvel


class Far(Ring):
    inner, outer = 0.1, 0.2


def widen(state):
    """The targets move outward during the first half of the training."""
    return {"outer": 0.1 + 0.1 * min(1.0, 2 * state.share)}


register("Near-v0", Ring)
register("Far-v0", Far)
