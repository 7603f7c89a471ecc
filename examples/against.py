"""One player of a PettingZoo game as an environment; the other one plays at random.

In this folder: poise train against:TicTacToe
"""

import gymnasium as gym
import numpy as np
from pettingzoo.classic import tictactoe_v3


class TicTacToe(gym.Env):
    """Observes the board and the mask of the free cells. The reward is 1 for a win and -1 for a loss."""

    def __init__(self, me: str = "player_1"):
        self.game, self.me = tictactoe_v3.env(), me
        self.observation_space = self.game.observation_space(me)
        self.action_space = self.game.action_space(me)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game.reset(seed=seed)
        self._play_others()
        return self._obs(), {}

    def step(self, action):
        self.game.step(action)
        self._play_others()
        over = self.game.terminations[self.me]
        return self._obs(), float(self.game.rewards[self.me]), over, False, {}

    def _obs(self):
        obs = dict(self.game.observe(self.me))
        if self.game.terminations[
            self.me
        ]:  # the game is over: no move follows, and a mask allows at least one
            obs["action_mask"] = np.ones_like(obs["action_mask"])
        return obs

    def _play_others(self):
        """The moves of the others, up to the next one of this player or to the end."""
        while self.game.agent_selection != self.me and not any(self.game.terminations.values()):
            mask = self.game.observe(self.game.agent_selection)["action_mask"]
            self.game.step(int(self.np_random.choice(mask.nonzero()[0])))
