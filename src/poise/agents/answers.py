"""What an agent answers besides its action: the value of an observation, and how it draws the action."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from poise.agents.reading import AgentError
from poise.algo import distributions as algo
from poise.algo.networks import Policy, ValueFunction
from poise.algo.normalize import Normalizer
from poise.config import Config
from poise.envs.packing import Obs, first_of, only_action, pack_action, unpack_action
from poise.spec import Part, Spec
from poise.store.checkpoint import Trained
from poise.training.acting import ActionScale, quiet, respond
from poise.training.origin import obs_from_origin
from poise.types import Tensor


@dataclass(frozen=True)
class Distribution:
    """How an agent draws its action for one observation, or for each of N: all arrays then have an axis N.

    The dimensions of a Box are normal and independent. ``mean`` and ``std`` are in the policy's units: -1 and
    1 are the environment's ``low`` and ``high``. A dimension has the environment's own units if it has no
    bounds, or if the agent was trained with ``normalize.action`` off. The environment gets a draw in its own
    units and clipped to its bounds. If an action has several parts, ``mean``, ``std`` and ``probabilities``
    are dictionaries of these by name: the keys to a part, joined by dots.

    Attributes:
        mode: the greedy action, as ``Agent.act`` returns it: in the environment's units.
        entropy: in nats, the sum over all parts. Of a Box it is the differential entropy before clipping, in
            the policy's units; it may be below 0.
        mean: of Boxes, in their own shapes; None without one.
        std: standard deviation of Boxes; None without one.
        probabilities: of Discrete an array of ``n``; of MultiDiscrete and MultiBinary a tuple with such an
            array for each choice, in C order. 0 where a mask forbids the value. None without choices.
    """

    mode: Any
    entropy: Any
    mean: Any = None
    std: Any = None
    probabilities: Any = None


class Performed(NamedTuple):
    """Actions in the policy's form, and which dimensions of boxes are at a bound of the environment."""

    action: Shaped[Tensor, "*N_A"]
    at_low: Bool[Tensor, "*N A"]
    at_high: Bool[Tensor, "*N A"]


class Answers:
    """Both networks of an agent on packed observations, compiled at the first call for a number of rows.

    Carries are changed to what the memories hold after the observation.
    """

    def __init__(self, trained: Trained, spec: Spec, config: Config, scale: ActionScale):
        self._given, self._spec, self._scale = trained, spec, scale
        self._options = {"enabled": config.normalize.obs, "bound": config.normalize.obs_bound}
        # the value function learned normalized rewards: raw rewards divided by this
        self._unit = float(trained.normalizer.ret.std) if config.normalize.reward else 1.0

    @cached_property
    def _trained(self) -> Trained:
        """On one device: in a training, policy and value function are on two."""
        return jax.device_put(jax.device_get(self._given))

    @property
    def value_carry_size(self) -> int:
        """Numbers that the value function's memory carries for one environment, S; 0 without a memory."""
        memory = self._given.value.memory
        return 0 if memory is None else memory.carry_size

    def value(self, obs: Obs, carry: Float[np.ndarray, "N S"] | None) -> Float[np.ndarray, " N"]:
        """The discounted return from here on, in the units of the environment's reward."""
        normalizer = self._trained.normalizer
        relative = obs_from_origin(obs, normalizer.origin)
        values, after = _value(self._trained.value, normalizer, relative, carry, **self._options)
        _keep(carry, after)
        return np.asarray(values) * self._unit

    def distribution(self, obs: Obs, carry: Float[np.ndarray, "N S"] | None) -> Distribution:
        """How the actions are drawn."""
        policy, normalizer = self._trained.policy, self._trained.normalizer
        relative = obs_from_origin(obs, normalizer.origin)
        given, entropy, mode, after = _distribution(policy, normalizer, relative, carry, **self._options)
        _keep(carry, after)
        with quiet():
            mode = self._scale(np.asarray(mode))
        box, choices = _halves(given)
        return Distribution(
            mode=unpack_action(self._spec, mode),
            entropy=np.asarray(entropy),
            mean=None if box is None else self._of_boxes(np.asarray(box.mean)),
            std=None if box is None else self._of_boxes(np.asarray(box.std)),
            probabilities=None if choices is None else self._of_choices(choices.logits),
        )

    def log_prob(
        self, obs: Obs, performed: Performed, carry: Float[np.ndarray, "N S"] | None
    ) -> Float[np.ndarray, " N"]:
        """The log-probability of actions, in nats."""
        policy, normalizer = self._trained.policy, self._trained.normalizer
        relative = obs_from_origin(obs, normalizer.origin)
        log_prob, after = _log_prob(policy, normalizer, relative, carry, performed, **self._options)
        _keep(carry, after)
        return np.asarray(log_prob)

    def performed(self, action: Any, num_envs: int | None) -> Performed:
        """``performed`` for this agent."""
        return performed(self._spec, self._scale, action, num_envs)

    def _of_boxes(self, rows: Float[np.ndarray, "N A"]) -> Any:
        """Columns of boxes in the shapes of their parts."""
        arrays, start = {}, 0
        for part in self._spec.boxes:
            arrays[part.name] = rows[:, start : start + part.num_columns].reshape(len(rows), *part.shape)
            start += part.num_columns
        return self._by_name(arrays)

    def _of_choices(self, logits: Float[Array, "N M"]) -> Any:
        """The probabilities of the values of each choice."""
        found, start = {}, 0
        for part in self._spec.choices:
            arrays = []
            for size in part.sizes:
                arrays.append(np.asarray(jax.nn.softmax(logits[:, start : start + size], axis=1)))
                start += size
            found[part.name] = arrays[0] if part.shape == () else tuple(arrays)
        return self._by_name(found)

    def _by_name(self, arrays: dict[str, Any]) -> Any:
        parts: tuple[Part, ...] = self._spec.action
        return arrays if parts[0].path else next(iter(arrays.values()))


