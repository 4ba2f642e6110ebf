"""Claims: an object that says who is at work on a folder, as nothing in a bucket can be locked."""

import contextlib
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from didicm_jax.bucket.store import connect, faults, split

# Seconds between two signs of life of whoever holds a claim, and of silence that make it void.
BEAT, SILENCE = 10.0, 60.0


@contextlib.contextmanager
def claim(path: Path, lost: Callable[[str], Any], say: Callable[[str], None]) -> Iterator[bool]:
    """Holds the claim that an object stands for, by signs of life every few seconds.

    A claim of a process of this machine that is gone is void at once. Another one is watched: if
    there is no sign of life for a minute, it is void. No clocks are compared.

    Args:
      path: of the object.
      lost: called, from another thread, when somebody else has taken or removed it, with how.
      say: told of a wait.

    Yields:
      Whether it was free.
    """
    claimed = _Claim(path)
    if not claimed.take(say):
        yield False
        return
    ended = threading.Event()
    beats = threading.Thread(target=claimed.beat, args=(ended, lost), daemon=True)
    beats.start()
    try:
        yield True
    finally:
        ended.set()
        beats.join()
        claimed.release()


class _Claim:
    """An object with who holds it; each sign of life is a new version of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = split(path)[1]
        self._bucket = connect().bucket(split(path)[0])  # connections of one thread alone
        self._content = json.dumps(
            {"host": socket.gethostname(), "pid": os.getpid(), "process": _identity(os.getpid())}
        )
        self._version: int | None = 0  # the one that is ours; 0: that there is none

    def take(self, say: Callable[[str], None]) -> bool:
        version, holder = self._read()
        # That of a run copied from a disk is empty.
        if holder and not _is_gone(holder):
            say(
                f"{self._path} is claimed by {holder.get('host')}, process {holder.get('pid')}; "
                f"waiting up to {SILENCE:.0f} s for a sign of life"
            )
            end = time.monotonic() + SILENCE
            while time.monotonic() < end:
                time.sleep(min(1.0, SILENCE / 10))
                now, _ = self._read()
                if now not in (version, 0):
                    return False
                version = now
                if not version:
                    break
        return self._write(version)

    def beat(self, ended: threading.Event, lost: Callable[[str], Any]) -> None:
        while not ended.wait(BEAT):
            try:
                kept = self._write(self._version)
                if not kept:
                    # By somebody else, or by a write of ours whose answer did not come.
                    self._version, holder = self._read()
                    kept = self._version != 0 and holder == json.loads(self._content)
            except OSError:
                continue  # no connection: whether the claim still holds is found out later
            if not kept:
                by = f"by {holder.get('host')}, process {holder.get('pid')}" if holder else "away"
                self._version = None
                if not ended.is_set():
                    lost(f"{self._path} was taken {by}")
                return

    def release(self) -> None:
        if self._version is not None:
            with contextlib.suppress(OSError), faults(self._path):
                self._bucket.blob(self._name).delete(
                    if_generation_match=self._version, timeout=BEAT
                )

    def _read(self) -> tuple[int, dict[str, Any]]:
        """Its version, 0 if there is none, and who holds it."""
        with contextlib.suppress(FileNotFoundError), faults(self._path):
            found = self._bucket.get_blob(self._name, timeout=BEAT)
            if found is not None:
                holder: dict[str, Any] = {}
                with contextlib.suppress(ValueError, TypeError):
                    holder = dict(json.loads(found.download_as_bytes(timeout=BEAT)))
                return found.generation, holder
        return 0, {}

    def _write(self, version: int | None) -> bool:
        """Takes the place of a version of it, if it is still that."""
        with contextlib.suppress(FileExistsError), faults(self._path):
            written = self._bucket.blob(self._name)
            written.upload_from_string(
                self._content, "application/json", if_generation_match=version, timeout=BEAT
            )
            self._version = written.generation
            return True
        return False


def _identity(pid: int) -> str | None:
    """What tells a process from all others of all machines, or None if there is none."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state == "Z":  # ended, and nobody has asked how
            return None
        return f"{_machine()} {pid} {rest[18]}"  # when it began
    except OSError:
        return None


@functools.cache
def _machine() -> str:
    """This boot of this machine, and the namespace that process numbers are of."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether who holds a claim was a process of this machine, and is not there any more."""
    known, ours = holder.get("process"), _identity(os.getpid())
    if not known or not ours or not str(known).startswith(f"{_machine()} "):
        return False
    return _identity(holder["pid"]) != known
