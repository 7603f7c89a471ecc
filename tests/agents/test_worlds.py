"""Scores on environments that a program has made, sampled scores, and what is told of each step."""

import io
import json

import gymnasium as gym
import masked
import numpy as np
import pytest
import worldly
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_answers import by_hand, untrained

import poise
from poise.agents.evaluation import Noise
from poise.cli.agents import evaluate
from poise.envs import EnvError, make
from poise.envs.checking import EnvFault
from poise.health.telling import score_lines
from poise.seeds import Stream, episode_seed
from poise.spec import Spec

SPEC = Spec.flat("Walk-v0", (2,), (1,), (-1.0,), (1.0,))
GAUSSIAN = {"policy": {"std": "fixed", "std_init": 0.5}}


class Walk(gym.Env):
    """Observes the seed's length, 1 to 10, and the step; the reward is the step plus the action."""

    def __init__(self, *, spoiled=False):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        self.spoiled, self.closed = spoiled, False

    def reset(self, *, seed=None, options=None):
        assert seed is not None or self.step_number == self.length  # only an autoreset has no seed
        self.length, self.step_number = (seed or 0) % 1000 % 10 + 1, 0
        return np.array([self.length, 0], np.float32), {}

    def step(self, action):
        self.step_number += 1
        reward = np.nan if self.spoiled else self.step_number + float(action[0])
        over = self.step_number == self.length
        obs = np.array([self.length, self.step_number], np.float32)
        return obs, reward, over, False, {"place": self.step_number}

    def close(self):
        self.closed = True


def lengths(episodes, seed=0):
    return [episode_seed(seed, Stream.EVALUATION, 0, i) % 1000 % 10 + 1 for i in range(episodes)]


@pytest.fixture(scope="module")
def agent():
    """Acts 0.25, with a deviation of 0.5."""
    return by_hand(SPEC, [0.25], **GAUSSIAN)


def vector(mode, lanes=3):
    return SyncVectorEnv([Walk] * lanes, autoreset_mode=mode)


