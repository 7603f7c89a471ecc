"""``poise check ENV``: play an environment and find what would degrade or break a training.

The environment runs in a process of its own, which may die or hang. What is played follows from fixed seeds.
No rule knows the name of an environment.
"""

import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from poise import defaults, envs
from poise.checked import ConfigError
from poise.envs.checking import Checked, EnvFault, described
from poise.envs.forms.given import texts_of
from poise.envs.forms.making import is_registered, make_plain
from poise.envs.forms.text import combine
from poise.envs.gymnasium import spec_of
from poise.envs.mujoco_warnings import hear_mujoco
from poise.envs.naming import refuse_in_processes
from poise.envs.native.names import find
from poise.envs.processes import GUARD, UnguardedError
from poise.envs.spaces import MaskSource
from poise.envs.vector import EnvError
from poise.health.findings import SEVERITIES, Finding, by_severity
from poise.health.forecast import costs, in_words
from poise.health.probing import (
    JaxAdapter,
    Kind,
    Play,
    Send,
    TaskAdapter,
    Watched,
    fault_in_words,
    without_poise_lines,
)
from poise.health.symptoms import RULES
from poise.runs.crash import CRASH, Replayed, replay
from poise.spec import MASK, Spec
from poise.system.interrupts import UNGUARDED, refuse_imported_script
from poise.system.notebook import preformatted
from poise.system.pulse import announced
from poise.system.streams import TextOut
from poise.system.terminal import print, typed
from poise.wording import counted

MASKS: dict[MaskSource, str] = {
    "obs": f'obs["{MASK}"]',
    "info": f'info["{MASK}"]',
    "method": "action_masks()",
}
SECONDS = 10.0  # of random play; a fast environment needs a tenth of that


@dataclass(frozen=True, repr=False)
class Inspection:
    """The findings about an environment, the most severe first, and facts about it.

    Attributes:
        env: the id.
        facts: spaces, time limit, backend, microseconds of a step and a reset, seconds that a training would
            take, how much was played. Facts that are not known are missing. ``obs_shape`` is the shape of an
            observation that is one vector. Of any other, ``leaves`` has the name, kind and shape of each
            array, and ``observation`` has them in words. ``masks``: where the masks of choices come from.
        findings: empty if nothing was found.
    """

    env: str
    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that makes a training wrong or impossible."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        findings = [finding.to_dict() for finding in self.findings]
        return {"env": self.env, "ok": self.ok, "facts": self.facts, "findings": findings}

    def lines(self) -> list[str]:
        """As text for people."""
        text = [self.env, *_facts_in_words(self.facts), ""]
        for finding in self.findings:
            text += [*finding.lines(), ""]
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        counted = [f"{n} {s}{'s' * (n > 1)}" for s, n in counts.items() if n]
        text.append(", ".join(counted) if counted else "nothing found")
        if self.ok:
            text.append(f"to train on it: {typed('poise', 'train', self.env)}")
        return text

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        codes = ", ".join(finding.rule for finding in self.findings)
        return f"Inspection({self.env}: {codes or 'nothing found'})"

    def _repr_html_(self) -> str:
        return preformatted(self.lines())


def check(
    env_or_crash: Any,
    *,
    env: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[Any] = (),
    env_timeout: float = 60.0,
    file: TextOut | None = None,
) -> Inspection | Replayed:
    """Plays an environment in a process, and finds what would break a training; or repeats a failed episode.

        print(poise.check("my_robot:MyRobot"))   # what the command prints

    In a script, the call stands under ``if __name__ == "__main__":``.

    Args:
        env_or_crash: an environment as ``train`` takes it; or the ``crash.json`` of a run, or its folder.
        env: the environment of a crash.json, repeated where that names a module (``module:Task``): a file
            alone never makes Python import one.
        env_kwargs, wrappers: of the environment, as of ``train``.
        env_timeout: seconds after which a step, a reset or the constructor counts as hanging.
        file: where a line says what is being done, if it takes long; standard output by default.

    Returns:
        What was found; its ``ok`` is False if a training would be wrong or impossible, or if the episode
        fails again.

    Raises:
        EnvError: there is no such environment.
        ConfigError: the folder has no ``crash.json``, or ``env`` has no effect.
        ReplayError: the ``crash.json`` is damaged, or names a module that ``env`` does not repeat.
        UnguardedError: the call is not under the main guard.
    """
    refuse_imported_script()
    is_path = isinstance(env_or_crash, str | Path)
    say = partial(print, file=sys.stdout if file is None else file, flush=True)
    with announced("making the environment", say) as pulse:
        if is_path and is_crash(env_or_crash):
            if env_kwargs or wrappers:
                raise ConfigError("env_kwargs and wrappers are not for a crash.json, which has its own")
            pulse.doing("playing the episode again")
            return replay(Path(env_or_crash), env=env, timeout=env_timeout)
        if is_path and (Path(env_or_crash) / "config.json").exists():
            raise ConfigError(f"{env_or_crash}: this run has no crash.json: no episode that failed was kept")
        if env is not None:
            raise ConfigError("--env is only for a crash.json; to check an environment, pass its name alone")
        text = combine(envs.as_text(env_or_crash), env_kwargs or {}, texts_of(wrappers))
        refuse_in_processes(text, "poise check")
        return inspect(text, timeout=env_timeout, watch=pulse.doing)
    raise AssertionError


