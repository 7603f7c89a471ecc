"""``poise check ENV``: what in an environment would spoil a training, found by playing it.

All of it is done in a process of its own, which may die or hang. What is played is a function of fixed seeds.
No rule knows an environment's name.
"""

import itertools
import json
import multiprocessing
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np

from poise import defaults, envs
from poise.cores import num_cores
from poise.envs.checking import Checked, EnvFault, described
from poise.envs.gymnasium import is_registered, make_plain, spec_of
from poise.envs.unstable import hear_mujoco
from poise.envs.vector import EnvError
from poise.findings import Finding, by_severity
from poise.spec import Spec
from poise.terminal import typed

SECONDS = 10.0  # of playing; a quick environment needs a tenth of that
EPISODES, STEPS = 12, 4000  # of random play, and as many steps at most
SLOW = 500e-6  # seconds of a step from which on a process for each environment pays
TRAINING = 100_000  # steps of the training whose time is foretold
OVERHEAD = 25e-6  # seconds of a step for acting, learning and logging, on two cores (docs/performance.md)
START = 3.0  # seconds for import, compilation from the cache, score
LARGE, SMALL = 1e6, 1e-6  # sizes of rewards that are odd
SPARSE = 0.01  # share of steps with a reward
EXTREME = 10.0  # what stands for the end of a range without bounds
LONG = 3.0  # horizons in an episode from which on it is called long
Send = Callable[[str, Any], None]


@dataclass(frozen=True)
class Inspection:
    """What was found, gravest first, and the facts that go before it.

    Attributes:
        env: the id.
        facts: spaces, time limit, backend, microseconds of a step and a reset, seconds that training would
            take, how much was played; what is not known is missing.
    """

    env: str
    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether a training would be right."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        findings = [finding.to_dict() for finding in self.findings]
        return {"env": self.env, "ok": self.ok, "facts": self.facts, "findings": findings}

    def lines(self) -> list[str]:
        """What a person reads."""
        said = [self.env, *_facts_in_words(self.facts), ""]
        for finding in self.findings:
            said += [*finding.lines(), ""]
        counts = {s: sum(f.severity == s for f in self.findings) for s in ("error", "warning", "note")}
        named = [f"{n} {s}{'s' * (n > 1)}" for s, n in counts.items() if n]
        said.append(", ".join(named) if named else "nothing found")
        if self.ok:
            said.append(f"to train on it: {typed('poise', 'train', self.env)}")
        return said


def inspect(id: str, *, timeout: float = 60.0) -> Inspection:
    """Plays an environment and says what is wrong with it.

    Args:
        id: a registered id, or ``module:name`` of an id or a class. The module is imported.
        timeout: seconds after which a step, a reset or its making counts as hanging.

    Raises:
        EnvError: there is no such environment.
    """
    envs.resolve(id)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_play_elsewhere, args=(id, theirs), daemon=True)
    process.start()
    theirs.close()
    facts: dict[str, Any] = {}
    findings: list[Finding] = []
    doing = "being made"
    try:
        while True:
            if not mine.poll(timeout):
                findings.append(_hangs(doing, timeout))
                break
            kind, told = json.loads(mine.recv_bytes())
            if kind == "finding":
                findings.append(Finding(**told))
            elif kind == "facts":
                facts |= told
            elif kind == "doing":
                doing = told
            else:
                break
    except EOFError:
        process.join(5)
        findings.append(_dies(doing, process.exitcode))
    finally:
        mine.close()
        process.kill()
        process.join()
    return Inspection(id, facts, by_severity(findings))


def _hangs(doing: str, timeout: float) -> Finding:
    return Finding(
        "hangs",
        "error",
        f"nothing came back for {timeout:g} s while {doing}",
        "A training would wait there for ever, or with --backend gymnasium-async until --env-timeout.",
        "if it is only slow, give it more time: --env-timeout SECONDS",
    )


def _dies(doing: str, code: int | None) -> Finding:
    return Finding(
        "dies",
        "error",
        f"its process ended with code {code} while {doing}",
        "A training would end there, or with --backend gymnasium-async --on-crash restart go on without that "
        "episode.",
        "look for a crash in compiled code, or a call that ends the process",
    )


def _play_elsewhere(id: str, pipe: Connection) -> None:
    """The child: tells the parent what it does, what it finds, and that it is done."""

    def send(kind: str, told: Any) -> None:
        pipe.send_bytes(json.dumps([kind, told]).encode())

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for finding in _play(id, send):
            send("finding", finding.to_dict())
    send("done", None)


