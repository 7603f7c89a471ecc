"""Pendulum in JAX, as Gymnasium's Pendulum-v1 and as the Pendulum-v0 of OpenAI Gym, and its picture."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from poise.envs.native.jax_env import JaxEnv

_LIMITS = np.array([1, 1, 8], np.float32)  # of cos, sin and speed


class PendulumState(NamedTuple):
    angle: Float[Array, ""]  # rad, 0 is upright
    speed: Float[Array, ""]  # rad/s


class Pendulum(JaxEnv):
    """Swing a pole up with too weak a motor. Reward: -(angle^2 + 0.1 speed^2 + 0.001 torque^2).

    v1 limits the speed before the angle is integrated with it, v0 after: they differ only in a
    step whose speed would exceed 8 rad/s.
    """

    observation_space = Box(-_LIMITS, _LIMITS)
    action_space = Box(-2.0, 2.0, (1,))
    time_limit = 200
    fps = 20.0  # its time step is 0.05 s

    def __init__(self, version: int = 1):
        self.version = version

    def reset(self, *, key: PRNGKeyArray) -> PendulumState:
        angle, speed = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return PendulumState(angle * jnp.pi, speed)

    def observe(self, state: PendulumState) -> Float[Array, "3"]:
        return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])

    def step(
        self, state: PendulumState, action: Float[Array, "1"], *, key: PRNGKeyArray
    ) -> tuple[PendulumState, Float[Array, ""], Bool[Array, ""]]:
        gravity, mass, length, dt, max_speed = 10.0, 1.0, 1.0, 0.05, 8.0
        torque = jnp.clip(action[0], -2.0, 2.0)
        angle = (state.angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * state.speed**2 + 0.001 * torque**2
        push = 3 * gravity / (2 * length) * jnp.sin(state.angle) + 3.0 / (mass * length**2) * torque
        unlimited = state.speed + push * dt
        speed = jnp.clip(unlimited, -max_speed, max_speed)
        moved = state.angle + (speed if self.version >= 1 else unlimited) * dt
        return PendulumState(moved, speed), -cost, jnp.array(False)

    def draw(self, state: PendulumState, action: Any | None) -> UInt8[np.ndarray, "height width 3"]:
        cos, sin = math.cos(state.angle), math.sin(state.angle)
        return draw_pendulum(np.array([cos, sin, state.speed]), 0.0 if action is None else float(action[0]))


SIZE = 480  # width and height in pixels
_OVERSAMPLING = 3  # drawn so many times larger, then reduced: smooth edges


def draw_pendulum(obs: Float[np.ndarray, "3"], torque: float) -> UInt8[np.ndarray, "height width 3"]:
    """The pole, its hinge, and an arc that shows the torque (counterclockwise is positive).

    Drawn with Pillow; Gymnasium draws with pygame.
    """
    from PIL import Image, ImageDraw

    scale = SIZE * _OVERSAMPLING
    image = Image.new("RGB", (scale, scale), "#f7f7f5")
    draw = ImageDraw.Draw(image)
    center, length, width = scale / 2, 0.36 * scale, 0.07 * scale
    cos, sin = float(obs[0]), float(obs[1])  # 0 is upright, positive angles lean left

    def dot(x: float, y: float, radius: float, color: str) -> None:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

    tip = center - length * sin, center - length * cos
    dot(center, center, 1.12 * length + width, "#ecece8")
    draw.line((center, center, *tip), fill="#c2571a", width=round(width))
    dot(center, center, width / 2, "#c2571a")
    dot(*tip, width / 2, "#c2571a")
    dot(center, center, width / 5, "#333333")

    share = max(-1.0, min(1.0, torque / 2))
    if abs(share) > 0.02:
        radius, sweep = 0.16 * scale, 150 * abs(share)
        box = (center - radius, center - radius, center + radius, center + radius)
        begin, end = (270 - sweep, 270) if share > 0 else (270, 270 + sweep)  # Pillow's degrees, clockwise
        draw.arc(box, begin, end, fill="#14507a", width=round(width / 4))
        tip_angle = math.radians(begin if share > 0 else end)
        x, y = center + radius * math.cos(tip_angle), center + radius * math.sin(tip_angle)
        ahead = tip_angle - math.copysign(math.pi / 2, share)
        corners = [
            (x + width / 2 * math.cos(ahead + turn), y + width / 2 * math.sin(ahead + turn))
            for turn in (0, 2.3, -2.3)
        ]
        draw.polygon(corners, fill="#14507a")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
