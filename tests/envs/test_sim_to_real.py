"""What makes a simulation like a robot: noise, delays, mocap bodies, a history; all of it exact on resume."""

import numpy as np
import pytest
from scipy import stats

from poise.config import PPO, Config
from poise.envs import EnvError, make
from poise.envs.mujoco import MujocoEnv, Task
from poise.envs.native.mjx import MjxEnv
from poise.envs.noise import Noise
from poise.health.inspection import inspect
from poise.training.loop import Start, iterations

ID = "real_beam:RealBeam-v0"
XML = """<mujoco><worldbody>
<body name="target" mocap="true" pos="0 0 1"><geom size="0.1" contype="0" conaffinity="0"/></body>
<body><joint name="slide" type="slide" axis="1 0 0"/><geom size="0.1"/></body>
</worldbody><actuator>
<motor joint="slide" {delay} ctrlrange="-1 1" ctrllimited="true"/>
</actuator></mujoco>"""


@pytest.fixture(autouse=True)
def examples(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.config.rootpath / "examples"))


class Slider(Task):
    """Push a mass; the target is a mocap body."""

    frame_skip, time_limit = 2, 30

    def __init__(self, model):
        self.model = model

    def draw(self, rng, qpos, qvel):
        return qpos, qvel

    def place(self, rng, mocap_pos, mocap_quat):
        mocap_pos[0, 0] += rng.uniform(-1, 1)

    def observe(self, batch):
        return np.concatenate((batch.qpos, batch.qvel, batch.mocap_pos[:, 0, :1]), axis=1)

    def outcome(self, batch, before, action):
        return -np.abs(batch.qpos[:, 0] - batch.mocap_pos[:, 0, 0]), np.zeros(len(action), bool)


def slider(folder, delay=""):
    path = folder / "slider.xml"
    path.write_text(XML.format(delay=delay))
    return Slider(str(path))


# --- noise ---


def test_noise_is_normal_and_uniform_and_its_columns_rows_and_calls_are_independent():
    rows = 20_000
    noise = Noise(np.arange(rows), np.full(rows, 7))
    drawn = [noise.normal(size=2), noise.normal(size=2)]
    columns = np.concatenate(drawn, axis=1)
    assert all(stats.kstest(column, "norm").pvalue > 0.001 for column in columns.T)
    assert np.abs(np.corrcoef(columns.T) - np.eye(4)).max() < 4 / np.sqrt(rows)
    later = Noise(np.arange(rows), np.full(rows, 8)).normal(size=2)
    assert abs(np.corrcoef(later[:, 0], columns[:, 0])[0, 1]) < 4 / np.sqrt(rows)
    assert abs(np.corrcoef(columns[1:, 0], columns[:-1, 0])[0, 1]) < 4 / np.sqrt(rows)
    assert stats.kstest(noise.uniform(-1, 3, size=1)[:, 0], "uniform", (-1, 4)).pvalue > 0.001
    scaled = noise.normal(scale=[1.0, 10.0], size=2).std(axis=0)
    np.testing.assert_allclose(scaled, [1, 10], rtol=0.03)


def test_noise_depends_on_seed_and_step_and_not_on_the_other_simulations():
    many, one = Noise(np.array([3, 4, 5]), np.array([9, 2, 2])), Noise(np.array([4]), np.array([2]))
    for _ in range(2):
        np.testing.assert_array_equal(many.normal(size=5)[1], one.normal(size=5)[0])
    again = Noise(np.array([3, 4, 5]), np.array([9, 2, 2])).normal(size=5)
    assert len(np.unique(again)) == 15


def test_an_episode_has_the_same_noise_beside_any_number_of_others():
    one, other = make(ID, 1), make(ID, 3)
    start = one.reset(np.ones(1, bool), [6])
    again = other.reset(np.ones(3, bool), [1, 2, 6])
    np.testing.assert_array_equal(start[0], again[2])
    for number in range(5):
        steps = [env.step(np.full((env.num_envs, 1), 0.1, np.float32)) for env in (one, other)]
        np.testing.assert_array_equal(steps[0].next_obs[0], steps[1].next_obs[2])
        if number == 2:  # a reset of one simulation changes no observation of another
            kept = other.reset(np.array([True, False, False]), [9])
            np.testing.assert_array_equal(kept[1:], steps[1].next_obs[1:])


def test_a_task_with_noise_repeats_itself():
    findings = {finding.rule for finding in inspect(ID).findings}
    assert "not-repeatable" not in findings


