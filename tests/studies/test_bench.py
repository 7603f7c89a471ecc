"""The numbers of ``poise bench``, and how they are measured."""

import contextlib
import dataclasses
import json
import shlex
import sys

import numpy as np
import pytest
from probes import first_state

from poise import envs
from poise.cli.main import main
from poise.config import PPO, Config, Normalize, Policy
from poise.store.checkpoint import Trained
from poise.studies import bench
from poise.studies.bench import Bench, Round, flags
from poise.studies.limits import flops_a_step, physics_alone, record

SMALL = Config(num_envs=2, total_steps=1024, ppo=PPO(num_steps=64))


def trained_on(env, config):
    state = first_state(env.spec, config)
    return Trained(state.learner.policy, state.learner.value, state.normalizer)


def round_of(**changes):
    seconds = {"import": 1.0, "compile": 2.0, "rollout": 3.0, "physics": 2.5, "learn": 1.5, "prepare": 0.5}
    seconds |= {"log": 0.5, "evaluate": 0.0}
    default = Round(10.0, 400_000_000, seconds, 2048, 1000.0, {1: 2000.0, 2: 3000.0}, 6e6)
    return dataclasses.replace(default, **changes)


def test_the_parts_of_a_process_add_up_to_it():
    measured = Bench("Some-v0", "mujoco", SMALL, [round_of()], 1000.0)
    assert measured.parts() == {
        "import": 1.0,
        "compile": 2.0,
        "acting": 0.5,
        "physics": 2.5,
        "preparing": 0.5,
        "learning": 1.0,
        "logging": 0.5,
        "start and end": 2.0,
    }
    assert sum(measured.parts().values()) == 10


def test_the_limit_is_the_time_of_physics_and_of_learning_added():
    measured = Bench("Some-v0", "mujoco", SMALL, [round_of()], 1000.0)
    # a step: 1/3000 s of physics on the better number of threads, 1000 / 6e6 s of learning
    assert measured.physics == (2, 3000.0)
    assert measured.limit == pytest.approx(2000)
    assert "400 MB" in measured.table()
    assert "A step takes 2.00 times the limit: 50%" in measured.table()
    assert measured.to_dict()["limit"]["share"] == pytest.approx(0.5)
    json.dumps(measured.to_dict())


def test_results_are_medians_of_the_rounds():
    paces = [round_of(steps_per_second=pace, whole=whole) for pace, whole in ((9.0, 5), (1.0, 7), (4.0, 6))]
    measured = Bench("Some-v0", "mujoco", SMALL, paces, 1000.0)
    assert measured.steps_per_second == 4
    assert "(5.00 to 7.00)" in measured.table()


def test_the_work_of_learning_counted_by_hand():
    env = envs.make("InvertedPendulum-v5", 2)
    config = dataclasses.replace(
        SMALL, ppo=PPO(num_steps=64, num_epochs=2, value_num_epochs=4, minibatch_size=50)
    )
    # of each network: forward 2 (4 64 + 64 64 + 64), weights as much, inputs 2 (64 64 + 64); 100 of 128 rows
    per_row = 2 * (4 * (256 + 4096 + 64) + 2 * (4096 + 64))
    assert flops_a_step(trained_on(env, config), config) == pytest.approx(3 * per_row * 100 / 128)


@pytest.mark.parametrize(
    ("id", "backend", "threads"),
    [
        ("InvertedPendulum-v5", "mujoco", True),
        ("Pendulum-v1", "native", False),
        ("Pendulum-v1", "gymnasium", False),
    ],
)
def test_the_environments_alone_are_measured_on_every_backend(id, backend, threads):
    task = envs.resolve(id, backend)
    env = envs.make(id, 2, backend)
    moves = record(task, SMALL, trained_on(env, SMALL))
    env.close()
    assert len(moves) == 64
    assert moves[0].reset is not None
    paces = physics_alone(task, moves)
    assert (0 in paces) is not threads
    assert all(pace > 0 for pace in paces.values())


def test_a_replay_goes_where_the_recording_went():
    env = envs.make("InvertedPendulum-v5", 2)
    moves = record(envs.resolve(env.spec.id), SMALL, trained_on(env, SMALL))
    assert sum(move.reset is not None for move in moves) > 2
    again = envs.make("InvertedPendulum-v5", 2)
    for move in moves:
        if move.reset is not None:
            again.reset(move.reset, move.seeds)
        again.step(move.action)
    engine = env.engine(1)
    env.replay([(m.action, m.state) for m in moves], engine)
    np.testing.assert_array_equal(engine.state, again.rows())


def test_flags_make_the_same_configuration(monkeypatch):
    config = Config(
        num_envs=3,
        total_steps=1000,
        ppo=PPO(num_steps=50, max_grad_norm=None, target_kl=0.1),
        policy=Policy(hidden=(8, 16), std="fixed"),
        normalize=Normalize(action=False),
    )
    seen = []
    monkeypatch.setattr(
        "poise.runs.peers.following.execute", lambda env, config, *_, **__: seen.append(config)
    )
    with contextlib.suppress(AttributeError):  # there is no run to report on
        main(["train", "Pendulum-v1", *flags(config)])
    assert seen == [config]


@pytest.mark.processes
def test_the_command_measures_and_prints(capsys):
    command = "bench Pendulum-v1 --num-envs 2 --total-steps 256 --ppo.num-steps 64 --rounds 1"
    assert main(shlex.split(command)) == 0
    out, err = capsys.readouterr()
    assert "round 1 of 1" in err
    assert "Pendulum-v1 on native: 2 environments x 64 steps, 256 steps, seed 0" in out
    assert "times the limit" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rounds 0", "rounds = 0: must be >= 1"),
        (
            "--total-steps 128 --num-envs 2 --ppo.num-steps 64",
            "--total-steps = 128: must give at least two",
        ),
    ],
)
def test_invalid_options_are_an_error(options, message, capsys):
    assert main(["bench", "Pendulum-v1", *shlex.split(options)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.processes
def test_a_training_that_fails_says_why():
    config = dataclasses.replace(SMALL, ppo=PPO(num_steps=64, policy_learning_rate=1e30))
    with pytest.raises(bench.BenchError, match=r"^policy/loss is nan in iteration 1 of Pendulum-v1"):
        bench.measure("Pendulum-v1", config, "auto", rounds=1, file=sys.stdout)
