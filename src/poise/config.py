"""Everything that decides what is learned, as frozen, checked dataclasses.

The docstring under a field is the text that ``poise train --help`` shows for it.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from poise import defaults
from poise.checked import Bound, Checked, ConfigError, Count, Positive, Share, flat, from_dict
from poise.spec import Spec

LAST_SEED = 2**32 - 1
Widths = tuple[Annotated[int, Bound(ge=1, le=2**16)], ...]
USUAL_OBS_BOUND = 10.0  # standard deviations
USUAL_REWARD_BOUND = 1000.0  # of the return: beyond what one reward in a million steps comes to
FEW_STEPS = 16  # of a rollout: advantages then rest on the value function almost alone
Envs = Annotated[int, Bound(ge=1, le=2**20)]

# what a configuration may ask for, so that arithmetic refuses it and not the system while it trains
MOST_PARAMETERS = 2**26  # of one network: 256 MiB; a training holds some ten times as much
MOST_SHUFFLED = 2**26  # rows of all epochs over one rollout, each with some 50 bytes while they are shuffled
MOST_ROLLOUT = 2**33  # bytes of one rollout


@dataclass(frozen=True, kw_only=True)
class PPO(Checked):
    """The algorithm. Schulman et al. 2017, arXiv:1707.06347."""

    prefix = "ppo."

    num_steps: Count | None = None
    """Steps of each environment in a rollout, T; None: chosen so that the budget gives about 36 rollouts
    of 256 to 2,048 rows (docs/defaults.md)."""
    num_epochs: Count = 10
    """Passes over each rollout."""
    recompute_every: Count | None = 5
    """Epochs after which values, advantages and targets are computed anew, with the value function as it has
    learned so far; None: once per rollout."""
    minibatch_size: Annotated[int | None, Bound(ge=2)] = None
    """Rows of a minibatch; what does not fill one is dropped after each shuffle. None: 128, 64 with a budget
    of 400,000 and more, or the whole rollout where that has fewer (docs/defaults.md)."""
    gamma: Share | None = None
    """Discount; None: 1 - 1 / (3 sqrt(time limit)), 0.99 where episodes have no limit (docs/defaults.md)."""
    lam: Share = 0.95
    """Lambda of generalized advantage estimation."""
    clip: Positive = 0.2
    """Half width of the interval to which the probability ratio is clipped."""
    policy_learning_rate: Positive | None = None
    """Step size of the policy's Adam at the start; None: 1e-3 sqrt(100k / budget), at least 3e-4 and at
    most 3e-3 (docs/defaults.md)."""
    value_learning_rate: Positive | None = None
    """Step size of the value function's Adam at the start; None: by the same rule."""
    anneal: Literal["linear", "none"] = "linear"
    """Whether both learning rates go to 0 with the share of the budget that is done."""
    max_grad_norm: Annotated[float | None, Bound(gt=0)] = 0.5
    """Global norm to which the gradient of each network is clipped; None: not clipped."""
    target_kl: Annotated[float | None, Bound(gt=0)] = None
    """Approximate KL at which the remaining policy updates of an iteration are left out; None: never."""
    entropy_coef: Annotated[float, Bound(ge=0)] = 0.0
    """Weight of the entropy bonus in the policy's loss."""
    normalize_advantage: bool = True
    """Whether the policy's loss sees advantages with mean 0 and deviation 1 in each minibatch."""
    stagger_starts: bool = True
    """Whether the first episodes are cut short at different steps, so that the environments are not all in
    the same part of their episodes from then on. No effect without a time limit, or with resets."""
    reset_every_rollout: bool = False
    """Whether each rollout begins with fresh episodes; otherwise episodes go on across rollouts."""