def _play(id: str, send: Send) -> Iterator[Finding]:
    """All rules. What an environment raises is a finding, and the end of what can be played."""
    found = envs.resolve(id)
    hear_mujoco()
    own = not is_registered(id)  # on the batch engine or in JAX alone
    try:
        spec = envs.make(id, 1).spec if own else spec_of(id, lambda: make_plain(id))
        send("facts", _described(spec, found.backend))
        envs_made = [Checked(_Alone(found) if own else make_plain(id), id, i) for i in range(2)]
    except EnvError as error:
        yield _error("cannot-be-made", f"{error}", "poise cannot train on it.", "see docs/environments.md")
        return
    except Exception as error:
        what = f"{error}" if isinstance(error, EnvFault) else f"making it raised {described(error)}"
        yield _error("cannot-be-made", what, "No training can begin.", "mend what the message names")
        return
    play = _Play(id, spec, envs_made[0], envs_made[1], send)
    grave = False
    try:
        for finding in itertools.chain.from_iterable(rule(play) for rule in RULES):
            grave |= finding.severity != "note"
            yield finding
        send("facts", _costs(play, found))
    except EnvFault as fault:
        grave = True
        yield _error(
            "breaks",
            f"{fault}",
            "A training ends there, with the same message.",
            "mend what the message names; the seed and the step repeat it",
        )
    for env in envs_made:
        with suppress(Exception):
            env.close()
    if not grave and not own:
        yield from _gymnasiums(id, send)


def _error(rule: str, seen: str, meaning: str, fix: str) -> Finding:
    return Finding(rule, "error", seen, meaning, fix)


class _Alone(gym.Env):
    """One simulation of a task that Gymnasium does not have, as Gymnasium would have it."""

    def __init__(self, found: envs.Resolved):
        self._env = envs.make(found.id, 1, found.backend)
        spec = self._env.spec
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, spec.obs_shape, np.float64)
        low, high = (
            np.array(b, np.float32).reshape(spec.action_shape) for b in (spec.action_low, spec.action_high)
        )
        self.action_space = gym.spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        obs = self._env.reset(np.ones(1, bool), [0 if seed is None else seed])
        return np.asarray(obs)[0].reshape(self.observation_space.shape or ()), {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict]:
        done = self._env.step(np.asarray(action, np.float32).reshape(1, -1))
        obs = np.asarray(done.next_obs)[0].reshape(self.observation_space.shape or ())
        return obs, float(done.reward[0]), bool(done.terminated[0]), bool(done.truncated[0]), {}

    def close(self) -> None:
        self._env.close()


@dataclass
class _Episode:
    """What was done and what came back; ``obs`` has one row more."""

    kind: str
    seed: int
    obs: list[np.ndarray] = field(default_factory=list)
    action: list[Any] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @property
    def length(self) -> int:
        return len(self.reward)


class _Play:
    """Two instances of the environment, what was played on the first, and how long it took."""

    def __init__(self, id: str, spec: Spec, env: gym.Env, other: gym.Env, send: Send):
        self.id, self.spec, self.env, self.other, self._send = id, spec, env, other, send
        self.episodes: list[_Episode] = []
        self.steps: list[float] = []  # seconds
        self.resets: list[float] = []
        self.aliased = self.changed = False
        self._end = time.perf_counter() + SECONDS
        self._told = 0.0

    @property
    def late(self) -> bool:
        return time.perf_counter() > self._end

    def doing(self, what: str) -> None:
        """Tells the parent, at most ten times a second."""
        if time.perf_counter() - self._told > 0.1:
            self._told = time.perf_counter()
            self._send("doing", what)

    def play(self, kind: str, seed: int, choose: Callable[[int], Any], *, other: bool = False) -> _Episode:
        """An episode, or its first STEPS; ``choose`` gives the action of each step."""
        env = self.other if other else self.env
        episode = _Episode(kind, seed)
        self.doing(f"an episode of seed {seed} was begun")
        begun = time.perf_counter()
        obs, _ = env.reset(seed=seed)
        self.resets.append(time.perf_counter() - begun)
        episode.obs.append(np.array(obs))
        for step in range(STEPS):
            kept, copied, action = obs, np.array(obs), choose(step)
            given = np.array(action)
            self.doing(f"step {step + 1} of the episode of seed {seed} was made")
            begun = time.perf_counter()
            obs, reward, terminated, truncated, _ = env.step(action)
            self.steps.append(time.perf_counter() - begun)
            self.aliased |= not np.array_equal(kept, copied)
            self.changed |= not np.array_equal(given, action)
            episode.obs.append(np.array(obs))
            episode.action.append(given)
            episode.reward.append(float(reward))
            if terminated or truncated or self.late:
                episode.terminated, episode.truncated = bool(terminated), bool(truncated)
                break
        return episode

    def random(self, seed: int) -> Callable[[int], Any]:
        """Actions drawn evenly from the space; where it has no bounds, from a normal distribution."""
        space = self.env.action_space
        space.seed(seed)
        return lambda step: space.sample()

    def held(self, end: float) -> Callable[[int], Any] | None:
        """One end of every dimension, all the time; None where actions are choices."""
        space = self.env.action_space
        if not isinstance(space, gym.spaces.Box):
            return None
        bound = space.high if end > 0 else space.low
        usable = np.abs(bound) < 1e8
        action = np.where(usable, bound, end * EXTREME).astype(space.dtype)
        return lambda step: action.copy()


