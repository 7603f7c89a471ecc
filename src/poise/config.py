"""The configuration of a training: everything that affects what is learned, as frozen, checked records.

The docstring under a field is the text that ``poise train --help`` shows for it.
"""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from poise import defaults
from poise.checked import (
    Bound,
    Checked,
    ConfigError,
    Count,
    Positive,
    Schedule,
    Share,
    flat,
    from_dict,
)
from poise.own.naming import name_of, name_problem
from poise.spec import Spec
from poise.wording import counted, parse_schedule

LAST_SEED = 2**32 - 1
# what config.json has beside the configuration
BESIDE = ("env", "env_kwargs", "wrappers", "backend", "device", "matmul_precision", "together")
Widths = tuple[Annotated[int, Bound(ge=1, le=2**16)], ...]
SCHEDULE = {"metavar": "SCHEDULE"}  # in the help
USUAL_OBS_BOUND = 10.0  # standard deviations
USUAL_MEMORY = 64  # units
USUAL_REWARD_BOUND = 1000.0  # deviations of the return: more than a reward in a million steps reaches
START_PARTS = ("policy", "value", "normalizer")  # of an agent
FEW_ITERATIONS = 5  # of a training: with fewer, even easy tasks are not learned
Envs = Annotated[int, Bound(ge=1, le=2**20)]
Activation = Literal["tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid"]  # of jax.nn
Init = Literal["orthogonal", "uniform"]
Images = Literal["auto", "small", "nature", "impala", "flat"]
Memory = Literal["none", "gru", "lstm"]

# the largest sizes: larger ones are refused here, rather than by the system during training
MOST_PARAMETERS = 2**26  # of one network: 256 MiB; a training needs about ten times as much
MOST_SHUFFLED = 2**26  # rows of all epochs over one rollout; shuffling takes about 50 bytes for each
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
    value_num_epochs: Count | None = None
    """Passes of the value function over each rollout. If set, --ppo.num-epochs is for the policy alone. None:
    as --ppo.num-epochs."""
    recompute_every: Count | None = 5
    """Epochs after which values, advantages and targets are recomputed with the current value function; None:
    computed once per rollout."""
    minibatch_size: Annotated[int | None, Bound(ge=2)] = None
    """Rows of a minibatch; after each shuffle, the rows left over are dropped. None: about 128, or 64 with a
    budget of 400,000 or more; the whole rollout if that is smaller (docs/defaults.md)."""
    sequence_length: Count | None = None
    """Steps of a sequence that a memory learns from, L. A minibatch has as many sequences as its rows fill.
    It divides the steps of a rollout. None: the whole rollout; or 1 where --history is set and there are no
    images."""
    gamma: Share | None = None
    """Discount; None: 1 - 1 / (3 sqrt(time limit)), or 0.99 without a time limit (docs/defaults.md)."""
    lam: Share = 0.95
    """Lambda of generalized advantage estimation."""
    clip: Positive = 0.2
    """Clip range epsilon of the probability ratio: [1 - epsilon, 1 + epsilon]."""
    clip_schedule: Schedule = field(default="none", metadata=SCHEDULE)
    """Schedule of the clip range, with the values of --ppo.anneal. By default none: it is constant."""
    policy_learning_rate: Positive | None = None
    """Initial learning rate of the policy (Adam); None: 1e-3 sqrt(100k / budget), at least 3e-4 and at most
    3e-3 (docs/defaults.md)."""
    value_learning_rate: Positive | None = None
    """Initial learning rate of the value function (Adam); None: by the same rule."""
    anneal: Schedule = field(default="linear", metadata=SCHEDULE)
    """Schedule of both learning rates: none; linear or cosine, to 0 at the end of the budget; or points
    SHARE:FACTOR, where SHARE is the part of the budget that is used (0 to 1), with straight lines between
    them. 0:1,0.5:1,1:0.1 keeps the rates for half of the budget and then lowers them to a tenth. By default
    linear."""
    max_grad_norm: Annotated[float | None, Bound(gt=0)] = 0.5
    """Maximum global norm of the gradient of each network; None: not clipped."""
    target_kl: Annotated[float | None, Bound(gt=0)] = None
    """Approximate KL above which the remaining policy updates of an iteration are skipped; None: never."""
    entropy_coef: Annotated[float, Bound(ge=0)] = 0.0
    """Weight of the entropy bonus in the policy loss."""
    entropy_schedule: Schedule = field(default="none", metadata=SCHEDULE)
    """Schedule of the weight of the entropy bonus, with the values of --ppo.anneal. By default none: it is
    constant."""
    normalize_advantage: bool = True
    """Whether to normalize the advantages of each minibatch to mean 0 and standard deviation 1 in the policy
    loss."""
    stagger_starts: bool = True
    """Whether to truncate the first episodes at different steps, so that the environments are not all at the
    same point of their episodes. No effect without a time limit or with --ppo.reset-every-rollout."""
    reset_every_rollout: bool = False
    """Whether each rollout starts with new episodes; otherwise episodes continue across rollouts."""

    @property
    def epochs(self) -> tuple[int, int]:
        """Passes of the policy and of the value function."""
        return self.num_epochs, self.num_epochs if self.value_num_epochs is None else self.value_num_epochs

    @property
    def has_schedule(self) -> bool:
        """Whether a number changes with the share of the budget."""
        return {self.anneal, self.clip_schedule, self.entropy_schedule} != {"none"}


