"""The verbs of a trained agent: evaluate, video, export."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from poise.cli.arguments import Json, Named, RunFolder, WhichAgent, find_modules_here, unset
from poise.cli.telling import as_json, to_standard_error
from poise.system.pulse import announced
from poise.system.streams import quiet_output
from poise.system.terminal import print
from poise.wording import counted


def evaluate(
    run: RunFolder,
    episodes: int = 100,
    seed: Annotated[int | None, unset] = None,
    which: WhichAgent = "last",
    named: Annotated[Named, arg(name="")] = Named(),  # noqa: B008 (frozen)
    sample: bool = False,
    json_: Json = False,
) -> None:
    """Score a trained agent with greedy episodes, or with sampled ones.

    Example: poise evaluate runs/Reacher-v4/20261124-120000-0 --episodes 500

    Args:
        episodes: Number of episodes.
        seed: Seed of the episodes; by default the seed of the run, which repeats the score of its training.
        named: What is named again, or instead.
        sample: Draw the actions from the policy's distribution instead of taking the greedy ones. The draws
            follow from the seed.
    """
    from poise.agents.agent import load
    from poise.agents.evaluation import Limits
    from poise.health.telling import score_lines

    find_modules_here(named.env, named.network)
    with announced("loading the agent", to_standard_error) as pulse, quiet_output():

        def watch(ended: int, total: int, steps: int) -> None:
            pulse.doing(f"{ended} / {counted(total, 'episode')}, {counted(steps, 'step')}")

        agent = load(run, which, network=named.network)
        limits = Limits(watch=watch)
        evaluation = agent.evaluate(episodes, seed=seed, env=named.env, sample=sample, limits=limits)
    lines = score_lines(evaluation)
    if which == "best":
        lines[0] = f"the best agent, from step {agent.steps:,}: {lines[0]}"
    print(as_json(evaluation.summary()) if json_ else "\n".join(lines))


def video(
    run: RunFolder,
    which: WhichAgent = "last",
    named: Annotated[Named, arg(name="")] = Named(),  # noqa: B008 (frozen)
    json_: Json = False,
) -> None:
    """Make a video of the greedy agent: video.mp4 in the run folder (video_best.mp4 for the best agent).

    Without a video encoder, the file is a GIF.

    Example: poise video runs/Reacher-v4/20261124-120000-0 --which best

    Args:
        named: What is named again, or instead.
    """
    from poise.agents.film import video as film

    find_modules_here(named.env, named.network)
    with quiet_output():
        path = film(run, which=which, env=named.env, network=named.network)
    print(as_json({"video": str(path)}) if json_ else path)


def export(
    run: RunFolder,
    format: Annotated[
        Literal["numpy", "onnx"],
        arg(help="numpy: a Python file that only needs NumPy; onnx: an ONNX graph (extra onnx)."),
    ] = "numpy",
    which: WhichAgent = "last",
    out: Annotated[
        Path | None,
        arg(
            metavar="FILE",
            help="The file to write; by default policy.py or policy.onnx in the run folder.",
            help_behavior_hint="",
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Export the greedy policy as a file that maps a raw observation to an action of the environment.

    Example: poise export runs/Reacher-v4/20261124-120000-0 --format onnx
    """
    from poise.agents.export import ROWS
    from poise.agents.export import export as write

    exported = write(run, format=format, which=which, out=out)
    if json_:
        print(as_json(exported.to_dict()))
        return
    sequences = f" and {exported.sequences} sequences" if exported.sequences else ""
    compared = f"compared with the agent on {ROWS:,} observations{sequences}"
    print(f"{compared}: largest difference {exported.difference:.1g}")
    print(exported.path)
