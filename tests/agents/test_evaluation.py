import numpy as np
import pytest
from probes import BySeed, Counter, still_actor

from poise.agents.evaluation import Evaluation, evaluate
from poise.envs import make
from poise.seeds import Stream, episode_seed
from poise.training.acting import ActionScale


@pytest.mark.parametrize("lanes", [1, 3, 7, 20])
def test_the_list_of_episodes_is_the_same_at_any_number_of_environments(lanes):
    env = BySeed([1] * lanes)
    result = evaluate(env, still_actor(env.spec), ActionScale(env.spec, normalize=True), seed=5, episodes=7)
    expected = [episode_seed(5, Stream.EVALUATION, 0, i) % 1000 % 10 + 1 for i in range(7)]
    assert result.length.tolist() == expected
    assert result.episodic_return.tolist() == [
        n * (n + 1) / 2 for n in expected
    ]  # short ones not counted first


def test_an_episode_without_end_is_cut_off_and_counted(monkeypatch):
    monkeypatch.setattr("poise.agents.evaluation.LONGEST", 20)
    env = Counter([3, 0])  # the second environment's episodes never end
    result = evaluate(env, still_actor(env.spec), ActionScale(env.spec, normalize=True), seed=0, episodes=6)
    assert result.num_cut == 1
    assert sorted(result.length.tolist()) == [3, 3, 3, 3, 3, 20]


def test_the_interval_of_the_mean_by_hand():
    result = Evaluation(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5, int))
    half = 2.776445 * np.sqrt(2.5) / np.sqrt(5)  # Student's t, 4 degrees of freedom
    assert result.mean == 3
    assert result.std == pytest.approx(np.sqrt(2.5))
    assert result.interval == pytest.approx((3 - half, 3 + half), rel=1e-5)


def test_one_episode_has_no_interval():
    summary = Evaluation(np.array([1.0]), np.array([3])).summary()
    score = {"mean": 1.0, "std": 0.0, "low": None, "high": None, "episodes": 1, "cut": 0}
    assert summary == score | {"longest": 10_000, "stopped": None, "sampled": False}


def test_every_backend_gives_the_same_score_on_shared_episodes():
    scores = []
    for backend, lanes in (("mujoco", 8), ("gymnasium", 3)):
        env = make("Reacher-v4", lanes, backend)
        scores.append(
            evaluate(env, still_actor(env.spec), ActionScale(env.spec, normalize=True), seed=0, episodes=8)
        )
    np.testing.assert_allclose(scores[0].episodic_return, scores[1].episodic_return, atol=1e-6)
