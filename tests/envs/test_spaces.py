"""What each space becomes: leaves of observations, parts of actions, masks, and the way back."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import poise
from poise.envs import EnvError
from poise.envs.checking import Checked, EnvFault
from poise.envs.gymnasium import GymnasiumEnv
from poise.envs.packing import pack, read_leaves, unpack_action
from poise.envs.spaces import flat_mask, native_action, read_alike, read_spec
from poise.spec import Leaf, Part, Spec

VECTOR = spaces.Box(-1, 1, (2,), np.float32)


class Sampled(gym.Env):
    """Observations drawn from its space; keeps the actions that it gets."""

    def __init__(self, obs=VECTOR, action=None):
        self.observation_space, self.action_space = obs, action or spaces.Discrete(3)
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.actions.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


def read(obs=VECTOR, action=None, masks=None):
    return read_spec("mine:Task", Sampled(obs, action), None, masks)


@pytest.mark.parametrize(
    ("space", "leaf"),
    [
        (spaces.Box(-1, 1, (2, 3), np.float64), Leaf((), "vector", (2, 3))),
        (spaces.Box(-1, 1, (), np.float32), Leaf((), "vector", ())),
        (spaces.Discrete(5, start=2), Leaf((), "one_hot", (), (5,), (2,))),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), Leaf((), "one_hot", (2,), (2, 3), (1, 0))),
        (spaces.MultiBinary((2, 2)), Leaf((), "vector", (2, 2))),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), Leaf((), "image", (7, 7, 3), high=255.0, channels=2)),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), Leaf((), "image", (4, 84, 84), high=255.0, channels=0)),
        (spaces.Box(0, 1, (10, 10, 10), bool), Leaf((), "image", (10, 10, 10), channels=2)),
        (spaces.Box(-1, 3, (8, 9, 1), np.float32), Leaf((), "image", (8, 9, 1), low=-1, high=3, channels=2)),
        (spaces.Box(0, 255, (64, 48), np.uint8), Leaf((), "image", (64, 48), high=255.0)),
        (spaces.Box(0, 255, (4, 4), np.uint8), Leaf((), "vector", (4, 4))),
        (spaces.Box(-1, 1, (64, 48), np.float32), Leaf((), "vector", (64, 48))),
        (spaces.Box(-np.inf, np.inf, (8, 8, 3), np.float32), Leaf((), "vector", (8, 8, 3))),
        (spaces.Box(0, 1, (2, 9, 30), np.float32), Leaf((), "image", (2, 9, 30), channels=0)),
        (spaces.Box(0, 1, (3, 3, 3), np.float32), Leaf((), "vector", (3, 3, 3))),
    ],
)
def test_what_a_single_observation_space_becomes(space, leaf):
    assert read(space).obs == (leaf,)


def test_leaves_of_a_nested_space_are_named_by_their_path():
    space = spaces.Dict(
        a=VECTOR, b=spaces.Dict(c=spaces.Discrete(3), d=spaces.Tuple((VECTOR, spaces.MultiBinary(2))))
    )
    spec = read(space)
    assert [(leaf.name, leaf.kind, leaf.width) for leaf in spec.obs] == [
        ("a", "vector", 2),
        ("b.c", "one_hot", 3),
        ("b.d.0", "vector", 2),
        ("b.d.1", "vector", 2),
    ]
    assert (spec.obs_size, spec.columns("b.d.0")) == (9, slice(5, 7))
    assert spec.one_hot.tolist() == [False, False, True, True, True, False, False, False, False]


def test_numbers_of_all_leaves_stand_side_by_side():
    space = spaces.Dict(a=VECTOR, b=spaces.Discrete(3, start=5), c=spaces.MultiDiscrete([2, 2]))
    leaves = {"a": [[0.5, -0.5]], "b": [6], "c": [[1, 0]]}
    packed = pack(read(space), {k: np.array(v) for k, v in leaves.items()}, 1)
    assert isinstance(packed, np.ndarray)
    assert packed.tolist() == [[0.5, -0.5, 0, 1, 0, 0, 1, 1, 0]]


def test_numbers_keep_the_digits_of_float64():
    space = spaces.Dict(a=VECTOR, t=spaces.Box(0, 2e9, (1,), np.float64))
    leaves = {"a": np.zeros((1, 2), np.float32), "t": np.array([[1700000000.25]])}
    assert pack(read(space), leaves, 1)[0, 2] == 1700000000.25


def test_images_stay_bytes_in_their_own_layout():
    space = spaces.Dict(camera=spaces.Box(0, 255, (3, 9, 9), np.uint8), speed=VECTOR)
    spec = read(space)
    obs = pack(spec, {"camera": np.full((2, 3, 9, 9), 200, np.uint8), "speed": np.ones((2, 2))}, 2)
    assert set(obs) == {"numbers", "camera"}
    assert (obs["camera"].dtype, obs["camera"].shape) == (np.uint8, (2, 3, 9, 9))


def test_leaves_that_no_network_reads_are_left_out_with_a_sentence():
    spec = read(spaces.Dict(a=VECTOR, mission=spaces.Text(9), graph=spaces.Sequence(VECTOR)))
    assert [leaf.name for leaf in spec.obs] == ["a"]
    assert spec.left_out == (
        "observation 'mission' is Text: it is left out, because no network reads it",
        "observation 'graph' is Sequence: it is left out, because no network reads it",
    )


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Text(3), r"Text\(.*\) is not supported: no network reads Text"),
        (spaces.Sequence(VECTOR), "is not supported: no network reads Sequence"),
        (spaces.Dict(a=spaces.Text(3)), "has no numbers; there is nothing to learn from"),
        (spaces.Dict(numbers=spaces.Box(0, 1, (9, 9, 3))), "its image 'numbers' needs another name"),
    ],
)
def test_an_observation_without_anything_to_read_is_refused(space, message):
    with pytest.raises(EnvError, match=message):
        read(space)


@pytest.mark.parametrize(
    ("space", "parts", "row", "text"),
    [
        (spaces.Box(-1, 2, (2, 2)), (Part((), (2, 2), (-1.0,) * 4, (2.0,) * 4),), (4,), "2 x 2"),
        (spaces.Box(-1, 2, ()), (Part((), (), (-1.0,), (2.0,)),), (1,), "1"),
        (spaces.Discrete(3, start=-1), (Part((), (), sizes=(3,), first=(-1,)),), (), "3 choices"),
        (
            spaces.MultiDiscrete([2, 5], start=[0, 3]),
            (Part((), (2,), sizes=(2, 5), first=(0, 3)),),
            (2,),
            "2 x 5 choices",
        ),
        (spaces.MultiBinary(4), (Part((), (4,), sizes=(2,) * 4, first=(0,) * 4),), (4,), "4 times 2 choices"),
        (
            spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (1,)))),
            (Part((0,), (), sizes=(2,), first=(0,)), Part((1,), (1,), (0.0,), (1.0,))),
            (2,),
            "0 (2 choices), 1 (1)",
        ),
    ],
)
def test_what_an_action_space_becomes(space, parts, row, text):
    spec = read(action=space)
    assert (spec.action, spec.action_row, spec.describe_action()) == (parts, row, text)


HYBRID = spaces.Dict(
    aim=spaces.Box(-2, 2, (2,), np.float64),
    fire=spaces.Discrete(3, start=1),
    keys=spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 4], start=[0, 7]))),
)


def test_rows_of_actions_go_back_into_nested_spaces():
    """Boxes first, then choices, which count from 0 in a row."""
    spec = read(action=HYBRID)
    assert (spec.box_size, spec.sizes, spec.num_logits, spec.noise_size) == (2, (3, 2, 2, 2, 4), 13, 15)
    action = unpack_action(spec, np.array([[0.5, -1.5, 2, 1, 0, 1, 3]], np.float32))
    assert action["aim"].tolist() == [[0.5, -1.5]]
    assert action["fire"].tolist() == [3]
    assert [x.tolist() for x in action["keys"]] == [[[1, 0]], [[1, 10]]]
    native = native_action(
        HYBRID, {k: v[0] if k != "keys" else tuple(x[0] for x in v) for k, v in action.items()}
    )
    assert HYBRID.contains(native)


def test_every_leaf_and_part_survives_json():
    spec = read(spaces.Dict(a=VECTOR, b=spaces.MultiDiscrete([2, 3]), c=spaces.Box(0, 9, (9, 9, 2))), HYBRID)
    assert Spec.from_dict(spec.to_dict()) == spec
    unbounded = read(action=spaces.Box(-np.inf, np.inf, (2,)))
    assert Spec.from_dict(unbounded.to_dict()) == unbounded


def masked_space():
    return spaces.Dict(action_mask=spaces.Box(0, 1, (3,), np.int8), observation=VECTOR)


class ByMethod(Sampled):
    def action_masks(self):
        return np.array([True, False, True])


class ByInfo(Sampled):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.array([1, 0, 1], np.int8)}

    def step(self, action):
        return (*super().step(action)[:4], {"action_mask": np.array([0, 1, 1], np.int8)})


class ByObs(Sampled):
    def __init__(self):
        super().__init__(masked_space())

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return {**obs, "action_mask": np.array([1, 0, 1], np.int8)}, info


for kind in (ByMethod, ByInfo, ByObs, Sampled):
    gym.register(f"{kind.__name__}-v7", kind)


@pytest.mark.parametrize("name", ["ByMethod", "ByInfo", "ByObs"])
def test_masks_are_found_where_environments_have_them(name):
    env = GymnasiumEnv(f"{name}-v7", 2)
    assert env.spec.masked
    obs = env.reset(np.ones(2, bool), [0, 1])
    assert set(obs) == {"numbers", "action_mask"}
    assert obs["numbers"].shape == (2, 2)
    assert obs["action_mask"].tolist() == [[True, False, True]] * 2
    assert obs["action_mask"].dtype == bool
    if name == "ByInfo":
        assert env.step(np.array([0, 2])).next_obs["action_mask"].tolist() == [[False, True, True]] * 2


def test_an_environment_without_masks_has_none():
    assert not GymnasiumEnv("Sampled-v7", 1).spec.masked


@pytest.mark.parametrize(
    ("action", "mask", "flags"),
    [
        (spaces.Discrete(3), [1, 0, 1], [1, 0, 1]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0, 0, 1, 1]), [1, 0, 0, 1, 1]),
        (spaces.MultiDiscrete([2, 3]), (np.array([1, 0]), np.array([0, 1, 1])), [1, 0, 0, 1, 1]),
        (spaces.MultiBinary(2), [[1, 0], [1, 1]], [1, 0, 1, 1]),
        (
            spaces.Dict(a=spaces.Box(0, 1, (2,)), b=spaces.Discrete(2), c=spaces.MultiDiscrete([2, 2])),
            {"a": None, "b": np.array([0, 1]), "c": (np.array([1, 1]), np.array([1, 0]))},
            [0, 1, 1, 1, 1, 0],
        ),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), (None, np.array([0, 1])), [1, 1, 0, 1]),
    ],
)
def test_masks_of_each_form_become_one_row(action, mask, flags):
    assert flat_mask(mask, read(action=action)).tolist() == [bool(flag) for flag in flags]


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="action_mask has 2 flags, the choices have 3 values"):
        flat_mask([1, 1], read())


def test_a_mask_that_allows_nothing_is_a_fault_with_seed_and_step():
    class Empty(ByInfo):
        def step(self, action):
            return (*super().step(action)[:4], {"action_mask": np.zeros(3, np.int8)})

    env = Checked(Empty(), "Empty-v7", 4, "info")
    env.reset(seed=11)
    with pytest.raises(
        EnvFault, match="Empty-v7, environment 4, episode seed 11, step 1: action_mask allows no"
    ):
        env.step(0)


def test_a_value_outside_of_a_discrete_space_is_a_fault():
    class Outside(Sampled):
        def reset(self, *, seed=None, options=None):
            return {"a": np.zeros(2, np.float32), "b": 3}, {}

    env = Checked(Outside(spaces.Dict(a=VECTOR, b=spaces.Discrete(3))), "Outside-v7", 0)
    with pytest.raises(EnvFault, match=r"obs\['b'\] is int 3, its space is Discrete\(3\)"):
        env.reset(seed=1)


def test_a_leaf_that_is_missing_is_a_fault():
    class Missing(Sampled):
        def reset(self, *, seed=None, options=None):
            return {"a": np.zeros(2, np.float32)}, {}

    env = Checked(Missing(spaces.Dict(a=VECTOR, b=VECTOR)), "Missing-v7", 0)
    with pytest.raises(EnvFault, match=r"obs\['b'\] is missing"):
        env.reset(seed=1)


NESTED = spaces.Dict(
    seen=spaces.Tuple((VECTOR, spaces.Discrete(4))), camera=spaces.Box(0, 255, (6, 6, 3), np.uint8)
)
# a space of its own for each: its generator is part of it
gym.register("NestedSpaces-v7", lambda: Sampled(copy.deepcopy(NESTED), HYBRID), max_episode_steps=30)


def test_a_nested_environment_is_restored_by_its_actions():
    first, second = (poise.make("NestedSpaces-v7", 2) for _ in range(2))
    obs = first.reset(np.ones(2, bool), [3, 4])
    rng = np.random.default_rng(0)
    for _ in range(5):
        row = np.concatenate([rng.uniform(-2, 2, (2, 2)), rng.integers(0, 2, (2, 5))], axis=1)
        obs = first.step(row.astype(np.float32)).next_obs
    restored = second.restore(first.snapshot())
    assert restored.exact.all()
    for name, array in obs.items():
        np.testing.assert_array_equal(restored.obs[name], array)


def test_leaves_are_read_by_their_paths():
    spec = read(NESTED)
    leaves = read_leaves(spec, {"seen": (1, 2), "camera": 3})
    assert leaves == {"camera": 3, "seen.0": 1, "seen.1": 2}


PIXELS = spaces.Box(0, 255, (5, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("obs", "masks", "shape", "alike"),
    [
        (PIXELS, None, (5, 5, 3), True),
        (PIXELS, "info", (5, 5, 3), True),
        (VECTOR, "method", (2,), True),
        (PIXELS, None, (3, 5, 5), False),  # another environment: its difference is named elsewhere
        (spaces.Discrete(2), None, (2,), False),
        (spaces.Dict(image=PIXELS), None, (5, 5, 3), False),
        (masked_space(), "obs", (2,), False),
    ],
)
def test_an_agent_of_an_earlier_version_reads_numbers_and_no_mask(obs, masks, shape, alike):
    spec, earlier = read(obs, masks=masks), Spec.flat("mine:Task", shape, num_choices=3)
    assert read_alike(spec, masks, earlier) == ((earlier, None) if alike else (spec, masks))
    for reading in (None, spec):
        assert read_alike(spec, masks, reading) == (spec, masks)


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async"])
def test_pixels_that_are_read_as_numbers_are_their_bytes(backend):
    id, every = "pixels:Pixels-v0", np.ones(2, bool)
    as_image, as_numbers = (
        poise.make(id, 2, backend, reading=reading)
        for reading in (None, Spec.flat(id, (5, 5, 3), num_choices=2, time_limit=7))
    )
    assert as_image.spec.masked
    assert not as_numbers.spec.masked
    image, numbers = (env.reset(every, [1, 2]) for env in (as_image, as_numbers))
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, image["image"].reshape(2, -1).astype(np.float32))
    for env in (as_image, as_numbers):
        env.close()


@pytest.mark.parametrize(
    ("obs", "path"),
    [
        (spaces.Dict(action_mask=spaces.MultiBinary(5), v=VECTOR), "action_mask"),
        (spaces.Dict(action_mask=spaces.MultiDiscrete([2, 2, 2]), v=VECTOR), "action_mask"),
        (spaces.Dict(inner=masked_space()), "inner.action_mask"),
    ],
)
def test_a_part_that_is_called_a_mask_and_cannot_be_one_is_noted(obs, path):
    spec = read(obs)
    assert not spec.masked
    assert [sentence for sentence in spec.left_out if f"'{path}' is not read as a mask" in sentence]
