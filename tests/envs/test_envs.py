import pytest

from poise.envs import EnvError, make, resolve


@pytest.mark.parametrize(
    ("id", "backend"),
    [
        ("Pendulum-v1", "native"),
        ("Pendulum-v0", "native"),
        ("Reacher-v4", "mujoco"),
        ("Walker2d-v5", "mujoco"),
        ("CartPole-v1", "gymnasium"),
        ("Swimmer-v4", "mujoco"),
        ("MountainCarContinuous-v0", "gymnasium"),
    ],
)
def test_the_fastest_backend_that_has_it_is_chosen(id, backend):
    assert resolve(id)[:3] == (id, backend, None)


@pytest.mark.parametrize("name", ["InvertedPendulum", "Reacher", "HalfCheetah", "Hopper", "Walker2d"])
def test_v2_of_a_core_task_is_run_as_v4_with_a_note(name):
    resolved = resolve(f"{name}-v2")
    assert resolved.id == f"{name}-v4"
    assert f"{name}-v2 is run as {name}-v4" in resolved.note


@pytest.mark.parametrize("id", ["Ant-v2", "Humanoid-v2", "Ant-v3", "Reacher-v3"])
def test_other_retired_versions_are_refused_with_the_reason(id):
    with pytest.raises(EnvError, match="retired"):
        resolve(id)


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(EnvError, match=r"no environment 'reachr-v4'; the nearest names are Reacher-v4"):
        resolve("reachr-v4")


@pytest.mark.parametrize(
    ("id", "backend", "message"),
    [
        ("CartPole-v1", "mujoco", "backend mujoco has no CartPole-v1; it has Ant-v4, Ant-v5"),
        ("Reacher-v4", "native", "backend native has no Reacher-v4; it has Pendulum-v0, Pendulum-v1"),
        ("Pendulum-v0", "gymnasium", "Gymnasium has no Pendulum-v0; backend native has"),
        ("nowhere:Task-v0", "auto", "nowhere:Task-v0: its module cannot be imported"),
    ],
)
def test_a_backend_without_the_environment_is_refused_in_one_sentence(id, backend, message):
    with pytest.raises(EnvError) as error:
        make(id, 1, backend)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_forced_backend_is_used():
    env = make("Pendulum-v1", 1, "gymnasium")
    assert env.backend.startswith("gymnasium")
