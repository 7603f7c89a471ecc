"""Rollout workers on a local Ray, which is started once for all of these tests."""

import io
import os
import signal

import jax
import numpy as np
import pytest

from poise.arrays import ArraysError
from poise.checked import ConfigError
from poise.config import Config
from poise.envs import make, resolve
from poise.envs.checking import EnvFault
from poise.system import cluster
from poise.training import workers
from poise.training.groups import groups
from poise.training.loop import Start, iterations
from poise.training.workers import WorkerError, Workers, WorkerSettings, check_workers

pytestmark = pytest.mark.processes
CONFIG = Config(total_steps=1536, num_envs=6, env_groups=3)  # 6 iterations


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.joined(cluster.LOCAL, processes=3):
        yield


@pytest.fixture
def spread():
    """Makes workers, and ends them."""
    made = []

    def start(count, config=CONFIG, env="InvertedPendulum-v4", restart=False):
        world = Workers(resolve(env), config, WorkerSettings(count, 60.0, restart), io.StringIO())
        made.append(world)
        return world

    yield start
    for world in made:
        world.close()


@pytest.fixture(scope="module")
def here():
    """The same training, all groups in this process."""
    return list(iterations(CONFIG, [make("InvertedPendulum-v4", s.num_envs) for s in groups(CONFIG)]))


def pids(world):
    return [cluster.answer(worker.ask("pid")) for worker in world._workers]


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def same_training(there, here):
    assert [p.iteration for p in there] == [p.iteration for p in here]
    for one, other in zip(there, here, strict=True):
        same(one.state.learner, other.state.learner)
        same(one.rollout, other.rollout)
        same(one.world, other.world)
        assert one.episodes == other.episodes
        assert one.exact


@pytest.mark.parametrize(
    "count", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)]
)
def test_any_number_of_workers_trains_the_same_bits(count, spread, here):
    world = spread(count)
    assert world.num_envs == 6
    assert world.backend.endswith(f", 3 groups on {count} worker{'s' * (count > 1)}")
    same_training(list(iterations(CONFIG, world)), here)


