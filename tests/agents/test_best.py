"""Which agents are kept, and which is called the best."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from probes import first_state

from poise import envs
from poise.agents import best
from poise.agents.best import Candidate, Podium, choose
from poise.agents.evaluation import UNLIMITED
from poise.config import Config
from poise.envs import make
from poise.runs.setup import Past
from poise.runs.writers.checkpoints import BestAgents
from poise.seeds import Stream, episode_seed
from poise.spec import Episode
from poise.store.checkpoint import Trained


def progress(steps, *returns):
    episodes = [Episode(0, i, steps, r, 1, True) for i, r in enumerate(returns)]
    return steps, episodes, Trained.of(STATE)


STATE = first_state(make("CartPole-v1", 1).spec, Config())


def test_the_podium_by_hand():
    podium = Podium(2000)  # slices of 100 steps
    for steps, value in [(40, 5.0), (100, 8.0), (140, 1.0), (240, 9.0), (340, 2.0), (440, 20.0)]:
        podium._recent.clear()  # each by itself
        podium.consider(*progress(steps, value, value))
    # 100 beats 40 in the first slice; 240 and 440 lead theirs; 140 and 340 have no place
    assert [(c.steps, c.episodic_return) for c in podium.candidates] == [(440, 20.0), (240, 9.0), (100, 8.0)]


def test_the_return_is_the_mean_of_the_last_twenty_episodes():
    podium = Podium(2000)
    podium.consider(*progress(10, *range(30)))
    assert podium.candidates[0].episodic_return == np.mean(range(10, 30))
    podium.consider(*progress(20))  # no episode ended: nothing new is known
    assert [c.steps for c in podium.candidates] == [10]


@pytest.mark.parametrize("blocks", [[10, 10], [4, 6, 9, 1], [8, 2, 3, 3, 4]])
def test_how_iterations_are_blocks_does_not_decide_who_is_a_candidate(blocks):
    """Iterations of 10 steps; an episode ends in the 5th and in the 12th."""
    setup = SimpleNamespace(total_steps=2000, config=SimpleNamespace(rollout_size=10))
    agents, done = BestAgents(setup, Past()), 0
    for size in blocks:
        ended = [Episode(0, 0, 10 * i, float(i), 1, True) for i in (5, 12) if done < i <= done + size]
        done += size
        agents.write(SimpleNamespace(steps=10 * done, episodes=ended, state=STATE, in_block=True), None)
    assert [(c.steps, c.episodic_return) for c in agents.candidates] == [(200, 8.5), (100, 5.0)]


def test_a_podium_goes_on_with_the_episodes_before_it():
    past = [Episode(0, 0, 5, 4.0, 1, True)]
    podium = Podium(2000, (), past)
    podium.consider(*progress(10, 2.0))
    assert podium.candidates[0].episodic_return == 3.0


@pytest.mark.parametrize(("scores", "chosen"), [([1, 3, 2], 1), ([2, 2, 2], 2), ([5, 1, 5], 2)])
def test_the_highest_score_is_chosen_and_of_equal_ones_the_last(scores, chosen, monkeypatch):
    seen = []

    def evaluate(env, actor, scale, **options):
        seen.append(options)
        return SimpleNamespace(episodic_return=np.full(4, scores[len(seen) - 1]))

    monkeypatch.setattr(best, "evaluate", evaluate)
    agent = Trained.of(STATE)
    candidates = [Candidate(i, 0.0, agent) for i in range(3)]
    found = envs.resolve("CartPole-v1")
    spec = make("CartPole-v1", 1).spec
    assert choose(found, spec, Config(seed=7), candidates, episodes=4) == (chosen, 4)
    assert seen == [{"seed": 7, "episodes": 4, "stream": Stream.RESCORING, "limits": UNLIMITED}] * 3


def test_all_are_compared_on_the_episodes_that_each_has_played(monkeypatch):
    """The second stops early, where its steps are used up: what the others do later does not count."""
    returns = [[1.0, 1.0, 9.0, 9.0], [2.0, 2.0], [1.5, 1.5]]
    asked = []

    def evaluate(env, actor, scale, *, episodes, **options):
        asked.append(episodes)
        return SimpleNamespace(episodic_return=np.array(returns[len(asked) - 1]))

    monkeypatch.setattr(best, "evaluate", evaluate)
    candidates = [Candidate(i, 0.0, Trained.of(STATE)) for i in range(3)]
    spec = make("CartPole-v1", 1).spec
    assert choose(envs.resolve("CartPole-v1"), spec, Config(), candidates, episodes=4) == (1, 2)
    assert asked == [4, 4, 2]


def test_a_better_agent_is_found_by_playing():
    """Of an agent that always pushes one way and one that follows the pole, the second."""
    spec = make("CartPole-v1", 1).spec
    good = jax.tree.map(lambda x: x, STATE)
    weights = good.learner.policy.mlp
    follow = np.zeros(np.shape(weights.weight[0]), np.float32)
    follow[2, 0], follow[3, 0] = 1.0, 1.0  # angle and its rate
    second = np.zeros(np.shape(weights.weight[1]), np.float32)
    second[0, 0] = 1.0
    last = np.zeros(np.shape(weights.weight[2]), np.float32)
    last[0] = [-1.0, 1.0]
    import equinox as eqx

    def with_weights(first):
        agent = Trained.of(STATE)
        return eqx.tree_at(lambda a: a.policy.mlp.weight, agent, (first, second, last))

    still, following = (with_weights(w) for w in (np.zeros_like(follow), follow))
    candidates = [Candidate(1, 0.0, following), Candidate(2, 0.0, still)]
    assert choose(envs.resolve("CartPole-v1"), spec, Config(), candidates, episodes=5).place == 0


def test_no_two_purposes_share_an_episode():
    purposes = [Stream.TRAINING, Stream.EVALUATION, Stream.RESCORING, Stream.GREEDY]
    seeds = [{episode_seed(0, p, 0, i) for i in range(500)} for p in purposes]
    assert len(set().union(*seeds)) == sum(len(s) for s in seeds)
    assert {s & 3 for group in seeds for s in group} == {0, 1, 2, 3}
