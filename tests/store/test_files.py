"""The files of a run folder that may be a stranger's."""

import os
import stat

import pytest

from poise.store import files
from poise.store.files import FileError

OUTSIDE = "what lies outside\n"


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside"
    path.write_text(OUTSIDE)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device", "missing"])
def test_only_a_plain_file_is_read(kind, folder, outside):
    path = folder / "summary.json"
    match kind:
        case "link":
            path.symlink_to(outside)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    for read in (files.read_plain, files.read_text, files.read_json):
        with pytest.raises(FileError, match=r"summary\.json: cannot be read"):
            read(path, 100)


def test_a_file_is_read_up_to_its_largest_size(folder):
    path = folder / "a"
    path.write_bytes(b"x" * 100)
    assert files.read_plain(path, 100) == b"x" * 100
    with pytest.raises(FileError, match="is too large: 100 bytes, at most 99"):
        files.read_plain(path, 99)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 101 + "1" + "}" * 101, "9" * 5000, str(2**63), "-" + "1" * 30, "\x00"],
)
def test_malformed_json_is_refused_with_a_message(text, folder):
    path = folder / "a.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"a\.json: is damaged"):
        files.read_json(path)


def test_text_has_to_be_utf_8(folder):
    path = folder / "a.json"
    path.write_bytes(b'"\xff"')
    with pytest.raises(FileError, match=r"a\.json: is damaged: not UTF-8 from byte 1 on"):
        files.read_json(path)


def test_json_as_people_write_it_is_read():
    deep = "[" * 100 + "]" * 100
    assert files.parse_json(deep)
    assert files.parse_json('{"a": 1, "a": 2, "b": 9223372036854775807}') == {"a": 2, "b": 2**63 - 1}
    assert files.parse_json("[NaN, -Infinity, 1e999]")[1:] == [-float("inf"), float("inf")]


def test_a_name_leads_through_no_link_and_not_out(folder, outside):
    (folder / "checkpoints").symlink_to(outside.parent)
    assert files.inside(folder, "a/b") == folder / "a" / "b"
    for name in ("checkpoints/a", "../a", "/a", "a/../../b"):
        with pytest.raises(FileError):
            files.inside(folder, name)


def test_folders_are_made_but_links_are_not_taken_for_them(folder, tmp_path):
    assert files.own_folder(folder, folder / "trials" / "0").is_dir()
    assert files.own_folder(folder, folder / "trials" / "0").is_dir()
    (folder / "winner").symlink_to(tmp_path)
    (folder / "file").touch()
    for name in ("winner", "winner/0", "file", "file/0"):
        with pytest.raises(FileError, match="in its place, or remove it"):
            files.own_folder(folder, folder / name)
    assert not (tmp_path / "0").exists()


def writers():
    def fresh_path(path):
        with files.fresh_path(path) as fresh:
            assert fresh.suffix == path.suffix
            fresh.write_text("new")

    return {
        "write_text": lambda path: files.write_text(path, "new"),
        "private": lambda path: files.write_text(path, "new", private=True),
        "write_bytes": lambda path: files.write_bytes(path, b"new"),
        "fresh_path": fresh_path,
    }


@pytest.mark.parametrize("kind", ["link", "hard link", "broken link", "pipe", "file", "nothing"])
@pytest.mark.parametrize("how", writers())
def test_writing_replaces_the_name_and_not_its_target(how, kind, folder, outside):
    path = folder / "results.csv"
    match kind:
        case "link":
            path.symlink_to(outside)
        case "hard link":
            path.hardlink_to(outside)
        case "broken link":
            path.symlink_to(folder.parent / "new")
        case "pipe":
            os.mkfifo(path)
        case "file":
            path.write_text("old")
    writers()[how](path)
    assert path.read_text() == "new"
    assert not path.is_symlink()
    assert outside.read_text() == OUTSIDE
    assert sorted(p.name for p in folder.parent.iterdir()) == ["outside", "run"]
    assert [p.name for p in folder.iterdir()] == ["results.csv"]
    if how == "private":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("write", [files.fresh_file, files.fresh_path])
def test_a_failed_write_leaves_the_old_content(write, folder):
    path = folder / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), write(path):
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in folder.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder", "device"])
def test_nothing_is_appended_outside(kind, folder, outside):
    path = folder / "log.txt"
    match kind:
        case "link":
            path.symlink_to(outside)
        case "broken link":
            path.symlink_to(folder.parent / "new")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/full")
    with pytest.raises((FileError, IsADirectoryError), match=r"log\.txt"):
        files.append_to(path)
    assert outside.read_text() == OUTSIDE
    assert sorted(p.name for p in folder.parent.iterdir()) == ["outside", "run"]


def test_a_hard_link_is_replaced_by_a_copy_before_it_grows(folder, outside):
    (folder / "log.txt").hardlink_to(outside)
    with files.append_to(folder / "log.txt") as file:
        file.write("more\n")
    assert (folder / "log.txt").read_text() == OUTSIDE + "more\n"
    assert outside.read_text() == OUTSIDE


def test_a_file_grows(folder):
    for text in ("a\n", "b\n"):
        with files.append_to(folder / "log.txt") as file:
            file.write(text)
    assert (folder / "log.txt").read_text() == "a\nb\n"


def test_leftovers_of_a_kill_are_removed_and_nothing_else(folder, outside):
    with files.fresh_path(folder / "video.mp4") as fresh, files.fresh_file(folder / "a.json"):
        fresh.touch()
        names = [path.name for path in folder.iterdir()]
    assert len(names) == 2
    for name in names:  # what a kill leaves has these names
        (folder / name).mkdir()
        (folder / name / "half").symlink_to(outside)
    (folder / "b.json.tmp-0123456789abcdef").symlink_to(outside)
    for name in ("tmp-1", "a.tmp-xyz", "tmp-note"):
        (folder / name).touch()
    files.remove_leftovers(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "a.json",
        "a.tmp-xyz",
        "tmp-1",
        "tmp-note",
        "video.mp4",
    ]
    assert outside.read_text() == OUTSIDE


def test_a_folder_in_the_place_of_a_file_is_named(folder):
    (folder / "results.csv").mkdir()
    with pytest.raises(files.FileError, match=r"results\.csv: cannot be written: it is not a plain file"):
        files.write_text(folder / "results.csv", "a,b\n")
    assert [path.name for path in folder.iterdir()] == ["results.csv"]