def performed(spec: Spec, scale: ActionScale, action: Any, num_envs: int | None) -> Performed:
    """Actions of the environment; ``num_envs``: of a batch, None for one action.

    Raises:
        AgentError: an action has not the form of the action space, or is outside of it.
    """
    try:
        rows = pack_action(spec, action, num_envs)
    except (LookupError, TypeError, ValueError) as error:
        raise AgentError(f"action does not have the form of {spec.describe_action()}: {error}") from error
    size = spec.box_size
    box, chosen = rows[:, :size], rows[:, size:]
    low, high = scale.low[:size], scale.high[:size]
    with quiet():  # of an infinite bound
        slack = [np.spacing(np.abs(bound), dtype=np.float32) for bound in (low, high)]
        outside = ~np.isfinite(box) | (box < (low - slack[0])) | (box > (high + slack[1]))
    wrong = (chosen != np.rint(chosen)) | (chosen < 0) | (chosen >= np.array(spec.sizes))
    if outside.any() or wrong.any():
        raise AgentError(f"action {action!r:.60} is outside of the action space of {spec.id}")
    divisor = np.where(scale.scale == 0, 1, scale.scale)  # 0 where the bounds are equal
    own = (rows - scale.center) / divisor
    form = spec.zero_actions(len(rows))
    return Performed(own.reshape(form.shape).astype(form.dtype), box <= low, box >= high)


def first_row(answer: Distribution) -> Distribution:
    """The first row of a distribution."""
    rows: dict[str, Any] = {name: None if x is None else first_of(x) for name, x in vars(answer).items()}
    return Distribution(**rows | {"entropy": float(rows["entropy"]), "mode": only_action(answer.mode)})


def _keep(carry: Float[np.ndarray, "N S"] | None, after: Any) -> None:
    if carry is not None:
        carry[:] = after


def _halves(
    given: algo.Distribution,
) -> tuple[algo.DiagGaussian | None, algo.Categorical | algo.Choices | None]:
    """The distributions of boxes and of choices."""
    match given:
        case algo.Joint():
            return given.box, given.choices
        case algo.DiagGaussian():
            return given, None
        case _:
            return None, given


@partial(jax.jit, static_argnames="enabled")
def _value(
    value: ValueFunction, normalizer: Normalizer, obs: Any, carry: Any, *, bound: Any, enabled: bool
) -> tuple[Float[Array, " N"], Any]:
    return jax.vmap(lambda o, c: respond(value, normalizer, o, c, bound=bound, enabled=enabled))(obs, carry)


@partial(jax.jit, static_argnames="enabled")
def _distribution(
    policy: Policy, normalizer: Normalizer, obs: Any, carry: Any, *, bound: Any, enabled: bool
) -> Any:
    """The distributions, their entropies and modes, and the carries after the observations."""

    def one(obs, carry):
        given, carry = respond(policy, normalizer, obs, carry, bound=bound, enabled=enabled)
        no_noise = jnp.zeros(policy.box_size + sum(policy.sizes))
        return given, given.entropy(), given.draw(no_noise), carry

    return jax.vmap(one)(obs, carry)


@partial(jax.jit, static_argnames="enabled")
def _log_prob(
    policy: Policy,
    normalizer: Normalizer,
    obs: Any,
    carry: Any,
    performed: Performed,
    *,
    bound: Any,
    enabled: bool,
) -> tuple[Float[Array, " N"], Any]:
    def one(obs, carry, performed):
        given, carry = respond(policy, normalizer, obs, carry, bound=bound, enabled=enabled)
        return _log_likelihood(given, performed), carry

    return jax.vmap(one)(obs, carry, performed)


def _log_likelihood(given: algo.Distribution, performed: Performed) -> Float[Array, ""]:
    """log p(action) of the action that the environment gets, in nats and in the policy's units."""
    match given:
        case algo.DiagGaussian():
            return _clipped(given, performed)
        case algo.Joint():
            size = given.box.mean.shape[0]
            box = _clipped(given.box, performed._replace(action=performed.action[:size]))
            return box + _allowed(given.choices.log_prob(performed.action[size:].astype(jnp.int32)))
        case _:
            return _allowed(given.log_prob(performed.action))


def _clipped(box: algo.DiagGaussian, performed: Performed) -> Float[Array, ""]:
    """A density within the bounds. At a bound, the probability of all draws that are clipped to it.

    Fujita and Maeda 2018, arXiv:1802.07564. A dimension whose bounds are equal has one action: log 1 = 0.
    """
    within = jax.vmap(lambda m, s, a: algo.DiagGaussian(m[None], s[None]).log_prob(a[None]))
    z = (performed.action - box.mean) / box.std
    each = within(box.mean, box.std, performed.action)
    each = jnp.where(performed.at_low, jax.scipy.stats.norm.logcdf(z), each)
    each = jnp.where(performed.at_high, jax.scipy.stats.norm.logcdf(-z), each)
    return jnp.sum(jnp.where(performed.at_low & performed.at_high, 0.0, each))


def _allowed(log_prob: Float[Array, ""]) -> Float[Array, ""]:
    """-inf for a value that a mask forbids."""
    return jnp.where(log_prob < algo.FORBIDDEN / 2, -jnp.inf, log_prob)
