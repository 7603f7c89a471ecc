"""A resumed training says ``exact`` only where its environments came back as they were."""

import random

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import NormalizeReward
from probes import Counter

from poise.config import PPO, Config
from poise.envs import tasks
from poise.envs.checking import EnvFault
from poise.envs.gymnasium import UNRECORDED, GymnasiumEnv
from poise.envs.mujoco import MujocoEnv
from poise.envs.replay.tape import Sums, Tape, first_sum, next_sum
from poise.envs.vector import Restored
from poise.training.host import HostCollector
from poise.training.workers import _packed, _unpacked

LENGTH = 6  # steps of an episode


class Plain(gym.Env):
    """Keeps nothing over a reset. Its rewards are of its seed."""

    def __init__(self):
        self.observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float64)
        self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def obs(self):
        return np.array([self.t, 0], np.float32)

    def step(self, action):
        self.t += 1
        reward = float(action[0]) + self.np_random.normal() + self.extra()
        return self.obs(), reward, self.t == LENGTH, False, {}

    def extra(self):
        return 0.0


class OwnNoise(Plain):
    """Reward noise of a generator that no reset seeds."""

    def __init__(self):
        super().__init__()
        self.noise = np.random.default_rng(0)

    def extra(self):
        return self.noise.normal()


class CountsResets(Plain):
    """Its rewards grow from episode to episode."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed)

    def extra(self):
        return 0.1 * self.resets


class GrowsHarder(CountsResets):
    """What it keeps has an effect only much later: nothing it returns shows it yet."""

    def extra(self):
        return float(self.resets > 1000)


class CountsInItsClass(GrowsHarder):
    count = 0

    def reset(self, *, seed=None, options=None):
        CountsInItsClass.count += 1
        return super(CountsResets, self).reset(seed=seed)


class PythonsGenerator(Plain):
    def __init__(self):
        super().__init__()
        self.rng = random.Random(0)

    def extra(self):
        return self.rng.random()


class SharedGenerator(Plain):
    """Draws from the generator that all of a process share, which is nobody's to seed."""

    def extra(self):
        return np.random.random()  # noqa: NPY002


class SamplesItsSpace(Plain):
    def extra(self):
        return float(self.action_space.sample()[0])


class Slotted:
    __slots__ = ("total",)

    def __init__(self):
        self.total = 0.0


class Nested(Plain):
    """Keeps it in an object within a list, that has slots."""

    def __init__(self):
        super().__init__()
        self.parts = [Slotted()]

    def reset(self, *, seed=None, options=None):
        self.parts[0].total += 1
        return super().reset(seed=seed)


def in_a_closure():
    total = np.zeros(1)

    class Closure(Plain):
        def __init__(self):
            super().__init__()
            self.log = lambda: total

        def reset(self, *, seed=None, options=None):
            total[:] += 1
            return super().reset(seed=seed)

    return Closure()


MAKERS = {
    "Plain": Plain,
    "NormalizeReward": lambda: NormalizeReward(Plain()),
    "OwnNoise": OwnNoise,
    "CountsResets": CountsResets,
    "GrowsHarder": GrowsHarder,
    "CountsInItsClass": CountsInItsClass,
    "PythonsGenerator": PythonsGenerator,
    "SharedGenerator": SharedGenerator,
    "SamplesItsSpace": SamplesItsSpace,
    "Nested": Nested,
    "Closure": in_a_closure,
}
for name, maker in MAKERS.items():
    gym.register(f"{name}-v7", maker)


def played(id, steps, num_envs=2):
    """An environment within its third episode, after so many steps of that."""
    env = GymnasiumEnv(id, num_envs)
    rng = np.random.default_rng(1)
    every = np.ones(num_envs, bool)
    for episode in range(3):
        env.reset(every, [10 * episode + i for i in range(num_envs)])
        for _ in range(LENGTH if episode < 2 else steps):
            env.step(rng.uniform(-1, 1, (num_envs, *env.spec.action_row)).astype(np.float32))
    return env


@pytest.mark.parametrize("steps", [0, 1, LENGTH - 1])
@pytest.mark.parametrize("kind", MAKERS)
def test_state_that_survives_a_reset_is_noticed_at_any_step(kind, steps):
    saved = played(f"{kind}-v7", steps).snapshot()
    CountsInItsClass.count = 0  # as in a new process
    restored = GymnasiumEnv(f"{kind}-v7", 2).restore(saved)
    exact = bool(restored.exact.all()) and not restored.unlike
    assert exact == (kind == "Plain")
    if steps == 0 or kind in ("GrowsHarder", "Nested", "Closure", "CountsInItsClass"):
        assert restored.exact.all()  # nothing it returned is other: the attributes alone show it
    else:
        assert restored.exact.any() == (kind == "Plain")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("NormalizeReward", "NormalizeReward."),
        ("OwnNoise", "OwnNoise.noise"),
        ("CountsResets", "CountsResets.resets"),
        ("SharedGenerator", "an attribute that is missing now"),
        ("SamplesItsSpace", "SamplesItsSpace.action_space"),
    ],
)
def test_a_changed_attribute_is_named(kind, named):
    restored = GymnasiumEnv(f"{kind}-v7", 2).restore(played(f"{kind}-v7", 0).snapshot())
    (said,) = restored.unlike
    assert named in said


