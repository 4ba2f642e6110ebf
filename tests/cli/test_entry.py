"""How commands start and end: one line for each mistake, whatever the command."""

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from didicm_jax.cli import convert, demo, entry, main, prepare, study
from didicm_jax.errors import UserError

PACKAGE = Path(main.__file__).parents[1]


def raising(error):
    def body(*_):
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("expected a, found b; do c"), 2, "error: expected a, found b; do c"),
        (
            UserError("expected a, found b; do c", about="run folder"),
            2,
            "error: run folder: expected a, found b; do c",
        ),
        (flags.Error("Unknown flag"), 2, "error: Unknown flag"),
        (KeyboardInterrupt(), 130, "interrupted: start again"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, None),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "error: expected files that can be read and written and a disk with room, found "
            "[Errno 28] No space left on device; mend that, then start again",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "file"),
            2,
            "error: expected files that can be read and written and a disk with room, found "
            "[Errno 13] Permission denied: 'file'; mend that, then start again",
        ),
    ],
    ids=[
        "mistake",
        "mistake about a thing",
        "wrong flag",
        "Ctrl-C",
        "no reader",
        "full disk",
        "forbidden",
    ],
)
def test_what_a_user_can_mend_is_one_line_and_a_status(error, status, words, capsys):
    assert entry.guarded(raising(error), advice="start again") == status
    assert capsys.readouterr().err == ("" if words is None else words + "\n")


def test_a_console_that_lacks_a_character_ends_no_command(monkeypatch):
    """Names of files and classes have any, and a console of C or Latin-1 has few."""
    monkeypatch.setattr(entry.logging, "set_verbosity", lambda level: None)
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    with pytest.raises(SystemExit) as ended:
        entry.run(lambda argv: print("gr\u00f6\u00dfe \udcff") or 0)
    console.flush()
    assert (ended.value.code, console.buffer.getvalue()) == (0, b"gr\\xf6\\xdfe \\udcff\n")


@pytest.mark.parametrize("error", [ValueError("a fault"), OSError("of a socket")])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)):
        entry.guarded(raising(error), advice="start again")


def test_a_body_gives_the_status():
    assert entry.guarded(lambda: None, advice="") == 0
    assert entry.guarded(lambda: 5, advice="") == 5


@pytest.mark.parametrize("command", [main, convert, demo, prepare, study])
def test_every_command_ends_the_same_way(command, monkeypatch, capsys):
    body = {prepare: "_prepare", demo: "_serve"}.get(command, "parse")
    if command is demo:
        monkeypatch.setattr(demo, "_check", lambda values: None)
    monkeypatch.setattr(command, body, raising(KeyboardInterrupt()))
    assert command.main(["command.py"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted: ")
    assert said.count("\n") == 1
    monkeypatch.setattr(command, body, raising(OSError(errno.EROFS, "Read-only file system", "x")))
    assert command.main(["command.py"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: expected files that can be read and written")
    assert said.count("\n") == 1


@pytest.fixture
def installed(tmp_path):
    """A folder that holds the package and nothing else of the project, as an installed wheel."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "didicm_jax", ignore=shutil.ignore_patterns("__pycache__"))
    return site


def module(site, *arguments, **options):
    command = [sys.executable, "-m", "didicm_jax", *arguments]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    environment |= {"PYTHONPATH": str(site)}
    return subprocess.Popen(
        command,
        env=environment,
        cwd=site.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_package_runs_as_a_module_from_anywhere(installed):
    """With `launch/` and `configs/` out of reach."""
    processes = [
        module(installed, "--help"),
        module(installed, "--stepz=3"),
        module(installed, "--mode=evaluate", "--workdir=nowhere"),
    ]
    ended = [(*process.communicate(), process.returncode) for process in processes]
    out, err, status = ended[0]
    assert (err, status) == ("", 0)
    assert "--workdir" in out
    for (out, err, status), words in zip(
        ended[1:], ["Unknown command line flag 'stepz'", "expected a run in nowhere"], strict=True
    ):
        assert (out, status) == ("", 2)
        assert words in err
        assert err.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_error(installed):
    process = module(installed, "--help")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141
