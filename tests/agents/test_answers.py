"""Values, distributions and log-probabilities of an agent: by hand, and as learning has them."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recall
from probes import first_state

from poise.agents.agent import Agent, AgentError
from poise.algo.normalize import Normalizer, RunningStats
from poise.config import PPO, Config, Policy, Value
from poise.envs import make
from poise.envs.packing import unpack_action
from poise.spec import Leaf, Part, Spec
from poise.store.checkpoint import Manifest, Trained
from poise.training.acting import ActionScale
from poise.training.loop import iterations, settle

BOX = Spec.flat("Box-v0", (1,), (2,), (-1.0, -4.0), (1.0, 2.0))
MASKED = Spec(
    "Masked-v1",
    (Leaf((), "vector", (1,)), Leaf((), "mask", (3,))),
    (Part((), (), sizes=(3,), first=(5,)),),
)
SEVERAL = Spec(
    "Several-v0",
    (Leaf((), "vector", (1,)),),
    (
        Part(("pick",), (2,), sizes=(2, 3), first=(0, 1)),
        Part(("arm", "aim"), (1, 2), (-1.0, -2.0), (1.0, 2.0)),
    ),
)


def untrained(spec, **groups):
    config = Config.from_dict(groups).settled(spec)
    return Agent(Trained.of(first_state(spec, config)), Manifest(spec.id, "gymnasium", 256, spec, config))


def by_hand(spec, outputs, *, value=2.0, deviation=3.0, **groups):
    """An agent whose policy and value function give the same for every observation."""
    config = Config.from_dict(groups).settled(spec)
    trained = jax.tree.map(lambda x: x * 0, Trained.of(first_state(spec, config)))
    normalizer = dataclasses.replace(
        Normalizer.empty(spec),
        ret=RunningStats(jnp.asarray(10.0), jnp.asarray(0.0), jnp.asarray(10.0 * deviation**2)),
    )
    trained = eqx.tree_at(
        lambda t: (t.policy.mlp.bias[-1], t.value.mlp.bias[-1], t.normalizer),
        trained,
        (jnp.asarray(outputs, jnp.float32), jnp.asarray([value]), normalizer),
    )
    return Agent(trained, Manifest(spec.id, "gymnasium", 256, spec, config))


GAUSSIAN = {"policy": {"std": "fixed", "std_init": 0.5}}


def test_a_gaussian_by_hand():
    agent = by_hand(BOX, [0.5, -0.25], **GAUSSIAN)
    found = agent.distribution([0.3])
    np.testing.assert_allclose(found.mean, [0.5, -0.25])
    np.testing.assert_allclose(found.std, [0.5, 0.5])
    np.testing.assert_allclose(found.mode, [0.5, -1 + 3 * -0.25])  # of [-4, 2]: center -1, half the range 3
    np.testing.assert_array_equal(found.mode, agent.act([0.3]))
    assert found.entropy == pytest.approx(2 * math.log(0.5) + 1 + math.log(2 * math.pi))
    assert found.probabilities is None
    # the action 0 and -1 is 0 and 0 in the policy's units: 1 deviation below its mean, and half of one above
    expected = -(1 + 0.25) / 2 - 2 * math.log(0.5) - math.log(2 * math.pi)
    assert agent.log_prob([0.3], [0.0, -1.0]) == pytest.approx(expected)


def test_an_action_at_a_bound_has_the_probability_of_all_that_is_clipped_to_it():
    agent = by_hand(BOX, [0.5, -0.25], **GAUSSIAN)
    second = math.log(math.erfc(1.5 / math.sqrt(2)) / 2)  # P(z < -1.5): -1 is 1.5 deviations below -0.25
    first = math.log(math.erfc(1 / math.sqrt(2)) / 2)  # P(z > 1)
    assert agent.log_prob([0.3], np.array([1.0, -4.0], np.float32)) == pytest.approx(first + second, rel=1e-5)
    sampled = agent.act(np.zeros((4000, 1)), sample=True, rng=np.random.default_rng(0))
    at_bounds = (sampled[:, 0] == 1) & (sampled[:, 1] == -4)
    assert at_bounds.mean() == pytest.approx(math.exp(first + second), abs=0.006)
    assert np.isfinite(agent.log_prob(np.zeros((4000, 1)), sampled)).all()


def test_a_dimension_whose_bounds_are_equal_changes_no_probability():
    spec = Spec.flat("Box-v0", (1,), (2,), (-1.0, 2.0), (1.0, 2.0))
    alone = by_hand(Spec.flat("Box-v0", (1,), (1,), (-1.0,), (1.0,)), [0.5], **GAUSSIAN)
    agent = by_hand(spec, [0.5, 0.1], **GAUSSIAN)
    assert agent.log_prob([0.0], [0.2, 2.0]) == pytest.approx(alone.log_prob([0.0], [0.2]))


@pytest.mark.parametrize("action", [[1.01, 0.0], [0.0, -4.1], [0.0, math.nan]])
def test_an_action_outside_of_the_bounds_is_refused(action):
    with pytest.raises(AgentError, match="is outside of the action space of Box-v0"):
        by_hand(BOX, [0.5, -0.25], **GAUSSIAN).log_prob([0.3], action)


def test_units_of_the_environment_without_action_normalization():
    agent = by_hand(BOX, [0.5, -0.25], **GAUSSIAN, normalize={"action": False})
    np.testing.assert_allclose(agent.distribution([0.3]).mode, [0.5, -0.25])
    expected = -2 * math.log(0.5) - math.log(2 * math.pi)
    assert agent.log_prob([0.3], [0.5, -0.25]) == pytest.approx(expected)


def test_probabilities_under_a_mask_by_hand():
    agent = by_hand(MASKED, np.log([1.0, 2.0, 5.0]))
    found = agent.distribution([0.0], action_mask=[1, 1, 0])
    np.testing.assert_allclose(found.probabilities, [1 / 3, 2 / 3, 0], rtol=1e-6)
    assert found.entropy == pytest.approx(math.log(3) - 2 / 3 * math.log(2))
    assert (found.mode, found.mean, found.std) == (6, None, None)
    assert type(found.mode) is int
    assert agent.log_prob([0.0], 6, action_mask=[1, 1, 0]) == pytest.approx(math.log(2 / 3))
    assert agent.log_prob([0.0], 7, action_mask=[1, 1, 0]) == -math.inf
    both = agent.log_prob([[0.0], [1.0]], [5, 7], action_mask=[[1, 1, 0], [1, 1, 1]])
    np.testing.assert_allclose(both, np.log([1 / 3, 5 / 8]), rtol=1e-6)
    for wrong in (4, 8, 5.5):
        with pytest.raises(AgentError, match="is outside of the action space of Masked-v1"):
            agent.log_prob([0.0], wrong, action_mask=[1, 1, 1])
    with pytest.raises(AgentError, match="give action_mask"):
        agent.distribution([0.0])
    assert agent.value([0.0]) == pytest.approx(6.0)  # it reads no mask


def test_several_parts_by_name_and_one_as_a_batch():
    agent = by_hand(SEVERAL, [0.5, -0.25, *np.log([1.0, 3.0, 1.0, 1.0, 2.0])], **GAUSSIAN)
    batch, one = agent.distribution([[0.0], [0.3]]), agent.distribution([0.3])
    assert batch.mean["arm.aim"].shape == (2, 1, 2)
    np.testing.assert_allclose(one.mean["arm.aim"], [[0.5, -0.25]])
    first, second = one.probabilities["pick"]
    np.testing.assert_allclose(first, [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(second, [0.25, 0.25, 0.5], rtol=1e-6)
    assert list(one.mode) == ["pick", "arm"]
    assert one.mode["pick"].tolist() == [1, 3]
    assert batch.entropy[1] == pytest.approx(one.entropy)
    action = {"pick": [1, 1], "arm": {"aim": [[0.5, -0.5]]}}
    expected = math.log(0.75 * 0.25) - 2 * math.log(0.5) - math.log(2 * math.pi)
    assert agent.log_prob([0.3], action) == pytest.approx(expected)
    with pytest.raises(AgentError, match=r"does not have the form of pick .*: 'arm'"):
        agent.log_prob([0.3], {"pick": [1, 1]})
    with pytest.raises(AgentError, match=r"arm.aim has shape \[2\], should be \[1, 2\]"):
        agent.log_prob([0.3], {"pick": [1, 1], "arm": {"aim": [0.5, -0.5]}})


def test_a_value_is_in_the_units_of_the_reward():
    agent = by_hand(BOX, [0.5, -0.25], value=2.0, deviation=3.0)
    assert agent.value([0.3]) == pytest.approx(6.0)
    np.testing.assert_allclose(agent.value(np.zeros((3, 1))), [6.0] * 3)
    raw = by_hand(BOX, [0.5, -0.25], value=2.0, deviation=3.0, normalize={"reward": False})
    assert raw.value([0.3]) == pytest.approx(2.0)
    with pytest.raises(AgentError, match=r"obs has shape \[2\]; Box-v0 has \[1\]"):
        agent.value([0.3, 0.4])


PLAIN = {"ppo": PPO(num_steps=16, num_epochs=2, minibatch_size=16, stagger_starts=False)}
REMEMBERING = {
    **PLAIN,
    "policy": Policy(memory="gru", memory_size=8),
    "value": Value(memory="lstm", memory_size=4),
}


@pytest.fixture(scope="module", params=["Pendulum-v1", "recall:Recall-v0"])
def second(request):
    """The agent after the first iteration, and the second iteration, in which it acted."""
    options = PLAIN if request.param == "Pendulum-v1" else REMEMBERING
    config = Config(num_envs=4, total_steps=2 * 64, **options)
    before, after = iterations(config, make(request.param, 4, "gymnasium"))
    spec = make(request.param, 1, "gymnasium").spec
    manifest = Manifest(request.param, "gymnasium", 64, spec, settle(config, spec, new=True))
    return Agent(Trained.of(before.state), manifest), after


def observed(rollout, t):
    """The observations of step t, as the environment returns them."""
    if not isinstance(rollout.obs, dict):
        return rollout.obs[t]
    names = {"image": "image", "numbers": "number", "action_mask": "action_mask"}
    return {names[name]: array[t] for name, array in rollout.obs.items()}


def test_answers_are_what_learning_computed_from_the_rollout(second):
    agent, progress = second
    rollout, batch, spec = progress.rollout, progress.prepared.batch, agent.spec
    scale = ActionScale(spec, normalize=True)
    for_value, for_log_prob, for_distribution = (agent.memory(4) for _ in range(3))
    values, log_probs, entropies, within = [], [], [], []
    for t in range(16):
        obs, begins = observed(rollout, t), None if rollout.begins is None else rollout.begins[t]
        action = unpack_action(spec, scale(rollout.action[t]))
        values.append(agent.value(obs, memory=for_value, episode_start=begins))
        given = {"memory": for_log_prob, "episode_start": begins}
        log_probs.append(agent.log_prob(obs, action, **given))
        found = agent.distribution(obs, memory=for_distribution, episode_start=begins)
        entropies.append(found.entropy)
        within.append(~scale.reached(rollout.action[t]).any(axis=1))
    deviation = float(agent._answers._unit)

    def by_step(items):
        return np.asarray(items).T if batch.begins is not None else np.asarray(items).reshape(16, 4)

    expected = by_step(batch.target - batch.advantage) * deviation
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4 * deviation)
    inside = np.array(within)
    assert inside.sum() > 20
    np.testing.assert_allclose(np.array(log_probs)[inside], by_step(batch.log_prob)[inside], atol=2e-5)
    entropy = jax.vmap(lambda d: d.entropy())(progress.prepared.distribution).reshape(16, 4)
    np.testing.assert_allclose(entropies, entropy, atol=2e-5)


def test_each_question_has_a_memory_of_its_own():
    networks = {
        "policy": {"memory": "gru", "memory_size": 8},
        "value": {"memory": "lstm", "memory_size": 6},
    }
    agent, env = untrained(make("recall:Recall-v0", 1).spec, **networks), recall.Recall()
    obs, _ = env.reset(seed=0)
    with pytest.raises(AgentError, match=r"give memory=agent.memory\(1\)"):
        agent.value(obs)
    acting, asking, valuing = agent.memory(), agent.memory(), agent.memory()
    for start in (True, False, False):
        action = agent.act(obs, memory=acting, episode_start=start)
        found = agent.distribution(obs, memory=asking, episode_start=start)
        value = agent.value(obs, memory=valuing, episode_start=start)
        np.testing.assert_allclose(found.mode["aim"], action["aim"], atol=1e-6)
        assert found.mode["pick"] == action["pick"]
        obs, *_ = env.step(action)
    assert value != agent.value(obs, memory=valuing)
    assert (acting.carry.shape, valuing.carry.shape) == ((1, 8), (1, 12))  # an LSTM carries h and c
    np.testing.assert_allclose(acting.carry, asking.carry, atol=1e-6)
    with pytest.raises(AgentError, match=r"belongs to agent.act, .* give agent.value a memory of its own"):
        agent.value(obs, memory=acting)
    with pytest.raises(AgentError, match=r"belongs to agent\.distribution"):
        agent.log_prob(obs, action, memory=asking)


def test_a_value_function_needs_only_what_it_sees():
    agent, (obs, _) = (
        untrained(make("recall:Recall-v0", 1).spec, value={"see": ("number",)}),
        recall.Recall().reset(seed=0),
    )
    assert agent.value({"number": obs["number"]}) == agent.value(obs)
    with pytest.raises(AgentError, match="obs has no 'number'; this value function reads number"):
        agent.value({"image": obs["image"]})
