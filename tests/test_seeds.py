import jax
import numpy as np
from probes import NativeCounter, first_state

from poise.config import PPO, Config
from poise.envs.native.vector import NativeEnv
from poise.seeds import Stream, episode_seed, stream_key
from poise.training.compiled import NativeCollector


def test_no_key_serves_two_purposes():
    config = Config(total_steps=32, num_envs=2, ppo=PPO(num_steps=8, num_epochs=2, minibatch_size=8))
    env = NativeEnv(NativeCounter(3, None), 2)
    state, collector = first_state(env.spec, config), NativeCollector(env, config)

    def below(key, depth):
        """The first descendants of a key, as split or fold_in would derive them."""
        if depth == 0:
            return [key]
        return [k for i in range(4) for k in below(jax.random.fold_in(key, i), depth - 1)]

    branches = {
        "policy": below(stream_key(0, Stream.POLICY), 1),
        "value": below(stream_key(0, Stream.VALUE), 1),
        "shuffles": below(state.key, 2),
        "starts": below(collector.episode_key, 2),
        "noise": below(collector.noise_key, 1),
        "listed episodes": below(stream_key(0, Stream.LISTING), 1),
    }
    drawn = [tuple(jax.random.key_data(k).tolist()) for keys in branches.values() for k in keys]
    assert len(set(drawn)) == len(drawn) == 4 + 4 + 16 + 16 + 4 + 4


def test_the_first_noise_is_not_made_of_the_bits_of_the_first_weights():
    config = Config(total_steps=2048, num_envs=16, ppo=PPO(num_steps=128))
    env = NativeEnv(NativeCounter(0, None), 16)
    state = first_state(env.spec, config)
    rollout = NativeCollector(env, config).collect(state.learner.policy, state.normalizer, 0).rollout
    noise = np.asarray(rollout.action).ravel()  # the first mean is almost 0, the deviation 1
    keys = [stream_key(0, s) for s in (Stream.POLICY, Stream.VALUE)]
    for key in [*keys, jax.random.key(0), state.key]:
        for k in [key, *jax.random.split(key, 4)]:
            drawn = np.asarray(jax.random.normal(k, noise.shape))
            assert abs(np.corrcoef(noise, drawn)[0, 1]) < 0.1


def test_an_episode_seed_belongs_to_one_place_and_purpose():
    streams = (Stream.TRAINING, Stream.EVALUATION)
    places = [(s, stream, n, i) for s in (0, 1) for stream in streams for n in (0, 1) for i in (0, 1)]
    assert len({episode_seed(*place) for place in places}) == 16
    assert all(episode_seed(*place) % 4 == place[1] for place in places)  # never the seed of another purpose
