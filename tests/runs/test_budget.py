"""What the score at the end may cost: by steps, alike on every machine; by seconds as a safety net only."""

import numpy as np
import pytest
from probes import BySeed, Counter, still_actor

from poise.agents.evaluation import Limits, evaluate, evaluation_lanes
from poise.runs.budget import PATIENCE, make_budget
from poise.runs.options import Options
from poise.seeds import Stream, episode_seed
from poise.spec import Spec
from poise.training.acting import ActionScale


def played(env, episodes=7, **limits):
    scale = ActionScale(env.spec, normalize=True)
    return evaluate(env, still_actor(env.spec), scale, seed=5, episodes=episodes, limits=Limits(**limits))


def lengths(count):
    return [episode_seed(5, Stream.EVALUATION, 0, i) % 1000 % 10 + 1 for i in range(count)]


@pytest.mark.parametrize("lanes", [1, 2, 5, 7, 20])
@pytest.mark.parametrize("steps", [1, 9, 20, 1000])
def test_the_steps_decide_which_episodes_count_and_the_lanes_do_not(steps, lanes):
    """An episode counts while those before it had fewer steps, so no short one counts more often."""
    each = lengths(7)
    count = next((n for n in range(1, 8) if sum(each[:n]) >= steps), 7)
    result = played(BySeed([1] * lanes), steps=steps)
    assert result.length.tolist() == each[:count]
    assert result.episodic_return.tolist() == [n * (n + 1) / 2 for n in each[:count]]
    assert result.stopped == (None if count == 7 else "steps")
    assert result.summary()["episodes"] == count


def test_after_the_seconds_no_episode_begins_and_each_that_began_counts():
    result = played(BySeed([1] * 3), seconds=0.0)
    # what has begun is known when the first ends: three of the list, and they are played to their ends
    assert result.length.tolist() == lengths(3)
    assert result.stopped == "seconds"


def test_an_endless_episode_is_cut_at_its_limit():
    result = played(Counter([0]), episodes=2, longest=6)
    assert (result.length.tolist(), result.num_cut, result.longest) == ([6, 6], 2, 6)


def test_only_cuts_of_episodes_that_count_are_counted():
    result = played(Counter([0, 0, 0]), episodes=3, longest=6, steps=6)
    assert (result.length.tolist(), result.num_cut) == ([6], 1)


def test_episodes_that_ended_before_an_interrupt_are_kept():
    class Stops(Counter):
        def step(self, action):
            if len(self.actions) == 7:
                raise KeyboardInterrupt
            return super().step(action)

    kept, seen = [], []
    with pytest.raises(KeyboardInterrupt):
        played(Stops([3]), keep=kept.append, watch=lambda *told: seen.append(told))
    assert kept[0].length.tolist() == [3, 3]
    assert kept[0].stopped == "interrupt"
    assert seen[-1] == (2, 7, 7)  # two have ended, and the third has one step


def test_an_episode_that_is_interrupted_in_its_last_step_is_not_kept():
    def watch(ended, episodes, steps):
        if steps == 21:
            raise KeyboardInterrupt

    kept = []
    with pytest.raises(KeyboardInterrupt):
        played(Counter([3]), episodes=7, watch=watch, keep=kept.append)
    assert kept[0].length.tolist() == [3] * 6


def budget(limit, backend, total, trained=0, seconds=0.0, **options):
    spec = Spec.flat("Some-v0", (1,), (1,), (-1.0,), (1.0,), time_limit=limit)
    chosen = Options(**options)
    return make_budget(
        spec, backend, total, chosen, rivals=4, trained_longest=trained, trained_seconds=seconds
    )


@pytest.mark.parametrize(
    ("limit", "backend"), [(1000, "mujoco"), (50, "mujoco"), (200, "native"), (500, "gymnasium")]
)
@pytest.mark.parametrize("total", [2_000, 100_000, 1_000_000])
def test_the_usual_tasks_keep_their_100_episodes(limit, backend, total):
    """InvertedPendulum, Reacher, Pendulum, CartPole: also where each episode lasts to its limit."""
    found = budget(limit, backend, total)
    assert found.score_steps > 99 * limit
    assert found.longest == limit
    assert evaluation_lanes(backend, 100, found.score) == evaluation_lanes(backend, 100)


@pytest.mark.parametrize("total", [100_000, 1_000_000])
def test_the_scores_take_a_quarter_of_the_steps_if_no_episode_ends(total):
    found = budget(None, "gymnasium", total)
    assert found.total_steps() <= total / 4
    assert found.score_steps // found.longest >= 10


def test_a_standing_walker_costs_less_than_its_training():
    """BipedalWalker-v3, 300,000 steps: 328 episodes of 1,600 steps were 524,800."""
    assert budget(1600, "gymnasium", 300_000).total_steps() == 132_000


def test_an_environment_without_limit_whose_episodes_end_keeps_100_of_them():
    found = budget(None, "gymnasium", 3_000, trained=20)
    assert found.score_steps >= 2_000
    assert found.longest >= 20


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, PATIENCE),
        ({"trained": 1000.0}, 250.0),
        ({"eval_max_steps": 1000}, None),
        ({"eval_max_steps": 1000, "eval_max_seconds": 7.0}, 7.0),
        ({"eval_max_seconds": 7.0}, 7.0),
    ],
)
def test_the_seconds_are_a_quarter_of_the_training_or_the_option(given, seconds):
    trained = given.pop("trained", 1.0)
    assert budget(500, "gymnasium", 100_000, seconds=trained, **given).seconds == seconds


def test_the_steps_asked_for_are_divided_among_the_scores():
    found = budget(500, "gymnasium", 100_000, eval_max_steps=10_000)
    assert (found.score_steps, found.rival_steps, found.total_steps()) == (4000, 500, 10_000)
    shares = [limits.steps for limits in (found.score, found.rival, found.best)]
    assert shares == [4000, 500, 4000]
    assert np.isclose(sum(x.seconds or 0 for x in (found.score, found.best)), 0)