def plays(play: _Play) -> Iterator[Finding]:
    """Random episodes, then both ends of the actions. Whatever they raise ends all."""
    total = 0
    for seed in range(EPISODES):
        if total >= STEPS or play.late:
            break
        play.episodes.append(play.play("random", seed, play.random(seed)))
        total += play.episodes[-1].length
    for end in (-1.0, 1.0):
        choose = play.held(end)
        if choose is not None and not play.late:
            play.episodes.append(play.play("low" if end < 0 else "high", 0, choose))
    yield from ()


def repeats(play: _Play) -> Iterator[Finding]:
    """The same seed and the same actions lead to the same, in this instance and in another."""
    first = play.episodes[0]
    for other in (False, True):
        again = play.play("again", first.seed, _taped(first.action), other=other)
        count = min(first.length, again.length)
        pairs = zip(first.obs[: count + 1], again.obs, strict=False)
        step = next((i for i, (a, b) in enumerate(pairs) if a.tobytes() != b.tobytes()), None)
        if step is None and first.reward[:count] != again.reward[:count]:
            step = next(i for i in range(count) if first.reward[i] != again.reward[i]) + 1
        if step is not None:
            yield Finding(
                "not-repeatable",
                "warning",
                f"seed {first.seed} and the same actions gave something else at step {step}"
                + (" in another instance" if other else " the second time"),
                "Two trainings with one seed differ, and one that was stopped cannot go on exactly.",
                "draw everything from self.np_random, which reset(seed=...) seeds, and put all state back",
            )
            return


def _taped(actions: list[Any]) -> Callable[[int], Any]:
    return lambda step: actions[step % len(actions)].copy() if actions else None


def starts(play: _Play) -> Iterator[Finding]:
    """Different seeds begin differently."""
    kinds = {episode.obs[0].tobytes() for episode in play.episodes if episode.kind == "random"}
    if len(kinds) == 1 and len(play.episodes) > 3:
        yield Finding(
            "one-start",
            "note",
            "every episode began with the same observation",
            "The agent learns that start alone, and its score over many episodes is one episode's.",
            "vary the start a little in reset, from self.np_random",
        )


def aliases(play: _Play) -> Iterator[Finding]:
    """What was returned stays as it was."""
    if play.aliased:
        yield Finding(
            "observation-aliased",
            "warning",
            "an array that step or reset had returned was changed by the next step",
            "poise copies observations; other programs that keep them would hold the last one many times.",
            "return a copy: self.state.copy()",
        )
    if play.changed:
        yield Finding(
            "action-changed",
            "warning",
            "step wrote into the array of the action",
            "What an agent keeps of its actions is then not what it did.",
            "work on a copy: action = np.clip(action, low, high), not action *= ...",
        )


def declares(play: _Play) -> Iterator[Finding]:
    """Observations are as their space says."""
    space = play.env.observation_space
    assert isinstance(space, gym.spaces.Box)
    rows = [obs for episode in play.episodes for obs in episode.obs]
    if rows[0].dtype != space.dtype:
        yield Finding(
            "observation-dtype",
            "note",
            f"observations are {rows[0].dtype}, their space says {space.dtype}",
            "poise takes them as they are.",
            f"return np.asarray(obs, np.{space.dtype})",
        )
    outside = [obs for obs in rows if np.any(obs < space.low) or np.any(obs > space.high)]
    if outside:
        where = np.argwhere((outside[0] < space.low) | (outside[0] > space.high))[0].tolist()
        index = tuple(where)
        yield Finding(
            "outside-bounds",
            "note",
            f"{len(outside)} of {len(rows)} observations were outside their space: obs{where} was "
            f"{outside[0][index]:g}, declared {space.low[index]:g} to {space.high[index]:g}",
            "poise normalizes by what it sees, not by what is declared; other programs may not.",
            "widen the bounds of the observation space, to -inf and inf where there are none",
        )


