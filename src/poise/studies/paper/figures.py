"""The settings that the paper tried, figure by figure, and the results that it reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One line of a figure: a preset or an environment, and the options that are changed."""

    name: str  # of its folder and in the CSV
    label: str
    target: str
    changes: Mapping[str, Any]
    paper: str  # the result that the paper reports


@dataclass(frozen=True)
class Panel:
    """Lines that are drawn together."""

    title: str
    variants: tuple[Variant, ...]
    limits: tuple[float, float] | None = None  # of the axis of returns


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    ``losses``: value and policy loss are drawn below the return. ``episodes``: every episode is a dot.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    losses: bool = False
    episodes: bool = False
    ten_episodes: str | None = None  # the paper's score over 10 greedy episodes

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(v for panel in self.panels for v in panel.variants)


INVERTED = "paper/inverted-pendulum"
REACHER = "paper/reacher"
PENDULUM = "paper/pendulum"
NOT_TRIED = "not in the paper"
UP_TO_1000 = (0.0, 1050.0)  # InvertedPendulum's returns end at 1,000; the interval of their mean does not

_ip = Variant(
    "ip-paper",
    "the paper: sigma 0.05 of the range, rates 1e-5, 3e-5",
    INVERTED,
    {},
    "reaches 1000, unstable between runs",
)
_reacher = Variant(
    "reacher-fixed-tanh",
    "the paper's best: fixed sigma, tanh head",
    REACHER,
    {},
    "-8.6 over 10 episodes; the best of the four",
)
_learned = {"std": "predicted", "std_init": 0.3, "std_min": 1e-6}
_plain = {"head_tanh": "none"}
_pendulum = Variant("pendulum-paper", "the paper: no annealing, tanh on all", PENDULUM, {}, "not solved")

FIGURES = (
    Figure(
        "figure1",
        "InvertedPendulum: return and losses",
        (
            Panel("the paper's settings", (_ip,)),
            Panel(
                "one change each",
                (
                    _ip,
                    Variant(
                        "ip-rates-1e-3",
                        "rates 1e-3, 3e-3",
                        INVERTED,
                        {"ppo": {"policy_learning_rate": 1e-3, "value_learning_rate": 3e-3}},
                        "policy loss diverges",
                    ),
                    # the range is 6 in the environment's units
                    Variant(
                        "ip-sigma-0.15",
                        "sigma 0.15 of the range",
                        INVERTED,
                        {"policy": {"std_init": 0.9}},
                        "diverges",
                    ),
                    Variant(
                        "ip-sigma-0.5",
                        "sigma 0.5 of the range",
                        INVERTED,
                        {"policy": {"std_init": 3.0}},
                        "diverges",
                    ),
                    Variant(
                        "ip-raw-reward",
                        "rewards not normalized",
                        INVERTED,
                        {"normalize": {"reward": False, "reward_gamma": None}},
                        "the same return, a larger value loss",
                    ),
                    Variant(
                        "ip-normalized-action",
                        "normalized actions, tanh head",
                        INVERTED,
                        # 0.05 of the range, which is 2 in the policy's units
                        {"policy": {"std_init": 0.1, "head_tanh": "all"}, "normalize": {"action": True}},
                        "learns nothing useful",
                    ),
                ),
                UP_TO_1000,
            ),
        ),
        losses=True,
    ),
    Figure(
        "figure2",
        "Reacher: deviation, and the tanh head of normalized actions",
        (
            Panel(
                "mean return of the episodes of each iteration",
                (
                    _reacher,
                    Variant(
                        "reacher-fixed-linear",
                        "fixed sigma, linear head",
                        REACHER,
                        {"policy": _plain, "normalize": {"action": False}},
                        "below the best",
                    ),
                    Variant(
                        "reacher-learned-tanh",
                        "learned sigma, tanh head",
                        REACHER,
                        {"policy": _learned},
                        "below the best",
                    ),
                    Variant(
                        "reacher-learned-linear",
                        "learned sigma, linear head",
                        REACHER,
                        {"policy": _learned | _plain, "normalize": {"action": False}},
                        "below the best",
                    ),
                ),
            ),
        ),
    ),
    Figure(
        "figure3",
        "Reacher: the best setting",
        (Panel("every episode", (_reacher,)),),
        episodes=True,
        ten_episodes="-8.6, and -7.18 in its logs",
    ),
    Figure(
        "figure4",
        "Pendulum",
        (
            Panel(
                "annealing and the tanh",
                (
                    _pendulum,
                    Variant(
                        "pendulum-annealed",
                        "annealed, tanh on all",
                        PENDULUM,
                        {"ppo": {"anneal": "linear"}},
                        "not solved",
                    ),
                    Variant(
                        "pendulum-mean",
                        "no annealing, tanh on the mean",
                        PENDULUM,
                        {"policy": {"head_tanh": "mean"}},
                        "not solved",
                    ),
                    Variant(
                        "pendulum-mean-annealed",
                        "annealed, tanh on the mean",
                        PENDULUM,
                        {"ppo": {"anneal": "linear"}, "policy": {"head_tanh": "mean"}},
                        "not solved",
                    ),
                ),
            ),
            Panel(
                "what the paper guesses would help",
                (
                    _pendulum,
                    Variant(
                        "pendulum-40-epochs", "40 epochs", PENDULUM, {"ppo": {"num_epochs": 40}}, "might help"
                    ),
                    Variant(
                        "pendulum-300k", "300,000 steps", PENDULUM, {"total_steps": 300_000}, "might help"
                    ),
                ),
            ),
        ),
    ),
    Figure(
        "figure5",
        "The defaults of poise beside the paper's settings",
        (
            Panel(
                "InvertedPendulum",
                (_ip, Variant("ip-defaults", "poise's defaults", "InvertedPendulum-v2", {}, NOT_TRIED)),
                UP_TO_1000,
            ),
            Panel(
                "Reacher",
                (_reacher, Variant("reacher-defaults", "poise's defaults", "Reacher-v2", {}, NOT_TRIED)),
            ),
            Panel(
                "Pendulum",
                (_pendulum, Variant("pendulum-defaults", "poise's defaults", "Pendulum-v0", {}, NOT_TRIED)),
            ),
        ),
    ),
)
