"""SIGTERM and SIGINT as a request: finish the step, save, leave."""

import contextlib
import os
import signal
import sys
import threading
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A context in which SIGTERM and SIGINT set a flag; a second SIGINT ends the process at once.

    Python runs signal handlers between two steps of its own, and not while the main thread waits
    for a compilation or the devices. So another thread listens, woken by the C handler.
    """

    def __init__(self) -> None:
        self.name = ""  # of the signal that was received
        self._interrupts = 0

    @property
    def made(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self.name)

    def __enter__(self) -> Self:
        # Outside of the main thread no handler can be set: then the caller stops us in its own way.
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._previous_fd = signal.set_wakeup_fd(self._write)
            self._previous = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._write)  # ends the thread
            self._thread.join()
            os.close(self._read)

    def _listen(self) -> None:
        while received := os.read(self._read, 1):
            number = received[0]
            if number not in SIGNALS:
                continue
            self._interrupts += number == signal.SIGINT
            if self._interrupts > 1:
                os._exit(128 + signal.SIGINT)
            if not self.made:
                self.name = signal.Signals(number).name
                self._say()

    def _say(self) -> None:
        # Ctrl-C may have ended whoever reads it; the second one is listened for all the same.
        with contextlib.suppress(OSError, ValueError):
            print(
                f"{self.name}: finishing the step and saving; a second Ctrl-C leaves at once",
                file=sys.stderr,
                flush=True,
            )
