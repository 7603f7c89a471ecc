"""The rules of ``poise check``: what in the played episodes would degrade a training.

Each rule is a generator of findings, and may play more episodes. No rule knows the name of an environment.
"""

from collections.abc import Callable, Iterator

from poise.health.findings import Finding
from poise.health.probing import Play
from poise.health.symptoms.actions import check_action_bounds, check_action_effect, check_action_size
from poise.health.symptoms.episodes import (
    check_ends,
    check_repeatable,
    check_running_statistics,
    check_starts,
    play_episodes,
)
from poise.health.symptoms.observations import (
    check_declared_space,
    check_images,
    check_left_out,
    check_observed_numbers,
    check_returned_arrays,
)
from poise.health.symptoms.parts import check_masks, check_part_effect
from poise.health.symptoms.rendering import check_rendering
from poise.health.symptoms.rewards import check_rewards

Rule = Callable[[Play], Iterator[Finding]]
RULES: tuple[Rule, ...] = (  # in this order: those after play_episodes read what it played
    check_left_out,
    check_images,
    check_action_bounds,
    play_episodes,
    check_running_statistics,
    check_repeatable,
    check_starts,
    check_returned_arrays,
    check_declared_space,
    check_observed_numbers,
    check_rewards,
    check_action_effect,
    check_part_effect,
    check_action_size,
    check_masks,
    check_ends,
    check_rendering,
)