def is_crash(target: str | Path) -> bool:
    """Whether a text is the path of a ``crash.json``, or of a run folder that has one."""
    path = Path(target)
    return path.is_file() or (path / CRASH).exists() or path.suffix == ".json"


def inspect(
    id: str, *, timeout: float = 60.0, watch: Callable[[str], None] = lambda doing: None
) -> Inspection:
    """Play an environment in a process of its own, and report what is wrong with it.

    Args:
        id: a registered id, or ``module:name`` of an id or a class. The module is imported.
        timeout: seconds after which a step, a reset or the constructor counts as hanging.
        watch: is told what is being done.

    Raises:
        EnvError: there is no such environment.
        UnguardedError: the script that calls this has no main guard.
    """
    envs.resolve(id)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_child, args=(id, sender), daemon=True)
    process.start()
    sender.close()
    facts: dict[str, Any] = {}
    findings: list[Finding] = []
    doing = "making the environment"
    try:
        while True:
            if not receiver.poll(timeout):
                findings.append(_hangs(doing, timeout))
                break
            kind, content = json.loads(receiver.recv_bytes())
            if kind == "finding":
                findings.append(Finding(**content))
            elif kind == "facts":
                facts |= content
            elif kind == "doing":
                doing = content
                watch(doing)
            else:
                break
    except EOFError:
        process.join(5)
        if process.exitcode == UNGUARDED:
            raise UnguardedError(GUARD) from None
        findings.append(_dies(doing, process.exitcode))
    finally:
        receiver.close()
        process.kill()
        process.join()
    return Inspection(id, facts, by_severity(findings))


def _hangs(doing: str, timeout: float) -> Finding:
    return Finding(
        "hangs",
        "error",
        f"no response for {timeout:g} s while {doing}",
        "A training would wait there forever; with --backend gymnasium-async, until --env-timeout.",
        "if it is only slow, give it more time: --env-timeout SECONDS",
    )


def _dies(doing: str, code: int | None) -> Finding:
    return Finding(
        "dies",
        "error",
        f"its process {_ending(code)} while {doing}",
        "A training would end there. With --backend gymnasium-async --on-crash restart only that episode is "
        "lost.",
        "look for a crash in compiled code, or for a call that ends the process",
    )


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _run_child(id: str, pipe: Connection) -> None:
    """In the child process: send the parent what is being done, each finding, and the end."""

    def send(kind: str, content: Any) -> None:
        pipe.send_bytes(json.dumps([kind, content]).encode())

    with suppress(OSError):
        os.dup2(2, 1)  # what an environment prints is not part of the result
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for finding in look(id, send):
            send("finding", finding.to_dict())
    send("done", None)


def look(id: str, send: Send, *, seconds: float = SECONDS) -> Iterator[Finding]:
    """Apply all rules, in this process. What an environment raises is the last finding.

    Args:
        id: of the environment.
        send: is told what is being done, and facts.
        seconds: limit of random play.

    Raises:
        EnvError: there is no such environment.
    """
    resolved = envs.resolve(id)
    hear_mujoco()
    kind = _kind_of(resolved)
    page = {"task": "docs/robots.md", "jax": "docs/jax.md"}.get(kind, "docs/environments.md")
    try:
        spec, masks = _read(resolved, kind, send)
        send("facts", _describe(spec, resolved.backend, masks))
        instances = [_instance(resolved, kind, masks, i) for i in range(2)]
    except EnvError as error:
        yield _cannot_be_made(f"{error}".strip(), "poise cannot train on it.", f"see {page}")
        return
    except Exception as error:
        if isinstance(error, EnvFault) and kind == "gymnasium":  # of the first reset
            yield _breaks(without_poise_lines(str(error)))
            return
        what = f"{error}" if isinstance(error, EnvFault) else f"making it raised {described(error)}"
        yield _cannot_be_made(what, "No training can start.", "fix the problem that the message describes")
        return
    play = Play(id, spec, instances, send, kind=kind, seconds=seconds)
    only_notes = True
    for finding in _apply_rules(play, resolved, send):
        only_notes &= finding.severity == "note"
        yield finding
    for env in instances:
        with suppress(Exception):
            env.close()
    if only_notes and kind == "gymnasium" and masks is None:  # its random actions ignore a mask
        yield from _run_gymnasium_checker(id, send)


def _kind_of(resolved: envs.Resolved) -> Kind:
    """What is played: Gymnasium's version of a task, if there is one."""
    if resolved.backend == "atari":  # only the backend has the preprocessing
        return "task"
    if is_registered(resolved.id):
        return "gymnasium"
    return "jax" if resolved.backend == "native" else "task"