@dataclass(frozen=True, kw_only=True)
class Policy(Checked):
    """The policy network."""

    prefix = "policy."

    hidden: Widths = (64, 64)
    """Units of each hidden layer, as 64x64 or 64,64."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the hidden layers."""
    init: Literal["orthogonal", "uniform"] = "orthogonal"
    """Initial weights: orthogonal with gain sqrt 2 (last layer 0.01), or uniform within 1/sqrt(inputs)."""
    std: Literal["fixed", "predicted", "independent"] = "independent"
    """Deviation of a continuous action: a constant, an output of the network, or a parameter of its own."""
    std_init: Positive | None = None
    """Initial deviation, in the units the policy acts in ([-1, 1] where actions are normalized); None: 1 over
    the root of the number of action dimensions (docs/defaults.md)."""
    std_rate: Positive | None = None
    """Step size of the logarithm of an independent deviation, in those of the policy's other parameters;
    None: (100k / budget)^(1/4), at least 1 (docs/defaults.md)."""
    std_min: Annotated[float, Bound(ge=0)] = 0.0
    """Added to a predicted or independent deviation, so that it stays above this."""
    head_tanh: Literal["none", "mean", "all"] = "none"
    """A final tanh: none, on the mean, or on all outputs (mean and, where predicted, pre-sigma)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.std == "fixed" and self.std_min:
            raise ConfigError(
                f"policy.std_min = {self.std_min!r}: must be 0 with policy.std = fixed, where std_init is all"
            )
        if self.std != "independent" and self.std_rate is not None:
            raise ConfigError(
                f"policy.std_rate = {self.std_rate!r}: must be None with policy.std = {self.std}, "
                "which has no parameter of its own"
            )


@dataclass(frozen=True, kw_only=True)
class Value(Checked):
    """The value network."""

    prefix = "value."

    hidden: Widths = (64, 64)
    """Units of each hidden layer, as 64x64 or 64,64."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the hidden layers."""
    init: Literal["orthogonal", "uniform"] = "orthogonal"
    """Initial weights: orthogonal with gain sqrt 2 (last layer 1), or uniform within 1/sqrt(inputs)."""


