"""What ends a process that waits for others in vain."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import jax

# By which the processes hear of one that has failed, and the seconds that they have to end by
# themselves, as they do where they have agreed on what is wrong.
_FAULT, _GRACE = "didicm_jax/fault", 10


def leave(message: str, status: int) -> None:
    """Prints a line and ends this process at once, without waiting for the others."""
    with contextlib.suppress(OSError, ValueError):  # who reads it may be gone
        print(message, file=sys.stderr, flush=True)
    os._exit(status)


class Watch:
    """Ends the process when it has waited too long for the others.

    A collective with a peer that is dead or hangs waits for ever, and no Python runs meanwhile but
    another thread. Only `waiting` counts, not what this process does itself: compiling, reading,
    drawing and a slow disk take as long as they take. A peer that dies while nobody counts is
    noticed by its missing heartbeats. One that leaves this by an exception says so to the others,
    who end at once. With one process there is nobody to wait for and nothing is watched.
    """

    def __init__(self, timeout: float, advice: str) -> None:
        """Gives up after `timeout` seconds of one wait, with `advice` on what to do."""
        self._timeout, self._advice = timeout, advice
        self._since: float | None = None
        self._done = threading.Event()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, this process does nothing but wait for the others, who are to come soon.

        A wait is soon over if the others do the same work. Where one has more to do than the rest
        (process 0 `alone`, whoever must compile), wait for it outside of this, with `barrier`.
        """
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def __enter__(self) -> Self:
        if jax.process_count() > 1:
            # Two: whoever is asked what the others say may hang, and does not answer then.
            for each in (self._run, self._listen):
                threading.Thread(target=each, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        if kind is not None and jax.process_count() > 1:
            telling = threading.Thread(target=_tell, daemon=True)
            telling.start()
            telling.join(_GRACE)

    def _run(self) -> None:
        while not self._done.wait(min(1.0, self._timeout / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._timeout:
                # Where it hangs: the frame says which collective is waited for.
                with contextlib.suppress(OSError, ValueError):
                    faulthandler.dump_traceback(file=sys.stderr)
                leave(
                    f"error: process {jax.process_index()}: expected the others within "
                    f"{self._timeout:g} s, found none: another process hangs or is gone; "
                    f"{self._advice}",
                    3,
                )

    def _listen(self) -> None:
        while (failed := _failed()) is None:
            if self._done.wait(1.0):
                return
        if self._done.wait(_GRACE):
            return
        words = (
            f"error: process {jax.process_index()}: expected the others to go on, found that "
            f"process {failed} has failed; see what it says"
        )
        with contextlib.suppress(OSError, ValueError):
            print(words, file=sys.stderr, flush=True)
        # The one that failed waits for the others when it ends.
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        os._exit(2)


def _tell() -> None:
    """Says to the others that this process has failed."""
    with contextlib.suppress(Exception):  # whoever is to tell them may be gone
        _words().key_value_set(_FAULT, str(jax.process_index()), allow_overwrite=True)


def _failed() -> str | None:
    """The process that has said that it failed, if one has."""
    try:
        return _words().key_value_try_get(_FAULT)
    except Exception:  # nobody has, or whoever knows is gone
        return None


def _words() -> Any:
    """What the processes tell one another beside their programs, which may be waiting."""
    # Not public: all that is needs every process to take part.
    from jax._src import distributed

    return distributed.global_state.client