@dataclass(frozen=True, kw_only=True)
class Policy(Checked):
    """The policy network."""

    prefix = "policy."

    network: str | None = None
    """A network of your own in place of the hidden layers: a class of Equinox, as module:Class
    (docs/networks.md); None: the hidden layers."""
    hidden: Widths = (64, 64)
    """Units of each hidden layer, as 64x64 or 64,64."""
    activation: Activation = "tanh"
    """Activation of the hidden layers, by its name in jax.nn."""
    layer_norm: bool = False
    """Whether the units of each hidden layer are scaled to mean 0 and variance 1 before their activation."""
    residual: bool = False
    """Whether each hidden layer after the first is added to the one before it; all have the same width."""
    images: Images = "auto"
    """Encoder of images: small (two convolutions of 3x3), nature (the network of DQN), impala (residual),
    flat (no convolution), or auto: small below 36 pixels, otherwise nature."""
    see: tuple[str, ...] = field(default=(), metadata={"metavar": "NAME..."})
    """Names of the observation's parts that this network reads. By default all of them."""
    memory: Memory = "none"
    """Memory between the encoder and the hidden layers: none, gru or lstm."""
    memory_size: Annotated[int | None, Bound(ge=1, le=2**12)] = None
    """Units of the memory; None: 64."""
    init: Init = "orthogonal"
    """Initial weights: orthogonal with gain sqrt 2 (selu: 1; last layer 0.01), or uniform within
    1/sqrt(inputs)."""
    std: Literal["fixed", "predicted", "independent"] = "independent"
    """Standard deviation of a continuous action: fixed (a constant), predicted (an output of the network), or
    independent (a parameter)."""
    std_init: Positive | None = None
    """Initial standard deviation, in the units in which the policy acts ([-1, 1] if actions are normalized);
    None: 1 / sqrt(number of action dimensions) (docs/defaults.md)."""
    std_rate: Positive | None = None
    """Learning rate of the logarithm of an independent standard deviation, as a multiple of the policy's;
    None: (100k / budget)^(1/4), at least 1 (docs/defaults.md)."""
    std_min: Annotated[float, Bound(ge=0)] = 0.0
    """Minimum of a predicted or independent standard deviation; added to it."""
    head_tanh: Literal["none", "mean", "all"] = "none"
    """Final tanh: none, on the mean, or on all outputs (the mean and, if predicted, the pre-sigma)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", name_of(self.network, "policy.network"))
        super().__post_init__()
        if self.std == "fixed" and self.std_min:
            raise ConfigError(
                f"policy.std_min = {self.std_min!r}: must be 0 with policy.std = fixed, "
                "whose standard deviation is policy.std_init"
            )
        check_network(self)
        if self.std != "independent" and self.std_rate is not None:
            raise ConfigError(
                f"policy.std_rate = {self.std_rate!r}: must be None with policy.std = {self.std}, "
                "whose standard deviation is not a parameter"
            )


@dataclass(frozen=True, kw_only=True)
class Value(Checked):
    """The value network."""

    prefix = "value."

    network: str | None = None
    """A network of your own in place of the hidden layers: a class of Equinox, as module:Class
    (docs/networks.md); None: the hidden layers."""
    hidden: Widths = (64, 64)
    """Units of each hidden layer, as 64x64 or 64,64."""
    activation: Activation = "tanh"
    """Activation of the hidden layers, by its name in jax.nn."""
    layer_norm: bool = False
    """Whether the units of each hidden layer are scaled to mean 0 and variance 1 before their activation."""
    residual: bool = False
    """Whether each hidden layer after the first is added to the one before it; all have the same width."""
    images: Images = "auto"
    """Encoder of images: small (two convolutions of 3x3), nature (the network of DQN), impala (residual),
    flat (no convolution), or auto: small below 36 pixels, otherwise nature."""
    see: tuple[str, ...] = field(default=(), metadata={"metavar": "NAME..."})
    """Names of the observation's parts that this network reads. By default all of them."""
    memory: Memory = "none"
    """Memory between the encoder and the hidden layers: none, gru or lstm."""
    memory_size: Annotated[int | None, Bound(ge=1, le=2**12)] = None
    """Units of the memory; None: 64."""
    init: Init = "orthogonal"
    """Initial weights: orthogonal with gain sqrt 2 (selu: 1; last layer 1), or uniform within
    1/sqrt(inputs)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", name_of(self.network, "value.network"))
        super().__post_init__()
        check_network(self)


def check_network(network: Policy | Value) -> None:
    """Refuses options of a network that contradict each other.

    Raises:
        ConfigError: names the first.
    """
    prefix, hidden = network.prefix, network.hidden
    if network.network is not None:
        _check_own_network(network, network.network)
    if network.memory == "none" and network.memory_size is not None:
        raise ConfigError(
            f"{prefix}memory_size = {network.memory_size}: has no effect with {prefix}memory = none"
        )
    if network.residual and (len(hidden) < 2 or len(set(hidden)) > 1):
        raise ConfigError(
            f"{prefix}residual = True: needs two or more hidden layers of the same width, not {hidden!r}"
        )


def _check_own_network(network: Policy | Value, name: str) -> None:
    """Refuses a name that is not ``module:Class``, and options of the layers that it replaces."""
    if problem := name_problem(name):
        raise ConfigError(f"{network.prefix}network = {name!r}: {problem}")
    for option in ("hidden", "activation", "layer_norm", "residual", "init"):
        value, usual = getattr(network, option), getattr(type(network), option)
        if value != usual:
            raise ConfigError(
                f"{network.prefix}{option} = {value!r}: has no effect with {network.prefix}network = {name}, "
                f"which replaces these layers; leave it at {usual!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Normalize(Checked):
    """Normalization of observations, rewards and actions."""

    prefix = "normalize."

    obs: bool = True
    """Whether to normalize observations: minus the running mean, divided by the running standard
    deviation."""
    first_rollout: bool = True
    """Whether the observations of the first rollout are normalized with its own statistics for learning;
    otherwise they are not normalized. Later rollouts use the statistics of all rollouts before them."""
    obs_clip: Annotated[float, Bound(gt=0)] | Literal["auto"] | None = "auto"
    """Bound on each entry of an observation, after normalization if that is on; None: no bound. auto: 10 if
    observations are normalized, otherwise no bound."""
    reward: bool = True
    """Whether to normalize rewards: divided by the running standard deviation of the discounted return."""
    reward_clip: Annotated[float, Bound(gt=0)] | Literal["auto"] | None = "auto"
    """Bound on a reward, after normalization if that is on; None: no bound. auto: 1000 if rewards are
    normalized, otherwise no bound (docs/defaults.md)."""
    reward_gamma: Annotated[float | None, Bound(ge=0, le=1)] = None
    """Discount of the return whose standard deviation scales the rewards; None: the value of --ppo.gamma."""
    action: bool = True
    """Whether the policy acts in [-1, 1], rescaled to the bounds of the environment; otherwise it acts in the
    units of the environment, clipped to the bounds."""

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
        """``obs_clip`` as a number or None. Without normalization the usual size is unknown: no bound."""
        if self.obs_clip != "auto":
            return self.obs_clip
        return USUAL_OBS_BOUND if self.obs else None

    @property
    def reward_bound(self) -> float | None:
        """``reward_clip`` as a number or None."""
        if self.reward_clip != "auto":
            return self.reward_clip
        return USUAL_REWARD_BOUND if self.reward else None


@dataclass(frozen=True, kw_only=True)
class Config(Checked):
    """The configuration of one training."""

    earlier: ClassVar = {"num_shards": "env_groups", "from": "start_from"}
    total_steps: Count = 100_000
    """Budget in environment steps, rounded down to whole rollouts."""
    seed: Annotated[int, Bound(ge=0, le=LAST_SEED)] = 0
    """Seed of all random numbers."""
    num_envs: Envs | None = None
    """Environments stepped together, N; None: 16, or fewer if rollouts have fewer than 1,024 rows
    (docs/defaults.md)."""
    env_groups: Count = 1
    """Number of groups the environments are split into. Each is collected independently, with its own noise.
    --workers distributes them; in JAX each also learns on its own rows, and --devices distributes them. The
    result depends on this number, not on workers or devices (docs/scale.md, docs/accelerators.md)."""
    history: Annotated[int, Bound(ge=1, le=2**10)] = 1
    """How many observations both networks read at once: the newest and those before it, K in all."""
    unused: Literal["refuse", "skip"] = "refuse"
    """What to do with an option that has no effect in this environment, for example policy.std-init with
    discrete actions: refuse it, or skip it with a note."""
    start_from: str | None = field(default=None, metadata={"metavar": "RUN"})
    """Start from a trained agent: a run folder (its last agent), or a checkpoint in it, such as
    RUN/checkpoints/best. For short: --from RUN. ENV must have the same spaces. Options of the networks that
    are not given are those of the agent. The optimizers begin anew (docs/starting.md)."""
    start_parts: tuple[str, ...] = field(default=START_PARTS, metadata={"metavar": "PART..."})
    """Parts of that agent to take: policy, value, normalizer. By default all three."""
    demonstrations: str | None = field(default=None, metadata={"metavar": "FILE"})
    """Before the first iteration, fit the policy to the observations and actions in an NPZ file
    (docs/starting.md)."""
    demonstration_epochs: Count = 50
    """Passes of the policy over the demonstrations."""
    start_sum: str | None = field(default=None, metadata={"metavar": "SUM"})
    """SHA-256 that the start must have: of the parameters of the agent of --start-from (parameters_sha256 in
    its summary.json), or of the file of demonstrations. A run writes it to its config.json. By default it is
    not checked."""
    curriculum: str | None = field(default=None, metadata={"metavar": "FUNCTION"})
    """A function of yours, module:function, that changes settings of the environments between rollouts: from
    steps, share of the budget and mean return to attributes of the task (docs/starting.md)."""
    ppo: PPO = field(default_factory=PPO)
    policy: Policy = field(default_factory=Policy)
    value: Value = field(default_factory=Value)
    normalize: Normalize = field(default_factory=Normalize)

    def __post_init__(self) -> None:
        for name in ("start_from", "demonstrations"):
            if isinstance(path := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(path))
        super().__post_init__()
        _check_start(self)
        if self.rollout_size < 2:
            raise ConfigError(f"total_steps = {self.total_steps}: a rollout needs 2 rows ({self._as_text})")
        if self.minibatch_size > self.rollout_size:
            raise ConfigError(
                f"ppo.minibatch_size = {self.ppo.minibatch_size}: must be <= {self.rollout_size}, "
                f"the rows of a rollout ({self._as_text})"
            )
        length, num_steps = self.ppo.sequence_length, self.shape[0]
        if length is not None and num_steps % length:
            raise ConfigError(
                f"ppo.sequence_length = {length}: must divide {num_steps}, the steps of a rollout "
                f"({self._as_text})"
            )
        if self.history > 1 and (self.policy.memory != "none" or self.value.memory != "none"):
            raise ConfigError(
                f"history = {self.history}: choose either this or a memory (policy.memory, value.memory)"
            )
        if self.env_groups > self.shape[1]:
            raise ConfigError(
                f"env_groups = {self.env_groups}: must be <= {self.shape[1]}, the environments "
                f"({self._as_text})"
            )
        if self.total_steps < self.rollout_size:
            raise ConfigError(
                f"total_steps = {self.total_steps}: must be >= {self.rollout_size}, "
                f"one rollout ({self._as_text})"
            )
        self._check_sizes(num_inputs=1, num_outputs=1, row_bytes=8)

    def _check_sizes(self, *, num_inputs: int, num_outputs: int, row_bytes: int) -> None:
        """Refuses networks, rollouts and shuffles that need too much memory.

        ``num_outputs``: of the policy. ``row_bytes``: of an observation before and after, and an action.

        Raises:
            ConfigError: names the option that is too large.
        """
        outputs = num_outputs * (2 if self.policy.std == "predicted" else 1)
        for network, last in ((self.policy, outputs), (self.value, 1)):
            if network.network is not None:
                continue  # its parameters are counted when it is made
            if (count := num_parameters(num_inputs, network.hidden, last)) > MOST_PARAMETERS:
                raise ConfigError(
                    f"{network.prefix}hidden = {network.hidden!r}: the network has {count:,} parameters, "
                    f"must be <= {MOST_PARAMETERS:,}"
                )
        most, ppo = max(self.ppo.epochs), self.ppo
        if (rows := most * self.rollout_size) > MOST_SHUFFLED:
            name = "num_epochs" if most == ppo.num_epochs else "value_num_epochs"
            raise ConfigError(
                f"ppo.{name} = {most}: {rows:,} rows in an iteration ({self._as_text}), "
                f"must be <= {MOST_SHUFFLED:,}"
            )
        size = self.rollout_size * (row_bytes + 16)  # and reward and ends
        if size > MOST_ROLLOUT:
            raise ConfigError(f"{self._as_text}: a rollout has {size:,} bytes, must be <= {MOST_ROLLOUT:,}")

    @property
    def rollout_size(self) -> int:
        """Rows of one rollout, B = T * N."""
        num_steps, num_envs = self.shape
        return num_steps * num_envs

    @property
    def shape(self) -> tuple[int, int]:
        """Steps T and environments N of a rollout; an option that is None is derived from the budget."""
        return defaults.shape(self.total_steps, self.ppo.num_steps, self.num_envs)

    @property
    def minibatch_size(self) -> int:
        """Rows of a minibatch: the option, or derived from the budget if it is None."""
        size = self.ppo.minibatch_size
        return defaults.minibatch_size(self.total_steps, *self.shape) if size is None else size

    @property
    def has_memory(self) -> bool:
        """Whether the policy or the value function reads more than the newest observation."""
        return self.history > 1 or self.policy.memory != "none" or self.value.memory != "none"

    def sequence_length(self, spec: Spec) -> int | None:
        """Steps of a sequence that is learned from, L; None without a memory.

        Nothing is learned from the earlier steps of a history of numbers: its rows are shuffled one by one.
        What an encoder makes of earlier images is learned, too.
        """
        if self.ppo.sequence_length is not None or not self.has_memory:
            return self.ppo.sequence_length
        return 1 if self.history > 1 and not spec.images else self.shape[0]

    @property
    def _as_text(self) -> str:
        num_steps, num_envs = self.shape
        return f"num_envs {num_envs} x ppo.num_steps {num_steps}"

    @property
    def own_networks(self) -> tuple[str, ...]:
        """The names of the networks of the user, of policy and value function."""
        names = (x.network for x in (self.policy, self.value) if x.network is not None)
        return tuple(dict.fromkeys(names))

    @property
    def num_iterations(self) -> int:
        return self.total_steps // self.rollout_size

    def settled(self, spec: Spec) -> "Config":
        """The configuration with a number for each option that is None and derived.

        They are derived from the budget, the number of environments, the time limit of the environment and
        its number of action dimensions, and from nothing else. Options that are skipped have their defaults.
        """
        if self.unused == "skip":
            return self.without_unused(spec).settled(spec)
        ppo, policy = self.ppo, self.policy
        num_steps, num_envs = self.shape
        budget = defaults.comparable_budget(self.total_steps, num_steps, num_envs)
        if policy.std_init is None and spec.boxes:
            policy = dataclasses.replace(policy, std_init=defaults.std_init(spec.box_size))
        if policy.std_rate is None and policy.std == "independent" and spec.boxes:
            policy = dataclasses.replace(policy, std_rate=defaults.std_rate(budget))
        policy, value = (_with_memory_size(network) for network in (policy, self.value))
        rate = defaults.learning_rate(budget)
        chosen = {
            "num_steps": num_steps,
            "minibatch_size": self.minibatch_size,
            "sequence_length": self.sequence_length(spec),
            "value_num_epochs": None if ppo.value_num_epochs == ppo.num_epochs else ppo.value_num_epochs,
            "gamma": defaults.gamma(spec.time_limit) if ppo.gamma is None else ppo.gamma,
            "policy_learning_rate": rate if ppo.policy_learning_rate is None else ppo.policy_learning_rate,
            "value_learning_rate": rate if ppo.value_learning_rate is None else ppo.value_learning_rate,
        }
        ppo = dataclasses.replace(ppo, **chosen)
        normalize = dataclasses.replace(
            self.normalize, obs_clip=self.normalize.obs_bound, reward_clip=self.normalize.reward_bound
        )
        networks = {"policy": policy, "value": value}
        return dataclasses.replace(self, num_envs=num_envs, ppo=ppo, normalize=normalize, **networks)

    def changes(self, spec: Spec) -> dict[str, Any]:
        """The options that differ from the defaults for this budget and environment, by dotted name."""
        usual = self.usual(spec)
        options = flat(self.settled(spec).to_dict())
        return {name: value for name, value in options.items() if value != usual[name]}

    def usual(self, spec: Spec) -> dict[str, Any]:
        """The defaults for this budget, seed and environment, by dotted name."""
        return flat(Config(total_steps=self.total_steps, seed=self.seed).settled(spec).to_dict())

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Config":
        """The configuration that ``to_dict``, or the ``config.json`` of a run, describes.

        The latter has the names in ``BESIDE`` as well; ``poise.train(**data)`` repeats the run with them.

        Raises:
            ConfigError: names the first field that is unknown or has a wrong value.
        """
        if isinstance(data, Mapping):
            data = {name: value for name, value in data.items() if name not in BESIDE}
        return from_dict(cls, data, "")

    def refuse_idle(self) -> None:
        """Refuses options that have no effect in a new training; a resumed training may have them.

        Raises:
            ConfigError: names the first, and the reason.
        """
        ppo, policy, usual = self.ppo, self.policy, PPO()
        self._refuse_idle_start()
        every = ppo.recompute_every
        if every not in (None, usual.recompute_every) and every >= max(ppo.epochs):
            raise ConfigError(
                f"ppo.recompute_every = {every}: has no effect with {max(ppo.epochs)} epochs; "
                "set a smaller number, or None"
            )
        if ppo.sequence_length is not None and not self.has_memory:
            raise ConfigError(
                f"ppo.sequence_length = {ppo.sequence_length}: has no effect without policy.memory, "
                "value.memory or history"
            )
        if ppo.entropy_schedule != "none" and not ppo.entropy_coef:
            raise ConfigError(
                f"ppo.entropy_schedule = {ppo.entropy_schedule!r}: has no effect with ppo.entropy_coef = 0"
            )
        if policy.head_tanh == "all" and policy.std == "independent":
            raise ConfigError(
                "policy.head_tanh = 'all': with policy.std = independent the mean is the only output; "
                "set policy.head_tanh to mean"
            )

    def _refuse_idle_start(self) -> None:
        """Refuses options of a start that there is not."""
        if self.start_from is None and self.start_parts != START_PARTS:
            raise ConfigError(f"start_parts = {' '.join(self.start_parts)}: has no effect without start_from")
        if self.demonstrations is not None and not self.normalize.first_rollout:
            raise ConfigError(
                "normalize.first_rollout = False: has no effect with demonstrations; the first rollout is "
                "normalized with their statistics"
            )
        usual = type(self)().demonstration_epochs
        if self.demonstrations is None and self.demonstration_epochs != usual:
            raise ConfigError(
                f"demonstration_epochs = {self.demonstration_epochs}: has no effect without demonstrations"
            )
        if self.start_sum is not None and self.start_from is None and self.demonstrations is None:
            raise ConfigError(
                f"start_sum = {self.start_sum:.70}: has no effect without start_from or demonstrations"
            )

    def warnings(self) -> list[str]:
        """Sentences about settings that are likely to learn badly. The training runs in any case."""
        num_steps, num_envs = self.shape
        if num_envs <= defaults.MOST_ENVS or self.num_iterations >= FEW_ITERATIONS:
            return []
        iterations = counted(self.num_iterations, "iteration")
        return [
            f"num_envs = {num_envs}: {self.total_steps:,} steps are only {iterations} of "
            f"{num_steps} x {num_envs} steps, which learns badly; "
            f"set --total-steps {FEW_ITERATIONS * self.rollout_size} or more, or fewer environments"
        ]

    def check_against(self, spec: Spec) -> None:
        """Refuses options that have no effect on these spaces (``unused``), and sizes too large for them.

        An option that only happens to have no effect is accepted: with bounds of [-1, 1], actions are the
        same with and without ``normalize.action``.

        Raises:
            ConfigError: names the first such option.
        """
        pixels = sum(math.prod(image.shape) for image in spec.images)
        row_bytes = 2 * (4 * spec.obs_size + pixels) + 4 * (spec.dimensions + spec.noise_size)
        num_inputs = self.history * spec.obs_size
        self._check_sizes(num_inputs=num_inputs, num_outputs=spec.noise_size, row_bytes=row_bytes)
        for network in (self.policy, self.value):
            _check_seen(network, spec)
        if self.unused == "refuse":
            for path, (value, usual, why) in self.without_effect(spec).items():
                raise ConfigError(f"{path} = {value!r}: has no effect on {why}; leave it at {usual!r}")

    def without_effect(self, spec: Spec) -> dict[str, tuple[Any, Any, str]]:
        """The options that are set and have no effect here: of each its value, its default and the reason."""
        idle: dict[str, str] = {}
        if not spec.boxes:
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
        if not spec.choices and self.policy.std == "fixed":
            names = ("ppo.entropy_coef", "ppo.entropy_schedule")
            idle |= dict.fromkeys(names, "a fixed standard deviation, whose entropy is constant")
        if not spec.images:
            idle |= dict.fromkeys(("policy.images", "value.images"), f"{spec.id}, which has no images")
        values, usual = flat(self.to_dict()), flat(Config().to_dict())
        changed = (path for path in idle if values[path] != usual[path])
        return {path: (values[path], usual[path], idle[path]) for path in changed}

    def without_unused(self, spec: Spec) -> "Config":
        """The configuration with the defaults of what has no effect, if that is to be skipped."""
        if self.unused == "refuse":
            return self
        config = dataclasses.replace(self, unused="refuse")
        for path, (_, usual, _) in self.without_effect(spec).items():
            group, name = path.split(".")
            part = dataclasses.replace(getattr(config, group), **{name: usual})
            config = dataclasses.replace(config, **{group: part})
        return config


def _check_start(config: Config) -> None:
    """Checks what a training starts from, and writes the parts in their order.

    Raises:
        ConfigError: names the option.
    """
    words = {word.strip() for part in config.start_parts for word in part.split(",")}
    if not words or words - set(START_PARTS):
        raise ConfigError(
            f"start_parts = {' '.join(config.start_parts)}: must be one or several of "
            f"{', '.join(START_PARTS)}"
        )
    object.__setattr__(config, "start_parts", tuple(part for part in START_PARTS if part in words))
    if config.curriculum is not None and not re.fullmatch(r"[\w.]+:[A-Za-z_][\w.]*", config.curriculum):
        raise ConfigError(
            f"curriculum = {config.curriculum!r}: must be module:function, for example my_envs:widen"
        )
    if config.start_from is not None and config.demonstrations is not None:
        raise ConfigError(
            f"demonstrations = {config.demonstrations!r}: choose either these or start_from; to use both, "
            "start from a run that had the demonstrations"
        )
    if config.demonstrations is not None and (config.policy.memory != "none" or config.history > 1):
        raise ConfigError(
            f"demonstrations = {config.demonstrations!r}: must be None with policy.memory or history; the "
            "rows of the file are learned one by one"
        )


def _with_memory_size(network: Any) -> Any:
    if network.memory == "none" or network.memory_size is not None:
        return network
    return dataclasses.replace(network, memory_size=USUAL_MEMORY)


def _check_seen(network: Policy | Value, spec: Spec) -> None:
    """Refuses names in ``see`` that the observation does not have, or that give nothing to read.

    Raises:
        ConfigError: names the option and the names that there are.
    """
    names = [leaf.name for leaf in spec.obs if leaf.kind != "mask"]
    for name in network.see:
        if name not in names:
            raise ConfigError(
                f"{network.prefix}see = {name!r}: {spec.id} has no such observation; it has "
                f"{', '.join(names)}"
            )
    if set(network.see) == set(names) and network.see:
        raise ConfigError(f"{network.prefix}see = {network.see!r}: has no effect, these are all observations")


def num_parameters(inputs: int, hidden: tuple[int, ...], outputs: int) -> int:
    """Weights and biases of fully connected layers."""
    widths = (inputs, *hidden, outputs)
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def known(value: float | None) -> float:
    """The value of a derived option in a ``settled`` configuration."""
    if value is None:
        raise ConfigError("a derived option is still None: call Config.settled first")
    return value


def factor(schedule: str, share: float) -> float:
    """What a schedule multiplies its number by, at this share of the budget."""
    match schedule:
        case "none":
            return 1.0
        case "linear":
            return 1 - share
        case "cosine":
            return (1 + math.cos(math.pi * share)) / 2
    shares, factors = zip(*parse_schedule(schedule), strict=True)
    return float(np.interp(share, shares, factors))
