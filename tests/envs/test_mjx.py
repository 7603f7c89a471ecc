"""The batch engine's tasks on MJX, and the arrays that let NumPy's functions run compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.config import PPO, Config
from poise.envs import EnvError, make, resolve
from poise.envs.mujoco import MujocoEnv
from poise.envs.native.jax_env import World, advance, observe
from poise.envs.native.lifted import Lifted, as_jax
from poise.envs.native.mjx import KEPT, STARTS, Simulation, draw_starts
from poise.envs.native.names import find_task
from poise.envs.tasks import TASKS
from poise.training.loop import Start, iterations

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: np.concatenate((x, np.clip(y, -1, 1)), axis=1),
        lambda x, y: np.sqrt(np.add.reduce(x * x, axis=1)) - 2 * abs(y[:, 0]),
        lambda x, y: np.logical_and.reduce(np.isfinite(x) & (y < 1), axis=1),
        lambda x, y: np.linalg.norm(x - y, axis=1),
        lambda x, y: np.einsum("b,nb->n", np.arange(4.0, dtype=np.float32), x) / np.float32(2),
        lambda x, y: np.where(x[:, 0] > 0, 0.0, 1 - 2 * np.abs(y[:, 1])),
        lambda x, y: (~(x > 0)).astype(float).sum(axis=1) + np.ones(len(y)),
        lambda x, y: np.stack([a * b for a, b in zip(x.T, y.T, strict=True)]).reshape(-1),
        lambda x, y: np.square(x).sum(axis=(0, 1)) + np.minimum(x.max(), 10.0) + y.size,
    ],
)
def test_numpys_functions_give_the_same_on_lifted_arrays(function):
    lifted = jax.jit(lambda x, y: as_jax(function(Lifted(x), Lifted(y))))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(lifted(X, Y), function(X, Y), rtol=2e-6, atol=1e-6)


def test_writing_into_a_lifted_array_replaces_its_value():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x = Lifted(jnp.asarray(X))
        row = x[1]
        x[1] = 0.0
        np.multiply(x, 2.0, out=x)
    np.testing.assert_array_equal(row.value, X[1])  # a copy
    np.testing.assert_array_equal(x.value, np.array([2 * X[0], 0 * X[1], 2 * X[2]]))


def test_what_numpy_cannot_do_with_them_says_so():
    x = Lifted(jnp.asarray(X))
    with pytest.raises(TypeError, match=r"np.add \(accumulate\) has no counterpart in jax.numpy"):
        np.add.accumulate(x)
    with pytest.raises(TypeError, match=r"numpy\.busday_count has no counterpart in jax.numpy"):
        np.busday_count(x, x)
    with pytest.raises(TypeError, match="this function of NumPy does not take arrays of JAX"):
        np.asarray(x)


def as_simulation(env, task):
    """The state of the batch engine as MJX keeps it."""
    batch, empty = env._batch, task.env._empty

    def field(name, *shape):
        return jnp.asarray(np.array(getattr(batch, name)).reshape(env.num_envs, *shape), jnp.float32)

    kept = {name: field(name, *getattr(empty, name).shape) for name in KEPT}
    derived = {name: field(name, *getattr(batch, name).shape[1:]) for name in env._task.derived}
    ctrl, start = jnp.asarray(np.array(batch.ctrl), jnp.float32), jnp.zeros(env.num_envs, jnp.int32)
    return World(Simulation(kept, derived, ctrl, start), jnp.zeros(env.num_envs, jnp.int32))


def differences(id, num_envs=32, steps=30):
    """Of observations (in their deviations), rewards and ends after a step from the same random states."""
    env, task = MujocoEnv(id, TASKS[id](), num_envs), find_task(id)
    low, high = (np.clip(np.array(bound), -1, 1) for bound in (env.spec.action_low, env.spec.action_high))
    rng = np.random.default_rng(0)
    env.reset(np.ones(num_envs, bool), range(num_envs))
    for i in range(steps):
        seen = env.step(rng.uniform(low, high, (num_envs, len(low))).astype(np.float32))
        if (ended := seen.terminated | seen.truncated).any():
            env.reset(ended, [1000 + i] * int(ended.sum()))
    world, keys = as_simulation(env, task), jax.random.split(jax.random.key(0), num_envs)
    now = np.abs(np.asarray(observe(task, world)) - env._observe(env._elapsed)).max()
    action = rng.uniform(low, high, (num_envs, len(low))).astype(np.float32)
    seen, (_, other) = env.step(action), jax.jit(lambda w: advance(task, w, action, keys))(world)
    scale = seen.next_obs.std(axis=0) + 1e-3
    worst = (np.abs(np.asarray(other.next_obs) - seen.next_obs) / scale).max(axis=1)
    reward = np.abs(np.asarray(other.reward) - seen.reward)
    ends = (np.asarray(other.terminated) == seen.terminated).mean()
    return {"now": now, "next": worst, "reward": reward, "ends": ends}


SLOW = pytest.mark.slow
MEASURED = [  # the largest differences that were measured are below half of these
    ("InvertedPendulum-v5", 1e-6, 1e-6),
    pytest.param("InvertedDoublePendulum-v5", 2e-6, 2e-6, marks=SLOW),
    pytest.param("Reacher-v5", 1e-4, 1e-6, marks=SLOW),
    pytest.param("Swimmer-v5", 1e-5, 2e-6, marks=SLOW),
    pytest.param("HalfCheetah-v5", 1e-4, 1e-5, marks=SLOW),
    pytest.param("Hopper-v5", 2e-5, 2e-6, marks=SLOW),
]


@pytest.mark.parametrize(("id", "obs", "reward"), MEASURED)
def test_a_step_agrees_with_the_batch_engine(id, obs, reward):
    found = differences(id)
    assert found["now"] < 2e-6
    assert found["next"].max() < obs
    assert found["reward"].max() < reward
    assert found["ends"] == 1.0


def test_starts_are_those_of_the_batch_engine():
    env = make("Reacher-v5", STARTS, "mujoco")
    obs = env.reset(np.ones(STARTS, bool), range(STARTS))
    task = TASKS["Reacher-v5"]()
    pool = draw_starts(task, env.model)
    np.testing.assert_allclose(pool["qpos"][:, 2:], obs[:, 4:6], atol=1e-7)  # the goals
    assert pool["model"] == {}


def test_fields_of_the_model_vary_between_starts():
    import ball_and_beam

    task = ball_and_beam.BallAndBeam()
    env = MujocoEnv("BallAndBeam-v0", task, 1)
    pool = draw_starts(task, env.model)
    mass = pool["model"]["body_mass"]
    assert mass.shape == (STARTS, env.model.nbody)
    ball = mass[:, ball_and_beam.BALL] / env.model.body_mass[ball_and_beam.BALL]
    assert 0.5 <= ball.min() < 0.55
    assert 1.95 < ball.max() <= 2.0
    np.testing.assert_array_equal(mass[:, 1], np.float32(env.model.body_mass[1]))
    # what MuJoCo derives from the masses varies with them
    assert np.ptp(pool["model"]["dof_invweight0"], axis=0).max() > 0


def test_a_training_on_mjx_resumes_with_the_same_bits():
    id, config = "InvertedPendulum-v5", Config(total_steps=3 * 16, num_envs=2, ppo=PPO(num_steps=8))
    whole = list(iterations(config, make(id, 2, "mjx")))
    (last,) = iterations(config, make(id, 2, "mjx"), Start(whole[1].state, whole[1].world))
    jax.tree.map(np.testing.assert_array_equal, last.rollout, whole[2].rollout)


def test_only_tasks_of_the_batch_engine_run_on_mjx():
    assert resolve("Hopper-v5", "mjx").backend == "mjx"
    assert resolve("Hopper-v5").backend == "mujoco"
    with pytest.raises(EnvError, match="backend mjx has no CartPole-v1; it has Ant-v4"):
        resolve("CartPole-v1", "mjx")
