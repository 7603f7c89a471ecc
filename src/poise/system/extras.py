"""The command that installs an extra, depending on how poise itself is installed."""

import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname


@dataclass(frozen=True)
class Place:
    """The Python environment in which poise runs."""

    prefix: Path  # its folder
    python: Path
    checkout: Path | None  # the folder of poise's source, if it is installed from one
    uv: str | None  # the command that runs uv, if there is one
    pip: bool  # whether this Python has pip
    active: bool  # whether a shell has activated the environment

    @classmethod
    def here(cls) -> "Place":
        """The environment of this process."""
        prefix = Path(sys.prefix)
        uv = "uv" if shutil.which("uv") else None
        if uv is None and importlib.util.find_spec("uv") is not None:
            uv = f"{_quoted(sys.executable)} -m uv"
        return cls(
            prefix=prefix,
            python=Path(sys.executable),
            checkout=_checkout(),
            uv=uv,
            pip=importlib.util.find_spec("pip") is not None,
            active=os.environ.get("VIRTUAL_ENV") == str(prefix),
        )


def needs(extra: str) -> str:
    """``needs the extra onnx; to install it: ...``"""
    return f"needs the extra {extra}; to install it: {command(extra, Place.here())}"


def command(extra: str, place: Place) -> str:
    """The command that installs the extra and removes nothing.

    Poise is not on a package index, so ``pip install 'poise[extra]'`` cannot work. The command names the
    packages of the extra, except in poise's own folder, where uv knows them.
    """
    project = place.prefix.parent
    if place.uv and place.checkout == project and _made_by_uv(place.prefix):
        folder = "" if Path.cwd().is_relative_to(project) else f" --project {_quoted(str(project))}"
        return f"{place.uv} sync{folder} --no-dev --inexact --extra {extra}"
    packages = " ".join(_quoted(package) for package in requirements(extra))
    if (place.prefix / "pipx_metadata.json").exists():
        return f"pipx inject poise {packages}"
    if place.uv and place.prefix.name == ".venv" and (project / "uv.lock").exists():
        folder = "" if Path.cwd().is_relative_to(project) else f" --project {_quoted(str(project))}"
        return f"{place.uv} add{folder} {packages}"
    python = _quoted(str(place.python))
    if place.uv:
        return f"{place.uv} pip install {'' if place.active else f'--python {python} '}{packages}"
    pip = f"{python} -m pip install {packages}"
    return pip if place.pip else f"{python} -m ensurepip && {pip}"


def requirements(extra: str) -> list[str]:
    """The packages of an extra that this Python needs, from poise's metadata."""
    from packaging.requirements import Requirement  # takes 20 ms, and only a missing extra needs it

    packages = []
    for text in importlib.metadata.requires("poise") or []:
        requirement = Requirement(text)
        marker, requirement.marker = requirement.marker, None
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            packages.append(str(requirement))
    return packages


def _checkout() -> Path | None:
    source = importlib.metadata.distribution("poise").read_text("direct_url.json")
    url = urlparse(json.loads(source)["url"] if source else "")
    folder = Path(url2pathname(unquote(url.path))) if url.scheme == "file" else None
    return folder if folder and (folder / "pyproject.toml").exists() else None


def _made_by_uv(prefix: Path) -> bool:
    settings = prefix / "pyvenv.cfg"
    return settings.exists() and any(line.startswith("uv =") for line in settings.read_text().splitlines())


def _quoted(word: str) -> str:
    """A word, quoted for the shell of this system; the shell of Windows has no single quotes."""
    if os.name == "nt":
        return f'"{word}"' if set(word) & set(" <>&|^,;") else word
    return shlex.quote(word)
