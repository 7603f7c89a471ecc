"""Pendulum in JAX, as Gymnasium's Pendulum-v1 and as the Pendulum-v0 of OpenAI Gym."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from poise.envs.native import NativeTask
from poise.spec import Spec


class PendulumState(NamedTuple):
    angle: Float[Array, ""]  # rad, 0 is upright
    speed: Float[Array, ""]  # rad/s


class Pendulum(NativeTask):
    """Swing a pole up with too weak a motor. Reward: -(angle^2 + 0.1 speed^2 + 0.001 torque^2).

    v1 limits the speed before the angle is integrated with it, v0 after: they differ only in a
    step whose speed would exceed 8 rad/s.
    """

    version: int

    @property
    def spec(self) -> Spec:
        return Spec.flat(
            id=f"Pendulum-v{self.version}",
            obs_shape=(3,),
            action_shape=(1,),
            action_low=(-2.0,),
            action_high=(2.0,),
            time_limit=200,
        )

    def reset(self, *, key: PRNGKeyArray) -> PendulumState:
        angle, speed = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return PendulumState(angle * jnp.pi, speed)

    def observe(self, state: PendulumState) -> Float[Array, "3"]:
        return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])

    def step(
        self, state: PendulumState, action: Float[Array, "1"]
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


NATIVE_TASKS: dict[str, NativeTask] = {"Pendulum-v0": Pendulum(0), "Pendulum-v1": Pendulum(1)}