def test_a_worker_that_is_killed_is_replaced_and_the_training_is_the_same(spread, here):
    world, seen, notes = spread(2), [], []
    for progress in iterations(CONFIG, world):
        seen.append(progress)
        notes.append(progress.notes)
        if progress.iteration in (1, 3):
            os.kill(pids(world)[progress.iteration // 2], signal.SIGKILL)
    same_training(seen, here)
    died = ("a worker died; another took its place",)
    assert notes == [(), died, (), died, (), ()]


@pytest.mark.slow
def test_workers_that_are_killed_together_and_before_they_begin_are_replaced(spread, here):
    world, seen = spread(2), []
    for pid in pids(world):
        os.kill(pid, signal.SIGKILL)
    for progress in iterations(CONFIG, world):
        seen.append(progress)
        if progress.iteration == 4:
            for pid in pids(world):
                os.kill(pid, signal.SIGKILL)
    same_training(seen, here)
    assert [len(p.notes) for p in seen] == [2, 0, 0, 0, 2, 0]


@pytest.mark.slow
def test_without_a_core_for_another_worker_the_groups_go_to_those_that_live(spread, here, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 1.0)
    world, seen = spread(2), []
    kind, arguments = (
        workers._Worker,
        ([], resolve("InvertedPendulum-v4"), CONFIG, WorkerSettings(1, 60.0, restart=False)),
    )
    others = [cluster.Process(kind, *arguments) for _ in range(2)]  # for one core: one waits for another
    for progress in iterations(CONFIG, world):
        seen.append(progress)
        if progress.iteration == 2:
            os.kill(pids(world)[0], signal.SIGKILL)
            assert all(isinstance(cluster.answer(other.ask("pid")), int) for other in others)
    for other in others:
        other.kill()
    same_training(seen, here)
    assert seen[2].notes == ("a worker died, and there is no core for another; 1 go on",)
    assert seen[3].notes == ()


ENV = """
import gymnasium, numpy, os

class {name}(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return numpy.zeros(1, numpy.float32), {{}}

    def step(self, action):
        self.count += 1
        if self.count == 9:
            {what}
        return numpy.zeros(1, numpy.float32), 0.0, False, False, {{}}
"""
TWO = Config(total_steps=256, num_envs=2, env_groups=2)


@pytest.mark.slow
def test_workers_that_die_again_and_again_end_the_training(spread, tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text(ENV.format(name="Dying", what="os._exit(1)"))
    monkeypatch.syspath_prepend(tmp_path)  # where workers look as well
    with pytest.raises(
        WorkerError, match="workers of one group died 6 times in a row; the last: ActorDiedError"
    ):
        next(iterations(TWO, spread(1, TWO, "dying:Dying")))


@pytest.mark.slow
def test_a_training_goes_on_from_a_snapshot_with_another_number_of_workers(spread, here):
    start = Start(here[2].state, here[2].world)
    same_training(list(iterations(CONFIG, spread(2), start)), here[3:])


def test_a_snapshot_of_another_training_is_refused(spread, here):
    wrong = {name: array for name, array in here[2].world.items() if not name.endswith("elapsed")}
    with pytest.raises(ArraysError, match="array elapsed is missing"):
        next(iterations(CONFIG, spread(1), Start(here[2].state, wrong)))


@pytest.mark.slow
def test_gymnasium_environments_are_restored_in_a_new_worker(spread):
    config = Config(total_steps=512, num_envs=4, env_groups=2)
    wanted = list(iterations(config, [make("CartPole-v1", 2), make("CartPole-v1", 2)]))
    world, seen = spread(2, config, "CartPole-v1"), []
    for progress in iterations(config, world):
        seen.append(progress)
        os.kill(pids(world)[1], signal.SIGKILL)
    same_training(seen, wanted)


def test_an_error_of_an_environment_in_a_worker_is_raised_here(spread, tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text(ENV.format(name="Breaking", what="raise RuntimeError('no')"))
    monkeypatch.syspath_prepend(tmp_path)
    message = r"environment 0, episode seed .*, step 9: step raised RuntimeError: no"
    with pytest.raises(EnvFault, match=message) as raised:
        next(iterations(TWO, spread(1, TWO, "breaking:Breaking")))
    assert len(raised.value.crash.actions) == 9


def test_settings_that_cannot_be_spread_are_refused():
    with pytest.raises(
        ConfigError, match=r"workers = 3: must be <= 2, the groups .*--env-groups 3 makes as many"
    ):
        check_workers(3, Config(env_groups=2), "mujoco", None)
    with pytest.raises(ConfigError, match="workers = 1: must be 0 on backend native"):
        check_workers(1, Config(), "native", None)
    with pytest.raises(ConfigError, match="ray = 'local': has no effect on one training without --workers"):
        check_workers(0, Config(), "mujoco", "local")
    check_workers(2, Config(env_groups=2), "mujoco", "auto")


def test_many_workers_that_die_together_are_replaced(spread, monkeypatch):
    monkeypatch.setattr(cluster, "ready", lambda promises, _: promises)
    world = spread(3)
    died = [world._renew(worker, cluster.Lost("")) for worker in (*world._workers, *world._workers[:0])]
    assert [len(groups) for groups in died] == [1, 1, 1]
    assert set(world._deaths.values()) == {1}


@pytest.mark.slow
def test_two_workers_step_an_environment_that_sleeps_almost_twice_as_fast(spread, monkeypatch):
    config = Config(total_steps=1024, num_envs=8, env_groups=2)  # 4 iterations

    def trained(env):
        seen = list(iterations(config, env))
        return seen, sum(p.rollout_seconds + p.learn_seconds for p in seen[1:])  # the first compiles

    alone, slow = trained([make("sleepy:Sleepy", 4), make("sleepy:Sleepy", 4)])
    both, fast = trained(spread(2, config, "sleepy:Sleepy"))
    same_training(both, alone)
    assert slow / fast > 1.8
