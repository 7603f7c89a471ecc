"""What is done with a training beside the learning: where it runs, what is kept, what is shown.

The docstring under a field is the text that ``poise train --help`` shows for it.
"""

from dataclasses import dataclass
from pathlib import Path

from poise.config import Checked, Count
from poise.spec import Backend


@dataclass(frozen=True, kw_only=True)
class Options(Checked):
    """Everything about a training that does not change what is learned."""

    backend: Backend = "auto"
    """What steps the environments; auto takes the fastest that has ENV."""
    out: Path = Path("runs")
    """The folder in which run folders are made."""
    evaluate: bool = True
    """Whether the greedy agent plays 100 episodes at the end."""
    video: bool = True
    """Whether the greedy agent is filmed at the end."""
    log_every: Count = 200
    """Environment steps between two that TensorBoard shows one by one."""
    compile_cache: bool = True
    """Whether what was compiled is kept in the user's cache folder, for a faster next start."""
