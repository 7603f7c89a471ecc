"""The settings of one iteration: numbers are traced; switches and sizes are static."""

import equinox as eqx
from jaxtyping import Array, Float

from poise.config import Config, factor, known

Number = float | Float[Array, ""]


class Hyperparameters(eqx.Module):
    """The settings of one iteration.

    Numbers are leaves of the tree: another value compiles nothing, and ``jax.vmap`` maps over them. None
    removes a limit. Another switch or size, or None in place of a number, compiles again.
    """

    policy_step_size: Number  # of Adam, in this iteration
    value_step_size: Number
    std_rate: Number  # step size of an independent log_std, as a multiple of policy_step_size
    gamma: Number
    lam: Number
    reward_gamma: Number  # discount of the return whose deviation scales the rewards
    clip: Number
    entropy_coef: Number
    max_grad_norm: Number | None
    target_kl: Number | None
    obs_bound: Number | None  # in deviations if observations are normalized, otherwise in their units
    reward_bound: Number | None

    num_epochs: int = eqx.field(static=True)  # of the network that has more of them
    policy_epochs: int = eqx.field(static=True)
    value_epochs: int = eqx.field(static=True)
    minibatch_size: int = eqx.field(static=True)  # rows, of all groups together
    groups: int = eqx.field(static=True)  # of environments that learn together (``groups.py``)
    # steps of an item with a memory; None: an item is a row
    sequence_length: int | None = eqx.field(static=True)
    recompute_every: int | None = eqx.field(static=True)  # epochs that share advantages; None: all
    normalize_advantage: bool = eqx.field(static=True)
    normalize_obs: bool = eqx.field(static=True)
    normalize_reward: bool = eqx.field(static=True)
    normalize_first_rollout: bool = eqx.field(static=True)
    reset_every_rollout: bool = eqx.field(static=True)  # whether each rollout starts new episodes

    @property
    def num_items(self) -> int:
        """Items of a minibatch, of one group."""
        return max(1, self.minibatch_size // (self.sequence_length or 1) // self.groups)

    @classmethod
    def of(cls, config: Config, iteration: int, *, groups: int = 1) -> "Hyperparameters":
        """The settings of iteration ``iteration``, counted from 0, of a configuration that is settled."""
        ppo, normalize = config.ppo, config.normalize
        return cls(
            **scheduled(config, iteration),
            std_rate=1.0 if config.policy.std_rate is None else config.policy.std_rate,
            gamma=known(ppo.gamma),
            lam=ppo.lam,
            reward_gamma=known(ppo.gamma if normalize.reward_gamma is None else normalize.reward_gamma),
            max_grad_norm=ppo.max_grad_norm,
            target_kl=ppo.target_kl,
            obs_bound=normalize.obs_bound,
            reward_bound=normalize.reward_bound,
            num_epochs=max(ppo.epochs),
            policy_epochs=ppo.epochs[0],
            value_epochs=ppo.epochs[1],
            minibatch_size=config.minibatch_size,
            groups=groups,
            sequence_length=ppo.sequence_length,
            recompute_every=ppo.recompute_every,
            normalize_advantage=ppo.normalize_advantage,
            normalize_obs=normalize.obs,
            normalize_reward=normalize.reward,
            normalize_first_rollout=normalize.first_rollout,
            reset_every_rollout=ppo.reset_every_rollout,
        )


def scheduled(config: Config, iteration: int) -> dict[str, float]:
    """The numbers of an iteration that have a schedule, by their names in ``Hyperparameters``."""
    ppo, share = config.ppo, iteration / config.num_iterations  # of the budget, before the iteration
    rate = factor(ppo.anneal, share)
    return {
        "policy_step_size": known(ppo.policy_learning_rate) * rate,
        "value_step_size": known(ppo.value_learning_rate) * rate,
        "clip": ppo.clip * factor(ppo.clip_schedule, share),
        "entropy_coef": ppo.entropy_coef * factor(ppo.entropy_schedule, share),
    }
