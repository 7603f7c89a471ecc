"""``poise check`` says whether a film of an environment can be made, by the same means as the film itself."""

import gymnasium as gym
import numpy as np
import pytest
from sick import Sound

from poise.envs.checking import Checked
from poise.envs.forms.making import make_plain
from poise.envs.gymnasium import spec_of
from poise.health.probing import Play
from poise.health.symptoms.rendering import check_rendering


class Drawn(Sound):
    """Can be filmed."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)


class Undrawn(Sound):
    """Takes the argument, and has nothing to draw."""

    def __init__(self, render_mode=None):
        super().__init__()


class Unlisted(Drawn):
    """Gymnasium's checker refuses to draw it."""

    metadata = {"render_modes": ["human"]}  # noqa: RUF012


class NotStored(Drawn):
    """Its mode is not stored, so Gymnasium's checker does not see that it is unlisted."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        del self.render_mode


class AnyArgument(Drawn):
    def __init__(self, **arguments):
        super().__init__(**arguments)


class DrawnOutside(gym.Wrapper):
    """A wrapper that draws what its environment does not."""

    def render(self):
        return np.zeros((32, 32, 3), np.uint8)


MAKERS = {
    "Sound": (Sound, "it cannot be made with a render_mode"),
    "Undrawn": (Undrawn, "it has no render()"),
    "NoArgument": (lambda: Drawn(), "it cannot be made with a render_mode"),
    "Drawn": (Drawn, None),
    "Unlisted": (Unlisted, 'its metadata["render_modes"] does not list it'),
    "NotStored": (NotStored, None),
    "AnyArgument": (AnyArgument, None),
    "DrawnOutside": (lambda render_mode=None: DrawnOutside(Undrawn(render_mode)), None),
    "ByName": ("sick:Sound", "it cannot be made with a render_mode"),
}
for name, (maker, _) in MAKERS.items():
    gym.register(f"Rendering{name}-v0", maker)


def findings(id):
    instances = [Checked(make_plain(id), id, number) for number in range(2)]
    spec, _ = spec_of(lambda: Checked(make_plain(id), id, 0))
    play = Play(id, spec, instances, lambda kind, content: None, kind="gymnasium", seconds=1.0)
    return list(check_rendering(play))


@pytest.mark.parametrize("name", MAKERS)
def test_an_environment_without_pictures_gets_a_note(name):
    missing = MAKERS[name][1]
    actual = [(finding.rule, finding.severity, finding.seen) for finding in findings(f"Rendering{name}-v0")]
    expected = [("no-render-mode", "note", f'no render_mode "rgb_array": {missing}')]
    assert actual == ([] if missing is None else expected)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore")  # Gymnasium warns that the metadata name no render_modes
def test_the_note_agrees_with_a_picture(name):
    try:
        env = gym.make(f"Rendering{name}-v0", render_mode="rgb_array")
        env.reset(seed=0)
        can_draw = env.render() is not None
    except Exception:
        can_draw = False
    assert can_draw == (MAKERS[name][1] is None)


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1"])
def test_environments_of_gymnasium_get_no_note(id):
    assert findings(id) == []
