"""Where `launch/stage.sh` puts the data of a host: real files, and sizes that are made up."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "stage.sh"
GIB = 2**30


@pytest.fixture
def host(tmp_path):
    """A host with data, a memory of 400 GiB and a disk; what its commands say can be changed."""

    class Host:
        source, memory, disk = (tmp_path / name for name in ("bucket", "shm", "disk"))
        commands = tmp_path / "commands"
        said = ""

        def has(self, *, size, memory, disk, free=400):
            """GiB: of the data, free in the tmpfs and on the disk, and free of all memory."""
            answers = {
                "du": f"echo '{size * GIB}\t'\"$2\"",
                "df": f"case $3 in {self.memory}) echo Avail; echo {memory * GIB};; "
                f"*) echo Avail; echo {disk * GIB};; esac",
                "stat": f"case $4 in {self.memory}) echo tmpfs;; *) echo ext2/ext3;; esac",
                "free": f"echo 'Mem: 0 0 0 0 0 {free * GIB}'",
            }
            for name, answer in answers.items():
                (self.commands / name).write_text(f"#!/bin/sh\n{answer}\n")
                (self.commands / name).chmod(0o755)

        def stage(self, source=None, *places):
            """The folder to read, by its name; places may be relative to the folder of all."""
            done = subprocess.run(
                ["bash", SCRIPT, source or self.source, *(places or (self.memory, self.disk))],
                cwd=tmp_path,
                env={"PATH": f"{self.commands}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=True,
            )
            self.said = done.stderr
            return Path(done.stdout.removesuffix("\n"))

    made = Host()
    for folder in (made.memory, made.disk, made.commands, made.source / "photos" / "1.0.0"):
        folder.mkdir(parents=True)
    (made.source / "photos" / "1.0.0" / "train-00000").write_bytes(b"records")
    (made.source / "photos" / "of a name.json").write_bytes(b"{}")
    return made


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("sizes", "place"),
    [
        ({"memory": 200, "disk": 0}, "shm"),
        ({"memory": 151, "disk": 0}, "bucket"),  # 5 % stay free
        ({"memory": 158, "disk": 0}, "shm"),
        ({"memory": 200, "disk": 500, "free": 180}, "disk"),  # the program needs the memory
        ({"memory": 200, "disk": 500, "free": 190}, "shm"),
        ({"memory": 100, "disk": 100}, "bucket"),
        ({"memory": 0, "disk": 0, "free": 10}, "bucket"),
    ],
)
def test_data_go_to_the_first_place_with_room(host, sizes, place):
    """150 GiB, about as much as ImageNet."""
    host.has(size=150, **sizes)
    found = host.stage()
    assert found.name == "didicm-data" if place != "bucket" else found == host.source
    assert place in found.parts
    assert contents(found) == contents(host.source)
    if place == "bucket":
        assert "shm has room for" in host.said
        assert list(host.memory.iterdir()) == list(host.disk.iterdir()) == []


def test_a_whole_copy_is_used_and_another_one_replaced(host):
    host.has(size=1, memory=100, disk=0)
    copy = host.stage()
    host.has(size=1, memory=0, disk=0)  # it would not fit again
    assert host.stage() == copy
    assert "has the data already" in host.said
    (host.source / "photos" / "1.0.0" / "train-00000").write_bytes(b"other records")
    host.has(size=1, memory=100, disk=0)
    assert host.stage() == copy
    assert contents(copy) == contents(host.source)
    assert [path.name for path in host.memory.iterdir()] == ["didicm-data"]


def test_a_copy_that_was_cut_off_is_made_anew_and_one_that_fails_is_left_out(host):
    host.has(size=1, memory=100, disk=100)
    (host.memory / "didicm-data.partial").mkdir()
    (host.memory / "didicm-data.partial" / "half").write_bytes(b"")
    assert contents(host.stage()) == contents(host.source)
    (host.memory / "didicm-data" / "photos" / "of a name.json").unlink()
    (host.commands / "cp").write_text("#!/bin/sh\nexit 1\n")
    (host.commands / "cp").chmod(0o755)
    assert host.stage() == host.source
    assert host.said.count("failed") == 2
    assert list(host.memory.iterdir()) == list(host.disk.iterdir()) == []


@pytest.mark.parametrize("linked", ["source", "folder", "file"])
def test_data_behind_links_are_measured_and_copied(host, tmp_path, linked):
    """A set is often a link to a larger disk: the copy holds files, with no way back to it."""
    whole = contents(host.source)
    path = {
        "source": host.source,
        "folder": host.source / "photos" / "1.0.0",
        "file": host.source / "photos" / "1.0.0" / "train-00000",
    }[linked]
    with (host.source / "photos" / "1.0.0" / "train-00000").open("ab") as file:
        file.truncate(2 * GIB)  # sparse: it takes no room
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    host.has(size=0, memory=2, disk=0)  # 95 % of it are less than 2 GiB
    (host.commands / "du").unlink()  # the real one measures
    assert host.stage() == host.source.resolve()
    assert "shm has room for 1 GiB of 2" in host.said
    (host.source / "photos" / "1.0.0" / "train-00000").write_bytes(b"records")
    copy = host.stage()
    assert copy == host.memory / "didicm-data"
    assert contents(copy) == whole
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    assert host.stage() == copy
    assert "has the data already" in host.said


def test_files_of_one_folder_are_copied_at_once(host):
    host.has(size=1, memory=100, disk=0)
    for folder in range(100):
        (host.source / "folders" / str(folder)).mkdir(parents=True)
        for name in "abcd":
            (host.source / "folders" / str(folder) / name).touch()
    assert contents(host.stage()) == contents(host.source)
    assert "failed" not in host.said


def test_a_relative_place_is_one_too(host):
    host.has(size=1, memory=100, disk=0)
    copy = host.stage("bucket", "shm")
    assert copy == host.memory / "didicm-data"
    assert contents(copy) == contents(host.source)


def test_a_source_that_is_no_folder_is_one_line(host, tmp_path):
    done = subprocess.run(
        ["bash", SCRIPT, "nowhere", host.memory], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "expected the folder of the data, found no folder nowhere: prepare the data first"
    ]