WORLDS = {
    "an object": Walk,
    "a function": lambda: Walk,
    "a wrapper": lambda: gym.wrappers.RecordEpisodeStatistics(Walk()),
    "reset by the caller": lambda: vector(AutoresetMode.DISABLED),
    "reset in the next step": lambda: vector(AutoresetMode.NEXT_STEP),
    "reset in the same step": lambda: vector(AutoresetMode.SAME_STEP),
    "wrapped vector": lambda: gym.wrappers.vector.RecordEpisodeStatistics(vector(AutoresetMode.NEXT_STEP)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_every_kind_of_object_plays_the_episodes_of_the_list(agent, name):
    steps = []
    score = agent.evaluate(7, seed=5, env=WORLDS[name](), on_step=steps.append)
    assert score.length.tolist() == lengths(7, seed=5)
    expected = [n * (n + 1) / 2 + 0.25 * n for n in score.length.tolist()]
    assert score.episodic_return.tolist() == expected
    assert (score.num_cut, score.sampled) == (0, False)
    assert len(steps) == sum(score.length)
    for each in steps:  # true successors, also where the environment was reset in the same step
        length, last = score.length[each.episode], each.step + 1 == score.length[each.episode]
        assert each.obs.tolist() == [length, each.step]
        assert each.next_obs.tolist() == [length, each.step + 1]
        assert each.action.tolist() == [0.25]
        assert (each.reward, each.terminated, each.truncated) == (each.step + 1.25, last, False)
        assert each.info["place"] == each.step + 1


def test_an_object_stays_open_and_what_a_function_makes_is_closed(agent):
    env, made = Walk(), []
    agent.evaluate(1, env=env)
    assert not env.closed

    def new():
        made.append(Walk())
        return made[-1]

    agent.evaluate(2, env=new)
    assert [each.closed for each in made] == [True]


def test_one_environment_after_another_gives_what_the_name_gives():
    """Also those of poise.make; with masks in a method and in the info."""
    agent = untrained(make("masked:Masked-v0", 1).spec)
    expected = agent.evaluate(3, env="masked:Masked-v0", sample=True).episodic_return

    class Told(masked.Masked):
        action_masks = None

        def reset(self, **options):
            obs, _ = super().reset(**options)
            return obs, {"action_mask": self.mask.astype(np.int8)}

        def step(self, action):
            *facts, _ = super().step(action)
            return *facts, {"action_mask": self.mask.astype(np.int8)}

    def limited(kind):
        return gym.wrappers.TimeLimit(kind(), 100)

    worlds = [gym.make("Masked-v0"), limited(Told), make("masked:Masked-v0", 2)]
    worlds += [SyncVectorEnv([lambda kind=kind: limited(kind)] * 2) for kind in (masked.Masked, Told)]
    for world in worlds:
        score = agent.evaluate(3, env=world, sample=True)
        np.testing.assert_array_equal(score.episodic_return, expected)


def test_sampled_returns_follow_from_the_seed_at_any_number_of_environments(agent):
    first = agent.evaluate(6, env=Walk, sample=True)
    assert first.sampled
    assert score_lines(first)[0].startswith("sampled return ")
    for lanes in (2, 5):
        again = agent.evaluate(6, env=vector(AutoresetMode.DISABLED, lanes), sample=True)
        np.testing.assert_allclose(again.episodic_return, first.episodic_return, rtol=1e-6)
    greedy = agent.evaluate(6, env=Walk).episodic_return
    assert not np.isclose(first.episodic_return, greedy).any()
    assert not np.array_equal(agent.evaluate(6, seed=1, env=Walk, sample=True).length, first.length)


def test_the_actions_of_a_sampled_score_have_the_policys_distribution(agent):
    actions = []
    agent.evaluate(200, env=lambda: vector(AutoresetMode.DISABLED, 20), sample=True, on_step=actions.append)
    drawn = np.array([each.action[0] for each in actions])
    found = agent.distribution([1.0, 0.0])
    expected = np.clip(np.random.default_rng(0).normal(found.mean, found.std, 100_000), -1, 1)
    assert len(drawn) > 800
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.05)
    assert drawn.std() == pytest.approx(expected.std(), abs=0.03)


def test_the_noise_of_an_episode_does_not_depend_on_its_lane():
    one, three = Noise(SPEC, 1), Noise(SPEC, 3)
    one.begin(np.array([True]), [7])
    three.begin(np.ones(3, bool), [5, 6, 7])
    np.testing.assert_array_equal(one.draw()[0], three.draw()[2])
    three.begin(np.array([True, False, False]), [7])
    one.begin(np.array([True]), [7])
    assert one.draw()[0] == three.draw()[0]
    assert one.draw()[0] != three.draw()[2]


def test_what_is_no_environment_is_refused(agent):
    for wrong in (3, {}, lambda: "Walk-v0"):
        with pytest.raises(EnvError, match="must be a name, an environment or a vector environment"):
            agent.evaluate(1, env=wrong)
    with pytest.raises(
        EnvError, match=r"\(JaxWalk\): must be .* JaxWalk is an environment in JAX: give the cl"
    ):
        agent.evaluate(1, env=lambda: worldly.JaxWalk())
    other = gym.make("CartPole-v1")
    with pytest.raises(EnvError, match=r"CartPole-v1 has observations: 4; the agent was trained with: 2"):
        agent.evaluate(1, env=other)
    with pytest.raises(EnvError, match="CartPole-v1 has observations: 4"):
        agent.evaluate(1, env=gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"))
    whole = gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    with pytest.raises(EnvError, match="CartPoleVectorEnv does not reset its environments one by one"):
        agent.evaluate(1, env=whole)


def test_a_reward_that_is_no_number_is_named(agent):
    with pytest.raises(EnvFault, match=r"Walk, environment 0, .* step 1: reward is nan"):
        agent.evaluate(1, env=Walk(spoiled=True))
    with pytest.raises(EnvFault, match="SyncVectorEnv: reward is nan"):
        agent.evaluate(1, env=SyncVectorEnv([lambda: Walk(spoiled=True)]))


class Broken(Walk):
    """Observes NaN, or raises, in its second step."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def step(self, action):
        obs, *rest = super().step(action)
        if self.step_number == 2:
            if self.error is not None:
                raise self.error
            obs[1] = np.nan
        return obs, *rest


def test_faults_of_a_vector_environment_are_named(agent):
    for error, message in [(None, "obs is nan"), (SystemExit(3), r"step raised SystemExit: 3")]:
        with pytest.raises(EnvFault, match=f"SyncVectorEnv: {message}"):
            agent.evaluate(5, env=SyncVectorEnv([lambda error=error: Broken(error)]))


def test_the_command_scores_sampled_actions(tmp_path, capsys):
    run = poise.train(
        "CartPole-v1",
        out=tmp_path,
        file=io.StringIO(),
        total_steps=128,
        num_envs=2,
        ppo={"num_steps": 64, "num_epochs": 1},
        video=False,
        evaluate=False,
    )
    evaluate(run.folder, 10, sample=True, json_=True)
    shown = json.loads(capsys.readouterr().out)
    expected = poise.load(run.folder).evaluate(10, sample=True)
    assert shown == expected.summary()
    assert shown["sampled"]
    evaluate(run.folder, 10)
    greedy = capsys.readouterr().out
    assert greedy.startswith("greedy return ")
