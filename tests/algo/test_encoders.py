"""Encoders: convolutions against XLA's, images in every layout, what a network sees, masks and layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poise.algo.distributions import Categorical, Choices, DiagGaussian, Joint, masked
from poise.algo.encoders import MLP, Convolution, ImageEncoder, Pixels, unit_pixels
from poise.algo.networks import Policy as PolicyNetwork
from poise.algo.networks import ValueFunction
from poise.algo.normalize import Normalizer
from poise.config import Config, ConfigError, Policy, Value
from poise.spec import Leaf, Part, Spec

KEY = jax.random.key(0)
IMAGE = Leaf(("camera",), "image", (9, 8, 3), high=255.0, channels=2)
DIRECTION = Leaf(("direction",), "one_hot", (), (4,), (0,))
SPEED = Leaf(("speed",), "vector", (2,))
BOX, PICK = Part(("aim",), (2,), (-1.0, -1.0), (1.0, 1.0)), Part(("pick",), (), sizes=(3,), first=(0,))
SEEN = Spec("Seen", (IMAGE, DIRECTION, SPEED), (BOX, PICK))


@pytest.mark.parametrize(
    ("side", "stride", "keeps_size"), [(3, 1, True), (3, 1, False), (4, 2, False), (8, 4, False)]
)
def test_a_convolution_equals_that_of_xla(side, stride, keeps_size):
    convolution = Convolution(side, 5, 7, stride=stride, keeps_size=keeps_size, key=KEY)
    x = jax.random.normal(jax.random.key(1), (19, 22, 5))
    dimensions = ("NHWC", "HWIO", "NHWC")
    padding = "SAME" if keeps_size else "VALID"
    expected = jax.lax.conv_general_dilated(
        x[None], convolution.weight, (stride, stride), padding, dimension_numbers=dimensions
    )
    np.testing.assert_allclose(convolution(x), expected[0], atol=1e-5)


@pytest.mark.parametrize(("channels", "shape"), [(2, (9, 8, 3)), (0, (3, 9, 8))])
def test_an_encoder_reads_channels_first_and_last_alike(channels, shape):
    rng = np.random.default_rng(0)
    last = rng.integers(0, 256, (9, 8, 3)).astype(np.uint8)
    pixels = last if channels == 2 else np.moveaxis(last, -1, 0)
    encoder = ImageEncoder(Leaf((), "image", shape, high=255.0, channels=channels), "auto", key=KEY)
    statistics = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, 0.6, 0.7])
    expected = ImageEncoder(Leaf((), "image", (9, 8, 3), high=255.0, channels=2), "auto", key=KEY)
    np.testing.assert_allclose(
        encoder(Pixels(pixels, *statistics)), expected(Pixels(last, *statistics)), atol=1e-6
    )


def test_pixels_are_scaled_by_the_bounds_of_their_space():
    leaf = Leaf((), "image", (1, 2, 1), low=50.0, high=150.0, channels=2)
    assert unit_pixels(leaf, jnp.array([[[50], [100]]], jnp.uint8)).ravel().tolist() == [0.0, 0.5]
    gray = Leaf((), "image", (1, 2), high=2.0)
    assert unit_pixels(gray, jnp.array([[1, 2]], jnp.uint8)).shape == (1, 2, 1)


@pytest.mark.parametrize(
    ("kind", "shape", "features"),
    [
        ("small", (7, 7, 3), 128),
        ("nature", (84, 84, 4), 512),
        ("impala", (20, 20, 3), 256),
        ("flat", (6, 6, 1), 36),
    ],
)
def test_every_kind_of_encoder_gives_its_number_of_features(kind, shape, features):
    encoder = ImageEncoder(Leaf((), "image", shape, channels=2), kind, key=KEY)
    image = Pixels(np.ones(shape, np.float32), jnp.zeros(shape[2]), jnp.ones(shape[2]))
    assert encoder(image).shape == (encoder.num_features,) == (features,)


@pytest.mark.parametrize(("side", "kind"), [(35, "small"), (36, "nature")])
def test_the_size_of_an_image_chooses_its_encoder(side, kind):
    assert ImageEncoder(Leaf((), "image", (side, side, 1), channels=2), "auto", key=KEY).kind == kind


def observation(rows=()):
    rng = np.random.default_rng(1)
    camera = rng.integers(0, 256, (*rows, 9, 8, 3)).astype(np.uint8)
    return {"numbers": jnp.asarray(rng.normal(size=(*rows, 6)), jnp.float32), "camera": jnp.asarray(camera)}


def test_images_and_one_hot_numbers_are_normalized_as_documented():
    """Pixels by channel, numbers by entry, and the zeros and ones of a one-hot leaf not at all."""
    obs = observation((50,))
    after = Normalizer.empty(SEEN).observe(obs)
    channel = np.asarray(obs["camera"], float)[..., 1] / 255
    assert after.images["camera"].mean[1] == pytest.approx(channel.mean(), abs=1e-5)
    assert after.images["camera"].var[1] == pytest.approx(channel.var(), rel=1e-3)
    one = jax.tree.map(lambda x: x[0], obs)
    scaled = after.scale(one, enabled=True, bound=10.0)
    np.testing.assert_array_equal(scaled["numbers"][:4], one["numbers"][:4])
    speed = np.asarray(obs["numbers"], float)[:, 4]
    expected = (speed[0] - speed.mean()) / np.sqrt(speed.var() + 1e-8)
    assert scaled["numbers"][4] == pytest.approx(expected, abs=1e-5)
    assert scaled["camera"].data.dtype == np.uint8  # stays bytes until a network reads it
    raw = after.scale(one, enabled=False, bound=None)
    assert (raw["camera"].mean.tolist(), raw["camera"].std.tolist()) == ([0] * 3, [1] * 3)


def scaled():
    obs = observation()
    return Normalizer.empty(SEEN).scale(obs, enabled=True, bound=10.0)


def test_a_network_sees_the_leaves_that_it_is_told_to():
    """An asymmetric critic: what only one of the networks sees does not change the other's output."""
    policy = PolicyNetwork(SEEN, Policy(see=("direction",), std_init=1.0), key=KEY)
    value = ValueFunction(SEEN, Value(see=("speed", "camera")), key=KEY)
    assert (policy.encoder.num_features, value.encoder.num_features) == (4, 130)
    obs = scaled()
    other = {**obs, "numbers": obs["numbers"].at[4:].set(9.0)}
    np.testing.assert_array_equal(policy(obs).box.mean, policy(other).box.mean)
    assert value(obs) != value(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"see": ("sped",)}, r"policy.see = 'sped': Seen has no such observation; it has camera, direction"),
        ({"see": ("speed", "camera", "direction")}, "has no effect, these are all observations"),
        ({"memory_size": 8}, "policy.memory_size = 8: has no effect with policy.memory = none"),
        ({"residual": True, "hidden": (8, 16)}, "two or more hidden layers of the same width"),
    ],
)
def test_options_that_cannot_apply_are_refused_with_the_reason(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config(policy=Policy(**changes)).check_against(SEEN)


def test_an_encoder_of_images_is_refused_where_there_are_none():
    plain = Spec.flat("Plain", (3,), num_choices=2)
    with pytest.raises(
        ConfigError, match=r"value.images = 'impala': has no effect on Plain, which has no images"
    ):
        Config(value=Value(images="impala")).check_against(plain)


def test_layer_norm_and_residual_layers_by_hand():
    settings = Policy(hidden=(4, 4), layer_norm=True, residual=True, activation="relu", init="uniform")
    mlp = MLP((3, 4, 4, 2), settings, last_gain=1.0, key=KEY)
    x = np.array([0.3, -1.0, 2.0])
    weights = [np.asarray(w, float) for w in mlp.weight]
    biases = [np.asarray(b, float) for b in mlp.bias]

    def norm(x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    first = x @ weights[0] + biases[0]
    second = first + np.maximum(norm(first), 0) @ weights[1] + biases[1]
    expected = np.maximum(norm(second), 0) @ weights[2] + biases[2]
    np.testing.assert_allclose(mlp(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


def test_choices_are_independent_categoricals():
    logits = jnp.array([0.1, 0.7, -0.3, 0.2, 1.1])
    choices, alone = Choices(logits, (2, 3)), (Categorical(logits[:2]), Categorical(logits[2:]))
    action = jnp.array([1, 2])
    assert choices.log_prob(action) == pytest.approx(
        float(alone[0].log_prob(action[0]) + alone[1].log_prob(action[1]))
    )
    assert choices.entropy() == pytest.approx(float(alone[0].entropy() + alone[1].entropy()))
    noise = jax.random.gumbel(KEY, (5,))
    assert choices.draw(noise).tolist() == [int(alone[0].draw(noise[:2])), int(alone[1].draw(noise[2:]))]


def test_a_joint_distribution_is_the_sum_of_its_parts():
    box, choices = DiagGaussian(jnp.array([0.5]), jnp.array([2.0])), Choices(jnp.array([0.3, -0.2]), (2,))
    joint = Joint(box, choices)
    row = jnp.array([1.5, 1.0])
    expected = box.log_prob(row[:1]) + choices.log_prob(jnp.array([1]))
    assert joint.log_prob(row) == pytest.approx(float(expected))
    assert joint.entropy() == pytest.approx(float(box.entropy() + choices.entropy()))


def test_a_masked_value_has_probability_0_and_no_part_in_the_entropy():
    """By hand: two allowed values with equal logits have probability 1/2 and entropy log 2."""
    distribution = Categorical(masked(jnp.array([1.0, 5.0, 1.0]), jnp.array([True, False, True])))
    assert distribution.log_prob(jnp.array(0)) == pytest.approx(np.log(0.5))
    assert jnp.exp(distribution.log_prob(jnp.array(1))) == 0
    assert distribution.entropy() == pytest.approx(np.log(2))
    assert int(distribution.draw(jnp.zeros(3))) != 1
    gradient = jax.grad(lambda x: Categorical(masked(x, jnp.array([True, False, True]))).entropy())(
        jnp.array([1.0, 5.0, 2.0])
    )
    assert np.isfinite(gradient).all()
    assert gradient[1] == 0
