import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from poise.system import compile_cache as compiled

SCRIPT = """
import jax
from poise.system.compile_cache import keep_compiled
keep_compiled({keep})
jax.jit(lambda x: x + 1)(1.0)
jax.jit(lambda x: x * 3)(1.0)
print(jax.config.jax_compilation_cache_dir)
"""


def run(cache, keep=True, stderr="", **environment):
    """The cache folder of JAX in a process that compiles two functions and prints ``stderr``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(keep=keep)],
        env=inherited | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == stderr
    return done.stdout.strip()


def test_compiled_programs_are_kept_in_a_private_folder(tmp_path):
    folder = Path(run(tmp_path))
    assert folder == tmp_path / "poise" / compiled._key()
    assert folder.stat().st_mode & 0o777 == 0o700
    entries = sorted(folder.iterdir())
    assert entries
    assert run(tmp_path) == str(folder)
    assert sorted(folder.iterdir()) == entries  # nothing was compiled again


def test_nothing_is_kept_if_disabled_or_if_jax_has_a_cache(tmp_path):
    assert run(tmp_path, keep=False) == "None"
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")) == str(tmp_path / "mine")
    assert not (tmp_path / "poise").exists()


NOT_KEPT = "compiled programs are not kept for the next start: "


def test_a_folder_that_others_may_write_or_that_cannot_be_made_is_not_used(tmp_path):
    folder = tmp_path / "poise" / compiled._key()
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert run(tmp_path, stderr=f"{NOT_KEPT}other users may write {folder} (chmod go-w {folder})\n") == "None"
    (tmp_path / "file").touch()
    assert run(tmp_path / "file") == "None"


def test_new_folders_are_private_with_any_umask(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared" / "more"))
    before = os.umask(0)
    try:
        folder = compiled._folder()
    finally:
        os.umask(before)
    for place in (folder, *folder.parents[:3]):
        assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("above", [1, 2, 3])
def test_a_folder_is_not_used_if_others_may_write_a_parent(tmp_path, above):
    folder = tmp_path / "shared" / "cache" / "poise" / compiled._key()
    folder.mkdir(parents=True, mode=0o700)
    for place in (folder, *folder.parents[:3]):
        place.chmod(0o755)
    assert compiled._insecure(folder) is None
    place = folder.parents[above - 1]
    place.chmod(0o777)
    assert compiled._insecure(folder) == f"other users may write {place} (chmod go-w {place})"
    place.chmod(0o1777)  # as /tmp: what is in it is not theirs to rename
    assert (compiled._insecure(folder) is None) == (above > 1)


def test_a_parent_of_another_user_or_group_is_not_trusted(tmp_path, monkeypatch):
    folder = tmp_path / "poise" / compiled._key()
    folder.mkdir(parents=True)
    tmp_path.chmod(0o775)
    monkeypatch.setattr(compiled, "_private", lambda group: True)
    assert compiled._insecure(folder) is None
    monkeypatch.setattr(compiled, "_private", lambda group: False)
    assert compiled._insecure(folder) == f"other users may write {tmp_path} (chmod go-w {tmp_path})"
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: 1 + folder.stat().st_uid)
    if folder.stat().st_uid:
        assert compiled._insecure(folder) == f"{folder} belongs to another user"


def test_a_link_in_the_path_is_followed_once(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    assert compiled._folder() == tmp_path / "real" / "poise" / compiled._key()


def test_a_damaged_entry_is_replaced_silently(tmp_path):
    folder = Path(run(tmp_path))
    before = {entry: entry.read_bytes() for entry in sorted(folder.glob("*-cache"))}
    assert len(before) > 1
    for i, (entry, content) in enumerate(before.items()):
        entry.write_bytes(content[: i % 2 * len(content) // 2])  # of 0 bytes as after a full disk, and cut
    assert run(tmp_path) == str(folder)
    for entry, content in before.items():
        assert len(entry.read_bytes()) == pytest.approx(len(content), rel=0.05)  # the time is in it


def test_a_full_disk_is_reported_once_and_leaves_no_partial_entry(tmp_path, monkeypatch, capsys):
    inner = types.SimpleNamespace()

    def write(key, *others):
        (tmp_path / f"{key}-cache").write_bytes(b"")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    inner.get_executable_and_time, inner.put_executable_and_time = None, write
    monkeypatch.setattr(compiled.importlib, "import_module", lambda name: inner)
    compiled._tell.cache_clear()
    compiled._replace_damaged(tmp_path)
    for key in ("jit_f-1", "jit_g-2"):
        inner.put_executable_and_time(key, "f", None)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == f"{NOT_KEPT}{tmp_path}: No space left on device\n"


def test_another_processor_or_version_has_another_folder(monkeypatch):
    here = compiled._key()
    assert here == compiled._key()
    monkeypatch.setattr(compiled, "processor", lambda: "model name: another")
    assert compiled._key() != here
    monkeypatch.undo()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    assert compiled._key() != here


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no Linux")
def test_the_processor_is_identified_by_its_instruction_sets():
    assert any(line.startswith(("flags", "Features")) for line in compiled.processor().splitlines())
