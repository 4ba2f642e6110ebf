"""Files and claims in a bucket, on an emulator of the store."""

import builtins
import json
import threading

import pytest

from didicm_jax import bucket, files
from didicm_jax.bucket import claims, store
from didicm_jax.errors import UserError


@pytest.fixture
def place(folder_of_bucket):
    return files.place(folder_of_bucket)


def names(folder):
    return [str(path.relative_to(folder)) for path in files.tree(folder)]


def test_files_are_written_listed_measured_and_moved(place):
    files.write_json(place / "a" / "x.json", {"a": 1})
    files.write_csv(place / "a" / "b" / "y.csv", [["k"], ["1"]])
    files.write_json(place / "ab.json", {})  # its name begins alike
    assert files.read_json(place / "a" / "x.json") == {"a": 1}
    assert names(place / "a") == ["b/y.csv", "x.json"]
    assert files.size(place / "a" / "b" / "y.csv") == len("k\n1\n")
    files.move(place / "a", place / "damaged" / "a")
    assert names(place) == ["ab.json", "damaged/a/b/y.csv", "damaged/a/x.json"]
    assert (place / "damaged" / "a" / "b" / "y.csv").read_text() == "k\n1\n"


def test_a_write_that_fails_leaves_what_was_there(place):
    files.write_json(place / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(place / "x.json", {"a": object()})

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_whole(place / "x.json", fail)
    assert files.read_json(place / "x.json") == {"a": 1}
    assert names(place) == ["x.json"]


def test_a_file_grows_and_an_append_that_failed_counts_once(place, monkeypatch):
    def full(path, content, *, later=False):
        raise OSError("no answer")

    grown = files.growing(place / "x")
    grown.append(b"1\n")
    with monkeypatch.context() as patched:
        patched.setattr(store, "put", full)
        with pytest.raises(OSError, match="no answer"):
            grown.append(b"2\n")
    grown.append(b"2\n")
    files.growing(place / "x").append(b"3\n")
    assert (place / "x").read_bytes() == b"1\n2\n3\n"
    assert grown.interval >= 1  # the store takes one version a second


def test_what_the_store_refuses_is_an_error_of_a_file(place, monkeypatch):
    from google.api_core import exceptions

    def refused(path):
        raise exceptions.Forbidden("no")

    monkeypatch.setattr(store, "_blob", refused)
    with pytest.raises(PermissionError, match="Forbidden") as error:
        files.write_json(place / "x.json", {})
    assert error.value.filename == f"{place}/x.json"


def one_line(path, *parts):
    with pytest.raises(UserError) as error:
        files.place(path)
    said = str(error.value)
    assert said.startswith("run folder: expected")
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_a_bucket_that_cannot_be_opened_is_one_line(emulator, monkeypatch):
    from google.api_core import exceptions

    one_line("gs://no-bucket/run", "found no bucket no-bucket")
    one_line("gs://bucket", "write gs://bucket/folder")

    class Closed:
        def get_bucket(self, name, timeout):
            raise exceptions.Forbidden("no")

    with monkeypatch.context() as patched:
        patched.setattr(store, "_store", Closed)
        one_line("gs://bucket/run", "found bucket closed to this account", "Storage Object User")


def test_without_the_client_it_is_said_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "gcsfs":
            raise ImportError("No module named 'gcsfs'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    one_line("gs://bucket/run", "pip install 'didicm-jax[gcs]'")


class Losses(list):
    def __call__(self, how):
        self.append(how)
        self.done.set()

    def __init__(self):
        super().__init__()
        self.done = threading.Event()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.1)
    monkeypatch.setattr(claims, "SILENCE", 0.5)


def foreign(**values):
    return {"host": "other", "pid": 7, "process": "another machine 7 1"} | values


def test_a_claim_is_refused_while_its_holder_lives_and_free_after_it(place, quick):
    said = []
    with files.lock(place / ".lock", print, said.append) as free:
        assert free
        assert said == []
        holder = json.loads((place / ".lock").read_text())
        with files.lock(place / ".lock", print, said.append) as second:
            assert not second
        assert f"process {holder['pid']}" in said[0]
    assert not (place / ".lock").exists()
    with files.lock(place / ".lock", print, said.append) as free:
        assert free
    assert len(said) == 1


def test_a_claim_without_a_sign_of_life_is_taken_over(place, quick):
    """Of a machine that is gone: the clocks of the two need not agree."""
    said = []
    files.write_json(place / ".lock", foreign())
    with files.lock(place / ".lock", print, said.append) as free:
        assert free
        assert json.loads((place / ".lock").read_text())["process"] == claims._identity(
            json.loads((place / ".lock").read_text())["pid"]
        )
    assert "claimed by other, process 7; waiting up to" in said[0]


def test_a_claim_of_a_process_of_this_machine_that_is_gone_is_void_at_once(place, monkeypatch):
    monkeypatch.setattr(claims, "SILENCE", 1e9)
    if claims._identity(1) is None:
        pytest.skip("this system does not tell its processes apart")
    # The number is another process's by now, as after a restart in a container.
    gone = f"{claims._machine()} 1 none"
    files.write_json(place / ".lock", foreign(pid=1, process=gone))
    with files.lock(place / ".lock", print, pytest.fail) as free:
        assert free


def test_the_lock_of_a_run_that_was_copied_from_a_disk_is_no_claim(place, monkeypatch):
    monkeypatch.setattr(claims, "SILENCE", 1e9)
    bucket.put(place / ".lock", b"")
    with files.lock(place / ".lock", print, pytest.fail) as free:
        assert free


def test_whoever_loses_a_claim_is_told_and_leaves_that_of_the_other(place, quick):
    lost = Losses()
    with files.lock(place / ".lock", lost) as free:
        assert free
        files.write_json(place / ".lock", foreign())
        assert lost.done.wait(30)
    assert lost == [f"{place}/.lock was taken by other, process 7"]
    assert json.loads((place / ".lock").read_text()) == foreign()


def test_a_beat_whose_answer_did_not_come_is_still_ours(place, quick):
    lost = Losses()
    claimed = claims._Claim(place / ".lock")
    assert claimed.take(print)
    claimed._version -= 1  # as if the last one had not been answered
    ended = threading.Event()
    thread = threading.Thread(target=claimed.beat, args=(ended, lost))
    thread.start()
    assert not lost.done.wait(0.5)
    ended.set()
    thread.join()
    claimed.release()
    assert not (place / ".lock").exists()