def observes(play: _Play) -> Iterator[Finding]:
    """Each number tells something."""
    rows = np.stack([obs for episode in play.episodes for obs in episode.obs]).reshape(-1, play.spec.obs_size)
    spread = np.ptp(rows.astype(float), axis=0)
    dead = np.flatnonzero(spread == 0)
    if len(dead) and len(rows) > 20:
        named = ", ".join(str(i) for i in dead[:10]) + (", ..." if len(dead) > 10 else "")
        yield Finding(
            "constant-observation",
            "note",
            f"{len(dead)} of {play.spec.obs_size} observed numbers never changed: {named}",
            "They cost time and tell nothing; one that changes later will then stand far out.",
            "leave them out",
        )


def rewards(play: _Play) -> Iterator[Finding]:
    """There is something to learn, and its size is usable."""
    values = np.array([r for episode in play.episodes for r in episode.reward])
    lengths = {episode.length for episode in play.episodes}
    if np.ptp(values) == 0 and (values[0] == 0 or len(lengths) == 1):
        yield Finding(
            "reward-constant",
            "warning",
            f"each of {len(values):,} rewards was {values[0]:g}"
            + ("" if values[0] == 0 else f", in episodes of {lengths.pop():,} steps"),
            "Random play finds nothing that is better than anything else. Learning begins where it does.",
            "reward what comes near the goal, too, or begin episodes near it",
        )
    elif np.median(values) == 0 and (share := float(np.mean(values != 0))) < SPARSE:
        yield Finding(
            "reward-sparse",
            "note",
            f"{share:.2%} of the rewards were not 0",
            "Learning needs many steps before it sees what is good.",
            "a larger budget, or a reward for what comes near the goal",
        )
    largest = float(np.max(np.abs(values)))
    if largest > LARGE or 0 < largest < SMALL:
        yield Finding(
            "reward-size",
            "note",
            f"the largest reward was {largest:.3g} in size",
            "poise scales rewards by the deviation of the return; with --normalize.no-reward this would not "
            "train.",
            "give rewards a size of about 1",
        )


def acts(play: _Play) -> Iterator[Finding]:
    """What is done matters."""
    ends = [episode for episode in play.episodes if episode.seed == 0]
    if len(ends) < 2:  # choices: the first, then the last
        space = play.env.action_space
        assert isinstance(space, gym.spaces.Discrete)
        choices = [int(space.start), int(space.start + space.n - 1)]
        ends = [play.play("held", 0, lambda step, c=c: np.int64(c)) for c in choices]
    first = ends[0]
    count = min(episode.length for episode in ends)
    same = all(
        episode.reward[:count] == first.reward[:count]
        and all(a.tobytes() == b.tobytes() for a, b in zip(first.obs[: count + 1], episode.obs, strict=False))
        for episode in ends[1:]
    )
    if same and count > 1:
        yield Finding(
            "action-ignored",
            "error",
            f"seed 0 went the same way for {count:,} steps whatever was done",
            "Nothing can be learned where actions change neither observations nor rewards.",
            "use the action in step",
        )


def ends(play: _Play) -> Iterator[Finding]:
    """Episodes end, and for the reason that is given."""
    limit = play.spec.time_limit
    done = [episode for episode in play.episodes if episode.terminated or episode.truncated]
    longest = max(episode.length for episode in play.episodes)
    if not done and limit is None:
        yield Finding(
            "never-ends",
            "warning",
            f"no episode ended in {longest:,} steps, and there is no time limit",
            "Where no episode ends, no return is known and the starts are not practised.",
            "give it a time limit: gymnasium.register(..., max_episode_steps=N)",
        )
    lengths = {episode.length for episode in done}
    if len(done) > 3 and len(lengths) == 1 and all(e.terminated for e in done) and longest > 1:
        yield Finding(
            "limit-as-termination",
            "warning",
            f"all of {len(done)} episodes, with different actions, were terminated at step {longest:,}",
            "That is what a time limit looks like. Terminated says that nothing comes after: the value "
            "function then learns that the world ends there, without seeing when.",
            "return truncated=True in its place, or register the environment with max_episode_steps",
        )
    horizon = 1 / (1 - defaults.gamma(limit))
    if limit is None and longest > LONG * horizon:
        yield Finding(
            "no-time-limit",
            "note",
            f"no time limit is declared, so the discount is {defaults.GAMMA_UNLIMITED:g}, a horizon of "
            f"{horizon:.0f} steps; an episode lasted {longest:,}",
            "What lies farther ahead counts little.",
            "declare max_episode_steps, or give the discount: --ppo.gamma 0.997",
        )


