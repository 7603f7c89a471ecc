"""Tasks whose observation hides the velocity, which has to be inferred from earlier observations.

``partial:CartPoleNoVelocity-v1``, ``partial:PendulumNoVelocity-v1`` and
``partial:MountainCarContinuousNoVelocity-v0``.
"""

import gymnasium as gym
from gymnasium.wrappers import TransformObservation


def without(id: str, hidden: tuple[int, ...]) -> gym.Env:
    """The environment without some entries of its observation."""
    env = gym.make(id)
    space = env.observation_space
    shown = [i for i in range(space.shape[0]) if i not in hidden]
    return TransformObservation(
        env, lambda obs: obs[shown], gym.spaces.Box(space.low[shown], space.high[shown], dtype=space.dtype)
    )


for name, id, hidden, limit in (
    ("CartPoleNoVelocity-v1", "CartPole-v1", (1, 3), 500),
    ("PendulumNoVelocity-v1", "Pendulum-v1", (2,), 200),
    ("MountainCarContinuousNoVelocity-v0", "MountainCarContinuous-v0", (1,), 999),
):
    gym.register(name, lambda id=id, hidden=hidden: without(id, hidden), max_episode_steps=limit)