@pytest.mark.parametrize(
    "id",
    ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "HalfCheetah-v5", "Ant-v5"],
)
def test_environments_that_keep_nothing_raise_no_alarm(id):
    env = GymnasiumEnv(id, 2)
    rng = np.random.default_rng(0)

    def act():
        if not env.spec.boxes:
            return rng.integers(0, env.spec.sizes[0], 2)
        return rng.uniform(-1, 1, (2, *env.spec.action_row)).astype(np.float32)

    env.reset(np.ones(2, bool), [1, 2])
    for i in range(40):
        done = env.step(act())
        over = done.terminated | done.truncated
        if over.any():
            env.reset(over, [i] * int(over.sum()))
    restored = GymnasiumEnv(id, 2).restore(env.snapshot())
    assert (restored.exact.all(), restored.unlike) == (True, ())


def test_it_is_continued_and_restored_again():
    env = played("Plain-v7", 2)
    for _ in range(2):
        other = GymnasiumEnv("Plain-v7", 2)
        restored = other.restore(env.snapshot())
        assert (restored.exact.all(), restored.unlike) == (True, ())
        given = np.full((2, 1), 0.3, np.float32)
        np.testing.assert_array_equal(other.step(given).reward, env.step(given).reward)
        assert other.snapshot()["returned"].tolist() == env.snapshot()["returned"].tolist()
        env = other


def test_a_difference_in_rewards_alone_is_noticed():
    saved = played("Plain-v7", 3).snapshot()
    action = saved["action"].copy()
    action[0, 1] += 1e-12  # of environment 1: changes its reward, and no observation
    restored = GymnasiumEnv("Plain-v7", 2).restore(saved | {"action": action})
    assert restored.exact.tolist() == [True, False]


def config(**options):
    return Config(total_steps=64, num_envs=2, ppo=PPO(num_steps=4, minibatch_size=8, **options))


def collector(id):
    return HostCollector(GymnasiumEnv(id, 2), config())


@pytest.fixture
def policy():
    import jax
    from probes import first_state

    spec = GymnasiumEnv("Plain-v7", 1).spec
    state = jax.device_get(first_state(spec, config().settled(spec)))
    return state.learner.policy, state.normalizer


@pytest.mark.parametrize("kind", ["Plain", "NormalizeReward", "OwnNoise", "CountsResets"])
def test_the_collector_reports_the_reason(kind, policy):
    world = collector(f"{kind}-v7")
    world.collect(*policy, 0)
    world.collect(*policy, 1)
    again = collector(f"{kind}-v7")
    exact = again.restore(world.snapshot())
    after = again.collect(*policy, 2)
    assert exact == (kind == "Plain")
    assert bool(after.notes) == (kind != "Plain")
    packed = _packed(after)  # as a process of a cluster sends it
    assert (_unpacked(packed).notes, _unpacked(packed).exact) == (after.notes, True)
    if kind == "Plain":
        np.testing.assert_array_equal(after.rollout.reward, world.collect(*policy, 2).rollout.reward)


def test_a_checkpoint_of_an_earlier_version_is_read_but_not_exact(policy):
    world = collector("Plain-v7")
    world.collect(*policy, 0)
    saved = {n: a for n, a in world.snapshot().items() if n not in ("env.returned", "env.inner")}
    again = collector("Plain-v7")
    assert again.restore(saved) is False
    after = again.collect(*policy, 1)
    assert after.notes == (f"Plain-v7: {UNRECORDED}",)
    np.testing.assert_array_equal(after.rollout.reward, world.collect(*policy, 1).rollout.reward)


class Stateful(tasks.TASKS["InvertedPendulum-v5"]):
    """A task of the batch engine with a state of its own, which it must not have."""

    def __init__(self):
        self.calls = 0

    def draw(self, rng, qpos, qvel):
        self.calls += 1
        return super().draw(rng, qpos, qvel)