@pytest.mark.parametrize("history", [1, 4])
def test_delays_noise_and_a_history_resume_to_the_same_bits(history):
    """Episodes end by their limit on the way; the delays of servo and sensors are part of the state."""
    config = Config(
        total_steps=6 * 64,
        num_envs=2,
        history=history,
        ppo=PPO(num_steps=32, num_epochs=1, minibatch_size=32, reset_every_rollout=False),
    )
    whole = list(iterations(config, make(ID, 2)))
    for stop in (1, 3, 4):
        begun = Start(whole[stop].state, whole[stop].world)
        after = list(iterations(config, make(ID, 2), begun))
        assert all(progress.exact for progress in after)
        for again, progress in zip(after, whole[stop + 1 :], strict=True):
            np.testing.assert_array_equal(again.rollout.obs, progress.rollout.obs)
            np.testing.assert_array_equal(again.rollout.action, progress.rollout.action)


def test_a_history_reads_the_last_observations_of_the_batch_engine():
    """The features after a step are the last three observations, and zeros before the episode's start."""
    config = Config(
        total_steps=2 * 64, num_envs=2, history=3, ppo=PPO(num_steps=32, num_epochs=1, minibatch_size=32)
    )
    progress = next(iterations(config, make(ID, 2)))
    memory = progress.state.learner.policy.memory
    assert (memory.num_features, memory.length) == (3, 3)
    assert progress.state.learner.policy.mlp.weight[0].shape[0] == 9


# --- delays and mocap bodies ---


def test_a_delayed_motor_acts_later(tmp_path):
    """timestep 2 ms, delay 20 ms: the first 10 substeps, 5 steps, have no force."""
    direct, late = (
        MujocoEnv("Slider", slider(tmp_path, delay), 1) for delay in ("", 'delay="0.02" nsample="12"')
    )
    speeds = []
    for env in (direct, late):
        env.reset(np.ones(1, bool), [0])
        speeds.append([env.step(np.ones((1, 1), np.float32)).next_obs[0, 1] for _ in range(10)])
    assert speeds[0][0] > 0
    assert speeds[1][:5] == [0.0] * 5
    np.testing.assert_allclose(speeds[1][5:], speeds[0][:5], rtol=1e-6)


def test_a_mocap_body_is_placed_in_each_episode_and_restored(tmp_path):
    task = slider(tmp_path, 'delay="0.02" nsample="12"')
    env = MujocoEnv("Slider", task, 3)
    starts = env.reset(np.ones(3, bool), [1, 2, 3])
    assert len(np.unique(starts[:, 2])) == 3
    assert np.abs(starts[:, 2]).max() <= 1
    for _ in range(4):
        step = env.step(np.full((3, 1), 0.5, np.float32))
    np.testing.assert_array_equal(step.next_obs[:, 2], starts[:, 2])
    again = MujocoEnv("Slider", task, 3)
    restored = again.restore(env.snapshot())
    assert restored.exact.all()
    np.testing.assert_array_equal(restored.obs, step.next_obs)
    for _ in range(10):
        both = [each.step(np.full((3, 1), -0.5, np.float32)).next_obs for each in (env, again)]
        np.testing.assert_array_equal(*both)
    moved = env.reset(np.array([False, True, False]), [7])
    assert moved[1, 2] != starts[1, 2]
    np.testing.assert_array_equal(moved[[0, 2], 2], starts[[0, 2], 2])


def test_names_lead_to_ids(tmp_path):
    batch = MujocoEnv("Slider", slider(tmp_path), 2)._batch
    target = batch.model.body("target")
    assert (target.id, target.mocapid[0]) == (1, 0)
    np.testing.assert_array_equal(batch.model.joint("slide").qposadr, [0])


def test_the_last_action_is_in_ctrl(tmp_path):
    env = MujocoEnv("Slider", slider(tmp_path), 2)
    env.reset(np.ones(2, bool), [0, 1])
    np.testing.assert_array_equal(env._batch.ctrl, np.zeros((2, 1)))
    env.step(np.array([[0.25], [-1.0]], np.float32))
    np.testing.assert_array_equal(env._batch.ctrl, [[0.25], [-1.0]])


def test_mjx_refuses_what_runs_on_the_host(tmp_path):
    from real_beam import RealBeam

    for task, what in ((RealBeam(), r"observe\(self, batch, noise\)"), (slider(tmp_path), "place")):
        with pytest.raises(EnvError, match=f"its {what} runs on backend mujoco only, not on mjx"):
            MjxEnv("Mine-v0", task)
