"""The names that options have elsewhere, and what to write in poise."""

import difflib
import re
from collections.abc import Collection
from typing import Literal

from poise.settings import sb3

Where = Literal["command", "file", "python"]

# names in Stable-Baselines3, RL Zoo, CleanRL and the paper, without their groups
SYNONYMS = {
    **{
        name: option.replace("_", "-")
        for name, option in sb3.RENAMED.items()
        if option.rpartition(".")[2] != name
    },
    "total_timesteps": "total-steps",
    "timesteps": "total-steps",
    "steps": "total-steps",
    "budget": "total-steps",
    "epochs": "ppo.num-epochs",
    "update_epochs": "ppo.num-epochs",
    "train_pi_iters": "ppo.num-epochs",
    "train_v_iters": "ppo.value-num-epochs",
    "num_minibatches": "ppo.minibatch-size (the rows of one, not how many there are)",
    "frame_stack": "history",
    "clip_range": "ppo.clip (lin_0.2: --ppo.clip 0.2 --ppo.clip-schedule linear)",
    "clip_coef": "ppo.clip",
    "clip_ratio": "ppo.clip",
    "epsilon": "ppo.clip",
    "clip_range_schedule": "ppo.clip-schedule",
    "anneal_clip": "ppo.clip-schedule",
    "ent_coef_schedule": "ppo.entropy-schedule",
    "anneal_ent": "ppo.entropy-schedule",
    "discount": "ppo.gamma",
    "lambda": "ppo.lam",
    "anneal_lr": "ppo.anneal",
    "lr_schedule": "ppo.anneal",
    "learning_rate_schedule": "ppo.anneal",
    "schedule": "ppo.anneal",
    "norm_adv": "ppo.normalize-advantage",
    "net_arch": "policy.hidden and --value.hidden",
    "hidden_sizes": "policy.hidden and --value.hidden",
    "layers": "policy.hidden and --value.hidden",
    "activation_fn": "policy.activation and --value.activation",
    "ortho_init": "policy.init and --value.init",
    "log_std_init": "policy.std-init (the standard deviation, not its logarithm)",
    "lr": "ppo.policy-learning-rate and --ppo.value-learning-rate",
    "learning_rate": "ppo.policy-learning-rate and --ppo.value-learning-rate",
    "normalize_observation": "normalize.obs",
    "norm_obs": "normalize.obs",
    "norm_reward": "normalize.reward",
    "clip_obs": "normalize.obs-clip",
    "eval_freq": "eval-every",
    "eval_env": "eval-every (the score is played in environments of its own)",
    "log_interval": "log-every",
    "hyperparameters": "config",
    "hyperparams": "config",
    "conf_file": "config",
    "n_eval_episodes": "eval-episodes",
    "save_freq": "checkpoint-every",
    "capture_video": "video",
    "log_dir": "out",
    "output": "out",
    "exp_name": "name",
    "run_name": "name",
    "tags": "tag",
    "notes": "note",
    "num_seeds": "seeds",
    "n_seeds": "seeds",
    "n_trials": "trials",
    "vec_env": "backend",
    "env_wrapper": "wrapper",
    "wrappers": "wrapper",
}
# names without an option; those of Stable-Baselines3 are in ``sb3.WITHOUT``
WITHOUT = {
    "gpu": "write --device gpu",
    "cuda": "write --device gpu",
    "algo": "PPO is the only algorithm",
    "env_kwargs": "write --env.KEY VALUE for each argument",
    "track": "docs/reading.md describes the files of a run folder, for use with other tools",
    "wandb_project_name": "docs/reading.md describes the files of a run folder, for use with other tools",
    "progress_bar": "progress is always shown",
    "save_model": "the agent is always saved in the run folder",
    "torch_deterministic": "a training with the same --seed always gives the same result",
    "env_id": "write the value alone: poise train ENV",
    "policy": "the networks follow from the spaces; see --policy.hidden and --policy.memory",
    "policy_kwargs": "see --policy.hidden and --policy.activation, and the same of --value",
    "features_extractor_class": "see --policy.network and --policy.images",
    "normalize": "observations and rewards are normalized; --normalize.no-obs and --normalize.no-reward",
    "clip_vloss": sb3.WITHOUT["clip_range_vf"],
    "n_jobs": "trainings run on all cores",
    "seeds": "--seeds is an option of poise train, experiment and sweep",
    "optimize": "poise sweep searches settings",
    "optimize_hyperparameters": "poise sweep searches settings",
}
# where Python has other words than those of ``WITHOUT`` and ``sb3.WITHOUT``
IN_PYTHON = {
    "seeds": "poise.experiment trains with several seeds",
    "gpu": 'write device="gpu"',
    "cuda": 'write device="gpu"',
    "env_id": "write the value alone: poise.train(ENV)",
    "verbose": "progress is written to file; file=io.StringIO() shows nothing",
    "progress_bar": "progress is written to file; file=io.StringIO() shows nothing",
    "callback": "poise.train calls on_iteration after each iteration; poise.session is a loop of your own",
    "json": "what the call returns has the result",
    "optimize": "poise.sweep searches settings",
    "optimize_hyperparameters": "poise.sweep searches settings",
}


def instead(name: str, options: Collection[str], where: Where = "command") -> str:
    """What to write in place of an unknown option; "" if no option is similar.

    ``name`` and ``options`` have underscores. ``where`` it is written: on the command line it is
    ``--ppo.num-steps``, in a file and in Python ``ppo.num_steps``.
    """
    _, _, last = name.rpartition(".")
    if meant := SYNONYMS.get(last):
        first = meant.split(" ")[0].replace("-", "_")
        if first in options:
            return f"; in poise it is {_written('--' + meant, options, where)}"
        name, last = (
            first,
            first.rpartition(".")[2],
        )  # it may have another name here, or be an option elsewhere
    without = IN_PYTHON.get(last) if where == "python" else None
    without = without or WITHOUT.get(last) or sb3.WITHOUT.get(last)
    if without is not None:
        return f"; {_written(without, options, where)}"
    if name.startswith("env."):
        world = f"write the whole environment with its arguments: --env 'ID({last}=VALUE)'"
        return f"; {world if where == 'command' else 'in poise it is env_kwargs'}"
    near = [_written(f"--{x.replace('_', '-')}", options, where) for x in _near(name, options)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _near(name: str, options: Collection[str]) -> list[str]:
    """The options with a similar name, or with a similar one in another group."""
    _, _, last = name.rpartition(".")
    grouped = {option.rpartition(".")[2]: option for option in sorted(options)}
    near = [option for option in sorted(options) if option.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(name, sorted(options), n=3)
    return near or [grouped[name] for name in difflib.get_close_matches(last, grouped, n=3, cutoff=0.75)]


def _written(text: str, options: Collection[str], where: Where) -> str:
    """The text with the options as they are written there. Those of the command alone stay as typed."""
    if where == "command":
        return text

    def plain(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        name = "wrappers" if name == "wrapper" else name
        return name if name in options else match[0]

    return re.sub(r"--([a-z.-]+)", plain, text)
