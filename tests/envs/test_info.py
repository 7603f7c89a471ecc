"""The numbers in infos: which are kept, under which names, and one number of each for an episode."""

import gymnasium as gym
import numpy as np
import pytest

from poise.envs import make
from poise.envs.info import LONGEST, MOST, BatchInfo, EpisodeInfo, is_summed, name_of
from poise.envs.tasks import TASKS

EARLIER = {  # the names that -v4 has for those of -v5
    "reward_forward": ("reward_run", "reward_fwd", "reward_linvel"),
    "reward_ctrl": ("reward_quadctrl",),
    "reward_survive": ("reward_alive",),
}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("reward_ctrl", "reward_ctrl"),
        ("=cmd|' /C calc'!A0", "cmd___/C_calc__A0"),
        ("\x1b[31mred", "31mred"),
        ("a b", "a_b"),
        ("return", "return_"),
        ("x" * 99, "x" * LONGEST),
        ("_mask", None),
        ("action_mask", None),
        ("TimeLimit.truncated", None),
        ("\u4e2d", None),
        (7, None),
    ],
)
def test_a_name_is_text_for_tables_and_terminals(key, name):
    assert name_of(key) == name


@pytest.mark.parametrize(
    ("name", "summed"),
    [
        ("reward_ctrl", True),
        ("ctrl_cost", True),
        ("in_place_reward", True),
        ("distance_penalty", True),
        ("is_success", False),
        ("x_position", False),
        ("rewarding", False),
        ("costume", False),
    ],
)
def test_rewards_costs_and_penalties_are_summed(name, summed):
    assert is_summed(name) is summed


def test_an_episode_has_sums_and_last_values():
    info = EpisodeInfo()
    for t in range(3):
        info.add({"reward_a": np.float32(0.5), "x": t, "is_success": t == 2, "n": np.array([t], np.int8)})
    assert info.values() == {"reward_a": 1.5, "x": 2.0, "is_success": 1.0, "n": 2.0}
    info.begin()
    assert info.values() == {}


def test_what_is_not_one_finite_number_is_not_kept():
    info = EpisodeInfo()
    others = {"text": "1", "many": np.ones(2), "inner": {"x": 1}, "none": None, "list": [1.0], "1j": 1j}
    info.add({**others, "nan": np.nan, "inf": -np.inf, "huge": 10**400, "fine": 1})
    assert info.values() == {"fine": 1.0}


def test_an_environment_that_makes_up_names_does_not_fill_the_memory():
    info = EpisodeInfo()
    for i in range(5000):
        info.add({f"name{i}": 1.0, f"_{i}": 1.0})
    assert len(info.values()) == MOST + 1  # one more than are recorded, so that it is noticed
    assert len(info._slots) == 1000


def test_of_two_keys_with_one_name_the_first_counts():
    info = EpisodeInfo()
    info.add({"cost a": 1.0, "cost_a": 5.0})
    assert info.values() == {"cost_a": 1.0}


def test_simulations_have_sums_of_their_own_and_go_on_after_a_restore():
    info = BatchInfo(2)
    info.add({"reward_a": np.array([1.0, 2.0]), "x": np.array([3.0, 4.0])})
    info.begin(np.array([0]))
    info.add({"reward_a": np.array([10.0, 20.0]), "x": np.array([5.0, 6.0])})
    assert [info.of(0), info.of(1)] == [{"reward_a": 10.0, "x": 5.0}, {"reward_a": 22.0, "x": 6.0}]
    again = BatchInfo(2)
    again.restore(info.snapshot(), np.ones(2, bool))
    for each in (info, again):
        each.add({"reward_a": np.ones(2), "x": np.zeros(2)})
    assert again.of(1) == info.of(1) == {"reward_a": 23.0, "x": 0.0}


def test_sums_that_began_before_an_earlier_versions_checkpoint_are_not_known():
    info = BatchInfo(2)
    info.restore({}, np.array([True, False]))
    info.add({"reward_a": np.ones(2), "x": np.ones(2)})
    assert info.of(0) == {"x": 1.0}
    assert info.of(1) == {"reward_a": 1.0, "x": 1.0}
    info.begin(np.array([0]))
    info.add({"reward_a": np.ones(2), "x": np.ones(2)})
    assert info.of(0) == {"reward_a": 1.0, "x": 1.0}


@pytest.mark.parametrize("id", TASKS)
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_the_terms_of_each_task_are_gymnasiums(id):
    ours, theirs = make(id, 1), gym.make(id)
    ours.reset(np.ones(1, bool), [3])
    theirs.reset(seed=3)
    low, high = ours.spec.action_low, ours.spec.action_high
    rng, sums, total = np.random.default_rng(0), {}, 0.0
    for _ in range(30):
        action = rng.uniform(low, high, (1, len(low))).astype(np.float32)
        step = ours.step(action)
        *_, info = theirs.step(action[0])
        sums = {
            name: sums.get(name, 0.0) + float(value) for name, value in info.items() if name_is_term(name)
        }
        total += float(step.reward[0])
        if step.terminated.any():
            break
    found = ours.episode_info(0)
    for name, value in found.items():
        known = [n for n in (name, *EARLIER.get(name, ())) if n in sums]
        if known:
            assert value == pytest.approx(sums[known[0]], rel=1e-12)
    assert sums.keys() <= found.keys() or "-v4" in id or "Inverted" in id
    constant = 30 if id.startswith("HumanoidStandup") else total if id.startswith("Inverted") else 0
    if constant != total:
        assert sum(found.values()) + constant == pytest.approx(total, rel=1e-9)


def name_is_term(name):
    return is_summed(name) and name != "forward_reward"  # of -v4: reward_forward once more