RULES = (plays, repeats, starts, aliases, declares, observes, rewards, acts, ends)

# of Gymnasium's checker: what is a matter of taste, of drawing, or said by a rule above
_NOISE = re.compile(
    r"render|out of date|infinity|symmetric and normalized|no lower bound|no upper bound|is not within the "
    r"observation space|precision|float64|float32|dtype|`env.spec`|rgb|not within the expected|different "
    r"from the unwrapped|deepcopy|pickle|Casting",
    re.IGNORECASE,
)


def _gymnasiums(id: str, send: Send) -> Iterator[Finding]:
    """What Gymnasium's own checker says, where the rules above found no error and no warning."""
    from gymnasium.utils.env_checker import check_env

    send("doing", "Gymnasium's checker played it")
    said: list[str] = []
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            check_env(make_plain(id).unwrapped, skip_render_check=True, skip_close_check=True)
        except AssertionError as error:
            said.append(f"{error}")
        except Exception as error:
            said.append(described(error))
    said += [str(warning.message) for warning in heard]
    plain = dict.fromkeys(re.sub(r"\x1b\[\d+m|^WARN: ", "", text).strip() for text in said)
    for text in plain:
        if not _NOISE.search(text):
            yield Finding(
                "gymnasium-checker",
                "warning",
                text.split("\n")[0],
                "Gymnasium asks for it; other programs may rely on it.",
                "https://gymnasium.farama.org/api/env/ describes what an environment is",
            )


def _described(spec: Spec, backend: str) -> dict[str, Any]:
    return {
        "obs_shape": list(spec.obs_shape),
        "action": f"{spec.num_choices} choices" if spec.discrete else _counted(spec.action_size),
        "time_limit": spec.time_limit,
        "backend": backend,
        "gamma": defaults.gamma(spec.time_limit),
    }


def _costs(play: _Play, found: envs.Resolved) -> dict[str, Any]:
    """How long a step takes, and what a training would."""
    step, reset = float(np.median(play.steps)), float(np.median(play.resets))
    length = float(np.mean([episode.length for episode in play.episodes]))
    each = step + reset / length
    told: dict[str, Any] = {
        "step_us": 1e6 * step,
        "reset_us": 1e6 * reset,
        "played_episodes": len(play.episodes),
        "played_steps": sum(episode.length for episode in play.episodes),
    }
    if found.backend == "gymnasium":  # the others step faster than what was played here
        told["training_seconds"] = START + TRAINING * (each + OVERHEAD)
        cores = num_cores()
        if each > SLOW and cores > 1:
            told["training_seconds_async"] = START + TRAINING * (each / cores + OVERHEAD)
    return told


def _counted(numbers: int) -> str:
    return f"{numbers} number{'s' * (numbers != 1)}"


def _facts_in_words(facts: dict[str, Any]) -> list[str]:
    if not facts:
        return []
    shape = " x ".join(str(n) for n in facts["obs_shape"]) or "1"
    limit = facts["time_limit"]
    said = [
        f"  observes {shape if ' ' in shape else _counted(int(shape))}, acts by {facts['action']}, "
        + (f"at most {limit:,} steps" if limit else "no time limit"),
        f"  trained on backend {facts['backend']}, discount {facts['gamma']:.4g}",
    ]
    if "step_us" in facts:
        said.append(
            f"  {facts['step_us']:,.0f} us a step, {facts['reset_us']:,.0f} us a reset "
            f"({facts['played_steps']:,} steps of {facts['played_episodes']} episodes were played)"
        )
    if seconds := facts.get("training_seconds"):
        line = f"  {TRAINING:,} steps of training take about {seconds:,.0f} s"
        if faster := facts.get("training_seconds_async"):
            line += f", about {faster:,.0f} s with --backend gymnasium-async"
        said.append(line)
    return said