def _read(resolved: envs.Resolved, kind: Kind, send: Send) -> tuple[Spec, MaskSource | None]:
    """The spec of the environment, and where it has masks. An environment with choices is reset for that."""
    id = resolved.id
    if kind != "gymnasium":
        spec = envs.make(id, 1).spec
        return spec, "obs" if spec.masked else None
    env = Checked(make_plain(id), id, 0)
    send("doing", "starting an episode (seed 0)")
    try:
        return spec_of(lambda: env)
    except EnvFault:
        send("facts", _describe(env.read, resolved.backend, None))
        raise


def _instance(resolved: envs.Resolved, kind: Kind, masks: MaskSource | None, index: int) -> Checked:
    """An environment that is played."""
    id = resolved.id
    if kind == "jax":
        task = find(id)
        assert task is not None  # it was resolved
        return Checked(Watched(JaxAdapter(task)), id, index, masks)
    if kind == "task":
        return Checked(TaskAdapter(resolved), id, index)
    return Checked(Watched(make_plain(id)), id, index, masks)


def _apply_rules(play: Play, resolved: envs.Resolved, send: Send) -> Iterator[Finding]:
    """A fault of the environment ends the check; so does a fault of a rule, which is reported as poise's."""
    try:
        yield from itertools.chain.from_iterable(rule(play) for rule in RULES)
        send("facts", costs(play, resolved))
    except EnvFault as fault:
        yield _breaks(fault_in_words(fault, play))
    except Exception as error:
        yield Finding(
            "check-failed",
            "warning",
            f"the check itself failed: {described(error)}",
            "This is a fault of poise. Earlier findings are right; the rest was not checked.",
            "please report it, with the environment",
        )


def _breaks(message: str) -> Finding:
    return Finding(
        "breaks",
        "error",
        message,
        "A training would end there, with the same message.",
        "fix the problem that the message describes; the seed and the step reproduce it",
    )


def _cannot_be_made(message: str, meaning: str, fix: str) -> Finding:
    return Finding("cannot-be-made", "error", without_poise_lines(message), meaning, fix)


# messages of Gymnasium's checker that are about taste or rendering, or that a rule reports already
_NOISE = re.compile(
    r"render|out of date|infinity|symmetric and normalized|no lower bound|no upper bound|is not within the "
    r"observation space|precision|float64|float32|dtype|`env.spec`|rgb|not within the expected|different "
    r"from the unwrapped|deepcopy|pickle|Casting|"
    r"truncates after 1 step",  # this one is given for any flag that is a NumPy bool
    re.IGNORECASE,
)


def _run_gymnasium_checker(id: str, send: Send) -> Iterator[Finding]:
    """The messages of Gymnasium's own checker, as notes."""
    from gymnasium.utils.env_checker import check_env

    send("doing", "running Gymnasium's checker")
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_env(make_plain(id).unwrapped, skip_render_check=True, skip_close_check=True)
        except AssertionError as error:
            messages.append(f"{error}")
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    messages += [str(warning.message) for warning in caught]
    plain = dict.fromkeys(re.sub(r"\x1b\[\d+m|WARN: ", "", text).strip() for text in messages)
    for text in plain:
        if not _NOISE.search(text):
            yield Finding(
                "gymnasium-checker",
                "note",  # poise's own rules check what poise needs
                text.split("\n")[0],
                "Gymnasium's interface asks for this. Other programs may rely on it.",
                "see https://gymnasium.farama.org/api/env/",
            )


def _describe(spec: Spec, backend: str, masks: MaskSource | None) -> dict[str, Any]:
    part, (leaf, *others) = spec.action[0], spec.obs
    plain_box = len(spec.action) == 1 and part.is_box and not part.path
    facts: dict[str, Any] = {
        "action": _counted(spec.box_size) if plain_box else spec.describe_action(),
        "time_limit": spec.time_limit,
        "backend": backend,
        "gamma": defaults.gamma(spec.time_limit),
    }
    if leaf.kind == "vector" and not leaf.path and not others:
        return {"obs_shape": list(leaf.shape), **facts}
    leaves = [{"name": x.name, "kind": x.kind, "shape": list(x.shape)} for x in spec.obs]
    words = spec.describe_obs() if leaf.path or others else leaf.describe()
    facts = {"observation": words, "leaves": leaves, **facts}
    return facts | ({} if masks is None else {"masks": MASKS[masks]})


def _counted(numbers: int) -> str:
    return f"{numbers} number{'s' * (numbers != 1)}"


def _facts_in_words(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    observed, limit = facts.get("observation"), facts["time_limit"]
    if observed is None:
        shape = " x ".join(str(n) for n in facts["obs_shape"]) or "1"
        observed = shape if " " in shape else _counted(int(shape))
    lines = [
        f"  observes {observed}, acts by {facts['action']}, "
        + (f"at most {limit:,} steps" if limit else "no time limit"),
        f"  trained on backend {facts['backend']}, discount {facts['gamma']:.4g}",
    ]
    if "masks" in facts:
        lines.append(f"  choices are masked by {facts['masks']}")
    if "step_us" in facts:
        lines.append(
            f"  {facts['step_us']:,.0f} us a step, {facts['reset_us']:,.0f} us a reset "
            f"({facts['played_steps']:,} steps in {counted(facts['played_episodes'], 'episode')} were played)"
        )
    return lines + in_words(facts)