@pytest.mark.parametrize(("kind", "unlike"), [(Stateful, 1), (Stateful.__mro__[1], 0)])
def test_a_stateful_task_of_the_batch_engine_is_named(kind, unlike):
    world, other = MujocoEnv("Mine", kind(), 2, 1), MujocoEnv("Mine", kind(), 2, 1)
    for seed in (0, 2):
        world.reset(np.ones(2, bool), [seed, seed + 1])
    world.step(np.zeros((2, 1), np.float32))
    restored = other.restore(world.snapshot())
    assert restored.exact.all()
    assert len(restored.unlike) == unlike
    assert all("Stateful.calls is not as it was" in said for said in restored.unlike)
    before = {name: array for name, array in world.snapshot().items() if name != "task"}
    assert other.restore(before).unlike == ()  # of an earlier poise


class FailsOnce(Counter):
    """Its environment 0 fails once, at the third step of all."""

    failed = False

    def step(self, action):
        if self.step_count[1] == 2 and not self.failed:
            self.failed = True
            raise EnvFault("lost the robot", 0)
        return super().step(action)

    def rebuild(self, fault):
        return Restored(self._obs(), np.array([False, True]))


def test_an_episode_that_a_crash_cut_is_truncated_not_listed_and_not_exact():
    import jax
    from probes import first_state

    env = FailsOnce([-3, -3])
    world = HostCollector(env, config())
    state = jax.device_get(first_state(env.spec, config().settled(env.spec)))
    first, later = (world.collect(state.learner.policy, state.normalizer, i) for i in (0, 1))
    assert (first.exact, later.exact) == (False, True)
    # environment 0: two steps, then the crash, then a new episode; environment 1: three steps, then another
    assert first.rollout.truncated[:, 0].tolist() == [False, True, False, False]
    assert first.rollout.truncated[:, 1].tolist() == [False, False, True, False]
    assert [(e.env, e.index, e.length) for e in first.episodes] == [(1, 0, 3)]
    assert [(e.env, e.index, e.length) for e in later.episodes][:1] == [(0, 1, 3)]


class GivesInfos(Plain):
    """Infos of changing shape, which nobody reads."""

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, {"seen": np.zeros(self.t), "label": {1, 2} if self.t % 2 else np.zeros((self.t, 2))}


gym.register("GivesInfos-v7", GivesInfos)


def test_infos_are_not_gathered():
    env = played("GivesInfos-v7", 3)
    assert env.snapshot()["length"].tolist() == [3, 3]


def test_sums_are_those_of_the_episodes_step_by_step(monkeypatch):
    monkeypatch.setattr("poise.envs.replay.tape._BUFFERED", 150)  # they are added now and then
    rng = np.random.default_rng(0)
    sums, alone = Sums(3), [0, 0, 0]
    for step in range(200):
        obs = rng.normal(size=(3, 2)).astype(np.float32)
        mask = rng.random(3) < (1.0 if step == 0 else 0.1)
        if mask.any():
            sums.begin(mask, [obs])
            alone = [first_sum([obs[i]]) if mask[i] else alone[i] for i in range(3)]
        reward, ends = rng.normal(size=3), rng.random((2, 3)) < 0.2
        sums.add([obs], reward, *ends)
        rows = zip(alone, [[row] for row in obs], reward.tolist(), *ends.tolist(), strict=True)
        alone = [next_sum(*row) for row in rows]
        if step % 50 == 0:
            assert sums.values().tolist() == alone
    assert sums.values().tolist() == alone
    assert len(set(alone)) == 3


def test_a_snapshot_costs_no_copy_and_never_changes():
    tape = Tape(gym.spaces.Box(-1, 1, (2, 1), np.float32))
    for i in range(100):
        tape.add(np.full((2, 1), i, np.float32))
    kept = tape.rows()
    assert np.shares_memory(kept, tape._rows)
    for _ in range(1000):
        tape.add(np.full((2, 1), -1, np.float32))
    tape.begin(np.ones(2, bool))
    tape.put(np.full((3, 2, 1), -2, np.float32), np.array([3, 3]))
    assert kept[:, 0, 0].tolist() == list(range(100))


class Endless(Plain):
    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, False, info


gym.register("Endless-v7", Endless)


def test_episodes_without_an_end_are_refused_before_a_checkpoint_is_too_large(monkeypatch):
    monkeypatch.setattr("poise.envs.replay.tape.LARGEST", 2 * 8 * 1000)  # 1,000 steps of two environments
    env = GymnasiumEnv("Endless-v7", 2)
    env.reset(np.ones(2, bool), [1, 2])
    action = np.zeros((2, 1), np.float32)

    def steps():
        for _ in range(3000):
            env.step(action)

    with pytest.raises(EnvFault, match=r"this episode does not end.* time limit: .*max_episode_") as fault:
        steps()
    assert fault.value.index is None  # no other episode would help
    assert env.snapshot()["action"].nbytes <= 2 * 2 * 8 * 1000
