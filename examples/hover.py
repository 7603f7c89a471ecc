"""A drone that holds its place in gusts of wind, written in JAX: ``poise train hover:Hover``."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box
from jax import Array

import poise

DT, THRUST, DRAG = 0.05, 4.0, 0.5  # s; acceleration at full thrust, m/s^2; 1/s


class State(NamedTuple):
    place: Array  # m, from where it should be
    speed: Array  # m/s
    wind: Array  # m/s^2; not observed


class Hover(poise.JaxEnv):
    observation_space = Box(-np.inf, np.inf, (4,))
    action_space = Box(-1, 1, (2,))  # share of the full thrust, to the right and up
    time_limit = 200
    fps = 1 / DT

    def reset(self, *, key):
        return State(jax.random.uniform(key, (2,), minval=-1, maxval=1), jnp.zeros(2), jnp.zeros(2))

    def observe(self, state):
        return jnp.concatenate([state.place, state.speed])

    def step(self, state, action, *, key):
        wind = 0.95 * state.wind + 0.3 * jax.random.normal(key, (2,))
        speed = state.speed + DT * (THRUST * action + wind - DRAG * state.speed)
        place = state.place + DT * speed
        distance = jnp.linalg.norm(place)
        return State(place, speed, wind), 1 - distance, distance > 3

    def draw(self, state, action):
        from PIL import Image, ImageDraw

        image = Image.new("RGB", (480, 480), "#f7f7f5")
        draw = ImageDraw.Draw(image)
        x, y = 240 + 75 * state.place[0], 240 - 75 * state.place[1]
        draw.line([(220, 240), (260, 240)], fill="#999999", width=2)
        draw.line([(240, 220), (240, 260)], fill="#999999", width=2)
        if action is not None:
            draw.line([(x, y), (x - 120 * action[0], y + 120 * action[1])], fill="#c2571a", width=6)
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), fill="#14507a")
        return np.asarray(image)
