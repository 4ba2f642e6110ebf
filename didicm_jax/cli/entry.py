"""How a command starts and ends."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable

from absl import flags, logging

from didicm_jax.errors import UserError

# Of the shell: 128 and the number of the signal (SIGINT, SIGPIPE).
_INTERRUPTED, _NOBODY_READS = 130, 141
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


def run(main: Callable[[list[str]], int]) -> None:
    """Runs a command on the arguments of this process, and exits with its status."""
    # Orbax logs tracebacks of failed saves, which the run reports in one line.
    logging.set_verbosity(logging.FATAL)
    # A character of a name that the encoding of the console lacks is escaped, as on stderr.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv))


def guarded(body: Callable[[], int | None], *, advice: str) -> int:
    """Runs the body of a command; what its user can mend becomes one line on stderr.

    What is left is a fault of the program, and keeps its traceback.

    Args:
      body: the command, which may return an exit status; None is 0.
      advice: what to do after an interruption or a full disk, `start the same command again`.

    Returns:
      The exit status: that of `body`; 2 after a mistake of the user or a fault of a disk; 130 after
      Ctrl-C; 141 where whoever read the output has gone, as `head` does.
    """
    try:
        status = body()
        sys.stdout.flush()  # a reader that has gone is noticed here, not when Python ends
        return status or 0
    except (UserError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {advice}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        _write_nowhere()
        return _NOBODY_READS
    except OSError as error:
        # Of a file, or of a disk; others (of sockets, of threads) are no mistake of the user.
        if error.filename is None and error.errno not in _DISK_FAULTS:
            raise
        print(
            "error: expected files that can be read and written and a disk with room, found "
            f"{error}; mend that, then {advice}",
            file=sys.stderr,
        )
        return 2


def asks_for_help(argv: list[str]) -> bool:
    """Whether the arguments of a command ask how it is used."""
    return not {"-h", "--help", "-help"}.isdisjoint(argv)


def _write_nowhere() -> None:
    """What is still waiting to be printed would fail again, loudly, when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # a stdout that is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
