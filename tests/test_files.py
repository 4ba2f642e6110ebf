"""Files that are there as a whole or not at all."""

import csv
import errno
import os
import subprocess
import sys

import pytest

from didicm_jax import files
from didicm_jax.errors import UserError


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert files.read_json(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_file_that_cannot_take_its_place_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        files.write_json(tmp_path / "folder", {"a": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]


def test_what_is_no_json_is_one_line(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for name in ("x.json", "y.json"):
        with pytest.raises(UserError, match="expected a JSON file") as error:
            files.read_json(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[1, 2]", b'"a"', b'{"a": "\xe4"}', b"[" * 100_000])
def test_what_holds_no_json_object_is_one_line(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="expected a JSON file") as error:
        files.read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)


def test_a_file_may_have_the_longest_name_there_is(tmp_path, monkeypatch):
    """Names of hosts may be long too, as those of a pod are."""
    monkeypatch.setattr(files.socket, "gethostname", lambda: "h" * 63)
    path = tmp_path / ("\u00e4" * 125 + ".json")
    files.write_json(path, {"x": 1})
    assert files.read_json(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    """Each file that a reader meets is whole, whoever of two processes wrote it."""
    path = tmp_path / "a.json"
    write = (
        "import sys\nfrom pathlib import Path\nfrom didicm_jax import files\n"
        "for _ in range(150): files.write_json(Path(sys.argv[1]), {'x': [sys.argv[2]] * 20000})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", write, str(path), k]) for k in ("1", "22")]
    met = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            met.add(tuple(set(files.read_json(path)["x"])))
    assert [writer.wait() for writer in writers] == [0, 0]
    assert met <= {("1",), ("22",)}
    assert len(met) > 0
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(tmp_path, monkeypatch):
    """Else a host that dies leaves an empty file under the name of a good one."""
    path, done = tmp_path / "x.json", []
    sync, replace = os.fsync, os.replace

    def synced(handle):
        done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        sync(handle)

    def replaced(source, target):
        done.append(("replace", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    files.write_json(path, {"a": 1})
    (kind, partial), *others = done
    assert kind == "sync"
    assert partial.startswith("x.json.")
    assert others == [("replace", "x.json"), ("sync", tmp_path.name)]


def test_tables_come_back_as_they_were(tmp_path):
    rows = [["class", "count"], ['a, "b"', "3"], ["ü", ""]]
    files.write_csv(tmp_path / "x.csv", rows)
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == rows


def test_a_full_disk_says_which_file_it_had_no_room_for(tmp_path):
    def fail(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*x\.bin'"):
        files.write_whole(tmp_path / "x.bin", fail)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"before")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, fail)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["x.bin"]


def test_a_folder_moves_to_another_disk(tmp_path, monkeypatch):
    """Where `checkpoints` is a link to a larger one, a damaged checkpoint ended the run."""

    def elsewhere(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))

    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("d")
    monkeypatch.setattr(os, "rename", elsewhere)
    monkeypatch.setattr(os, "replace", elsewhere)
    files.move(tmp_path / "a", tmp_path / "new" / "a")
    assert (tmp_path / "new" / "a" / "b" / "c").read_text() == "d"
    assert not (tmp_path / "a").exists()
