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

        def stage(self):
            """The folder to read, by its name."""
            done = subprocess.run(
                ["bash", SCRIPT, self.source, self.memory, self.disk],
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
