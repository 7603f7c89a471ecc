"""The five games of MinAtar (Young and Tian 2019, arXiv:1903.03176): ``minatar_games:Breakout-v1``.

In this folder: poise train minatar_games:Breakout-v1. The package comes with the extra minatar. An
observation has 10 x 10 cells, with a zero or one for each kind of object.
"""

import gymnasium as gym
import numpy as np
from minatar.gym import BaseEnv

LIMIT = 5000  # steps; without it a game of Breakout may go on forever
CELL = 24  # pixels of a cell in a film


class Game(BaseEnv):
    """MinAtar's own environment; but an episode depends on its seed alone, and pictures are large."""

    metadata = BaseEnv.metadata | {"render_fps": 15}

    def reset(self, *, seed=None, options=None):
        self.game.last_action = 0  # otherwise the first action may be the last one of the episode before
        return super().reset(seed=seed, options=options)

    def render(self):
        picture = (255 * super().render()).astype(np.uint8)
        return picture.repeat(CELL, axis=0).repeat(CELL, axis=1)


for name in ("asterix", "breakout", "freeway", "seaquest", "space_invaders"):
    gym.register(
        f"{name.title().replace('_', '')}-v1",
        Game,
        kwargs={"game": name, "use_minimal_action_set": True},
        max_episode_steps=LIMIT,
    )