@dataclass(frozen=True, kw_only=True)
class Normalize(Checked):
    """What is brought to a common scale before the networks see it."""

    prefix = "normalize."

    obs: bool = True
    """Observations: minus the running mean, over the running deviation."""
    first_rollout: bool = True
    """Whether the first rollout's observations are normalized by its own statistics when it is learned from;
    otherwise they are left as they are. Each later rollout is normalized by those of all before it."""
    obs_clip: Annotated[float, Bound(gt=0)] | Literal["auto"] | None = "auto"
    """Bound on each entry of an observation, after normalization if that is on; None: no bound. auto: 10
    where observations are normalized, otherwise no bound."""
    reward: bool = True
    """Rewards: over the running deviation of the discounted return."""
    reward_clip: Annotated[float, Bound(gt=0)] | Literal["auto"] | None = "auto"
    """Bound on a reward, after normalization if that is on; None: no bound. auto: 1000 where rewards are
    normalized, otherwise no bound (docs/defaults.md)."""
    reward_gamma: Annotated[float | None, Bound(ge=0, le=1)] = None
    """Discount of the return whose deviation scales the rewards; None: ppo.gamma."""
    action: bool = True
    """Whether the policy acts in [-1, 1], rescaled to the environment's bounds; otherwise it acts in the
    environment's units, clipped to the bounds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.obs and not self.first_rollout:
            raise ConfigError(
                "normalize.first_rollout = False: has no effect where normalize.obs is off; leave it at True"
            )
        if not self.reward and self.reward_gamma is not None:
            raise ConfigError(
                f"normalize.reward_gamma = {self.reward_gamma!r}: must be None where normalize.reward is off"
            )

    @property
    def obs_bound(self) -> float | None:
        """``obs_clip`` as a number, or None: what is not normalized has no usual size that could bound it."""
        if self.obs_clip != "auto":
            return self.obs_clip
        return USUAL_OBS_BOUND if self.obs else None

    @property
    def reward_bound(self) -> float | None:
        """``reward_clip`` as a number, or None."""
        if self.reward_clip != "auto":
            return self.reward_clip
        return USUAL_REWARD_BOUND if self.reward else None


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """One training, whatever its environment."""

    total_steps: Count = 100_000
    """Budget in environment steps, rounded down to whole rollouts."""
    seed: Annotated[int, Bound(ge=0, le=LAST_SEED)] = 0
    """Seed of everything that is drawn."""
    num_envs: Envs | None = None
    """Environments stepped together, N; None: 16, fewer where rollouts are shorter than 1024 rows
    (docs/defaults.md)."""
    num_shards: Count = 1
    """Number of groups the environments are split into. Each is collected independently, with its own noise,
    and --workers distributes them. The result depends on this number, not on the workers (docs/scale.md)."""
    ppo: PPO = field(default_factory=PPO)
    policy: Policy = field(default_factory=Policy)
    value: Value = field(default_factory=Value)
    normalize: Normalize = field(default_factory=Normalize)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_size < 2:
            raise ConfigError(f"total_steps = {self.total_steps}: a rollout needs 2 rows ({self._as_text})")
        if self.minibatch_size > self.rollout_size:
            raise ConfigError(
                f"ppo.minibatch_size = {self.ppo.minibatch_size}: must be <= {self.rollout_size}, "
                f"the rows of a rollout ({self._as_text})"
            )
        if self.num_shards > self.shape[1]:
            raise ConfigError(
                f"num_shards = {self.num_shards}: must be <= {self.shape[1]}, the environments "
                f"({self._as_text})"
            )
        if self.total_steps < self.rollout_size:
            raise ConfigError(
                f"total_steps = {self.total_steps}: must be >= {self.rollout_size}, "
                f"one rollout ({self._as_text})"
            )
        self._check_sizes(num_inputs=1, action_size=1)

    def _check_sizes(self, *, num_inputs: int, action_size: int) -> None:
        """Refuses what no memory holds: networks, rollouts and shuffles, for an environment of these sizes.

        Raises:
            ConfigError: names the option that asks for the most.
        """
        outputs = action_size * (2 if self.policy.std == "predicted" else 1)
        for network, last in ((self.policy, outputs), (self.value, 1)):
            if (count := num_parameters(num_inputs, network.hidden, last)) > MOST_PARAMETERS:
                raise ConfigError(
                    f"{network.prefix}hidden = {network.hidden!r}: the network has {count:,} parameters, at "
                    f"most {MOST_PARAMETERS:,} are possible"
                )
        if (rows := self.ppo.num_epochs * self.rollout_size) > MOST_SHUFFLED:
            raise ConfigError(
                f"ppo.num_epochs = {self.ppo.num_epochs}: {rows:,} rows in an iteration ({self._as_text}), "
                f"at most {MOST_SHUFFLED:,} are possible"
            )
        # float32: the observation before and after, the action and its noise, and four numbers
        size = 4 * self.rollout_size * (2 * num_inputs + 2 * action_size + 4)
        if size > MOST_ROLLOUT:
            raise ConfigError(
                f"{self._as_text}: a rollout takes {size:,} bytes, at most {MOST_ROLLOUT:,} are possible"
            )

    @property
    def rollout_size(self) -> int:
        """Rows of one rollout, B = T * N."""
        num_steps, num_envs = self.shape
        return num_steps * num_envs

    @property
    def shape(self) -> tuple[int, int]:
        """Steps T and environments N of a rollout: as given, or what follows from the budget."""
        return defaults.shape(self.total_steps, self.ppo.num_steps, self.num_envs)

    @property
    def minibatch_size(self) -> int:
        """Rows of a minibatch: as given, or what follows from the budget."""
        given = self.ppo.minibatch_size
        return defaults.minibatch_size(self.total_steps, self.rollout_size) if given is None else given

    @property
    def _as_text(self) -> str:
        num_steps, num_envs = self.shape
        return f"num_envs {num_envs} x ppo.num_steps {num_steps}"

    @property
    def num_iterations(self) -> int:
        return self.total_steps // self.rollout_size

    def settled(self, spec: Spec) -> "Config":
        """The same with a number for each option that is derived where it is None.

        From the budget, the environment's time limit and its number of action dimensions: nothing else
        decides them.
        """
        ppo, policy = self.ppo, self.policy
        num_steps, num_envs = self.shape
        if policy.std_init is None and not spec.discrete:
            policy = dataclasses.replace(policy, std_init=defaults.std_init(spec.action_size))
        if policy.std_rate is None and policy.std == "independent" and not spec.discrete:
            policy = dataclasses.replace(policy, std_rate=defaults.std_rate(self.total_steps))
        rate = defaults.learning_rate(self.total_steps)
        chosen = {
            "num_steps": num_steps,
            "minibatch_size": self.minibatch_size,
            "gamma": defaults.gamma(spec.time_limit) if ppo.gamma is None else ppo.gamma,
            "policy_learning_rate": rate if ppo.policy_learning_rate is None else ppo.policy_learning_rate,
            "value_learning_rate": rate if ppo.value_learning_rate is None else ppo.value_learning_rate,
        }
        ppo = dataclasses.replace(ppo, **chosen)
        normalize = dataclasses.replace(
            self.normalize, obs_clip=self.normalize.obs_bound, reward_clip=self.normalize.reward_bound
        )
        return dataclasses.replace(self, num_envs=num_envs, ppo=ppo, policy=policy, normalize=normalize)

    def changes(self, spec: Spec) -> dict[str, Any]:
        """What is not as it would be by default with this budget in this environment, by dotted name."""
        usual = self.usual(spec)
        mine = flat(self.settled(spec).to_dict())
        return {name: value for name, value in mine.items() if value != usual[name]}

    def usual(self, spec: Spec) -> dict[str, Any]:
        """The defaults with this budget and seed in this environment, by dotted name."""
        return flat(Config(total_steps=self.total_steps, seed=self.seed).settled(spec).to_dict())

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The configuration that ``to_dict``, or the ``config.json`` of a run, describes.

        The latter names environment and backend as well; ``poise.train(**data)`` repeats the run with them.

        Raises:
            ConfigError: names the first field that is unknown or has a wrong value.
        """
        if isinstance(data, Mapping):
            data = {name: value for name, value in data.items() if name not in ("env", "backend")}
        return from_dict(cls, data, "")

    def refuse_idle(self) -> None:
        """Refuses options of a new training that are accepted of an old one, and that change nothing.

        Raises:
            ConfigError: names the first, and why.
        """
        ppo, policy, usual = self.ppo, self.policy, PPO()
        every = ppo.recompute_every
        if every not in (None, usual.recompute_every) and every >= ppo.num_epochs:
            raise ConfigError(
                f"ppo.recompute_every = {every}: has no effect with ppo.num_epochs = {ppo.num_epochs}; "
                "set a smaller number, or None"
            )
        if policy.head_tanh == "all" and policy.std == "independent":
            raise ConfigError(
                "policy.head_tanh = 'all': with policy.std = independent the mean is the only output; "
                "set policy.head_tanh to mean"
            )

    def warnings(self) -> list[str]:
        """What is likely to learn badly, a sentence each. The training runs all the same."""
        num_steps, num_envs = self.shape
        wanted = FEW_STEPS * num_envs
        if self.ppo.num_steps is not None or num_steps >= FEW_STEPS or self.total_steps < 2 * wanted:
            return []
        steps = "1 step" if num_steps == 1 else f"{num_steps} steps"
        return [
            f"num_envs = {num_envs}: leaves {steps} of each environment to a rollout, which learns badly; "
            f"set --ppo.num-steps {FEW_STEPS} or more, or fewer environments"
        ]

    def check_against(self, spec: Spec) -> None:
        """Refuses options that have no meaning for this kind of actions.

        A value that only comes to the same is accepted: with bounds of [-1, 1] a policy acts in the
        environment's units with and without ``normalize.action``. And what is too large for its spaces.
        """
        self._check_sizes(num_inputs=spec.obs_size, action_size=spec.action_size)
        idle: dict[str, str] = {}
        if spec.discrete:
            names = (
                "policy.std",
                "policy.std_init",
                "policy.std_rate",
                "policy.std_min",
                "policy.head_tanh",
                "normalize.action",
            )
            idle = dict.fromkeys(names, f"the discrete actions of {spec.id}")
        elif not any(spec.scaled):
            idle["normalize.action"] = f"the unbounded actions of {spec.id}"
        if not spec.discrete and self.policy.std == "fixed":
            idle["ppo.entropy_coef"] = "a fixed deviation, whose entropy is constant"
        for path, why in idle.items():
            group, name = path.split(".")
            value, usual = (getattr(getattr(c, group), name) for c in (self, Config()))
            if value != usual:
                raise ConfigError(f"{path} = {value!r}: has no effect on {why}; leave it at {usual!r}")


def num_parameters(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Weights and biases of fully connected layers."""
    widths = (inputs, *hidden, outputs)
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def known(value: float | None) -> float:
    """A number of a configuration that is ``settled``."""
    if value is None:
        raise ConfigError("a derived option has no number yet: call Config.settled first")
    return value
