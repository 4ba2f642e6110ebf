"""Words of a command line, in and out."""

import os
from pathlib import Path

import pytest

from didicm_jax.cli import command_line
from didicm_jax.errors import UserError


@pytest.mark.parametrize(
    ("flag", "error", "said"),
    [
        (
            "baseline",
            UserError("expected a, found b", about="run folder"),
            "--baseline: expected a",
        ),
        ("baseline", UserError("expected a, found b"), "--baseline: expected a"),
        ("", UserError("expected a, found b", about="process_id"), "--process_id: expected a"),
        ("", UserError("expected a, found b"), "expected a"),
        ("", UserError("expected a, found b", about="run folder"), "--workdir: expected a"),
        ("", UserError("expected a, found b", about="the moon"), "the moon: expected a"),
        ("a", UserError("say --baseline: twice", about="x"), "--a: say --baseline: twice"),
    ],
)
def test_a_flag_takes_the_place_of_the_thing_that_it_names(flag, error, said):
    with pytest.raises(UserError) as raised, command_line.flagged(flag):
        raise error
    assert str(raised.value).startswith(said)
    assert error in (raised.value, raised.value.__cause__)


@pytest.mark.parametrize(
    "file", [["--config=F"], ["-config=F"], ["--config", "F"], ["-config", "F"]]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_config_file_may_stand_anywhere(tmp_path, file, place):
    (tmp_path / "F").write_text((Path(__file__).parents[2] / "configs" / "digits.py").read_text())
    words = [word.replace("F", str(tmp_path / "F")) for word in file]
    rest = ["--config.seed=7", "--config.train.batch_size=32"]
    argv = ["main.py", *rest[:place], *words, *rest[place:]]
    argv = command_line.config_first(argv)
    assert argv == ["main.py", *words, *rest]
    config = command_line.parse(command_line.new_flags(argv, "A file."), argv)
    assert (config.seed, config.train.batch_size) == (7, 32)


@pytest.mark.parametrize("argv", [["--config.seed=7", "--config"], ["--config"]])
def test_a_config_without_its_file_is_said(argv):
    argv = command_line.config_first(["main.py", *argv])
    with pytest.raises(UserError, match="config"):
        command_line.parse(command_line.new_flags(argv, "A file."), argv)


@pytest.mark.parametrize("rest", [[], ["--config.seed=7"]])
def test_two_config_files_are_refused(rest):
    argv = command_line.config_first(["main.py", "--config=a.py", *rest, "--config", "b.py"])
    with pytest.raises(UserError, match=r"^--config: expected one config file, found 2; "):
        command_line.parse(command_line.new_flags(argv, "A file."), argv)


def test_of_flags_within_flags_the_inner_one_knows_better():
    with (
        pytest.raises(UserError, match=r"^--dataset: expected"),
        command_line.flagged("baseline"),
        command_line.flagged(),
    ):
        raise UserError("expected a, found b", about="dataset")


def test_a_path_with_a_comma_is_one_where_there_is_such_a_file(tmp_path):
    (tmp_path / "a,b").write_text("")
    words = [f"{tmp_path}/a,b", f"{tmp_path}/c,{tmp_path}/d,"]
    found = command_line.paths(words)
    assert found == [tmp_path / "a,b", tmp_path / "c", tmp_path / "d"]
    assert command_line.paths([""]) == []


def test_many_paths_may_be_longer_together_than_a_name_can_be(tmp_path):
    names = [f"photo{number:03d}.jpg" for number in range(400)]
    assert [str(path) for path in command_line.paths([",".join(names)])] == names
    there = [tmp_path / name for name in names]
    assert command_line.paths([",".join(map(str, there))]) == there


def test_each_path_is_read_as_its_flag_says():
    assert command_line.paths(["a,b"], str.upper) == ["A", "B"]
    with pytest.raises(UserError, match=r"^run folder: expected a folder or gs://"):
        command_line.paths(["s3://bucket/run"])


def test_a_device_or_pipe_is_not_replaced_by_a_file(tmp_path):
    """As root `--export=/dev/null` would take the place of that."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"--export: .*found .*pipe, a device or pipe, .*name one"):
        command_line.check_file("export", tmp_path / "pipe")
    command_line.check_file("export", tmp_path / "new")


def test_numbers_agree_with_their_nouns():
    said = [command_line.counted(number, "image") for number in (0, 1, 2, 1000)]
    assert said == ["0 images", "1 image", "2 images", "1,000 images"]


def test_any_name_of_a_file_can_be_printed():
    name = os.fsdecode(b"caf\xe9\x1b[31m \xc3\xa4\n")
    assert command_line.printable(name) == r"caf\udce9\x1b[31m ä\n"
