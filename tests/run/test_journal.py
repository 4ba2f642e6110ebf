import contextlib
import io
import json
import resource
import struct
import sys

import pytest
from tensorboardX.proto.event_pb2 import Event

from didicm_jax.errors import UserError
from didicm_jax.run import journal, logs

METRICS = {"top1": 0.5, "top5": 1.0, "nll": 0.25, "ece": 0.1, "brier": 0.2, "num_examples": 1000}


def opened(workdir, step=0, total=100):
    return contextlib.closing(journal.Reporter(workdir, step, total))


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def record(loss):
    return {"loss": loss, "images_per_second": 1234.5}


def test_records_and_plain_lines(tmp_path, capsys):
    with opened(tmp_path) as reporter:
        reporter.train(10, record(0.5))
        reporter.train(20, record(0.25))
        reporter.evaluation(20, METRICS)
    assert lines(tmp_path) == [
        {"step": 10, "loss": 0.5, "images_per_second": 1234.5},
        {"step": 20, "loss": 0.25, "images_per_second": 1234.5},
        {"step": 20} | {f"eval/{key}": value for key, value in METRICS.items()},
    ]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "step 10/100: loss 0.5000, 1,234 images/s"
    assert shown[1].startswith("step 20/100: loss 0.2500, 1,234 images/s, 0")
    assert shown[1].endswith(" left")
    assert shown[2] == (
        "step 20/100: top-1 50.00%, top-5 100.00%, NLL 0.2500, ECE 0.1000, Brier 0.2000 "
        "on 1,000 images"
    )


def test_utilization_is_shown_where_it_is_known(tmp_path, capsys):
    with opened(tmp_path) as reporter:
        reporter.train(10, record(0.5) | {"mfu": 0.4123, "peak_memory_bytes": 3 * 2**29})
    assert capsys.readouterr().out == (
        "step 10/100: loss 0.5000, 1,234 images/s, MFU 41.2%, 1.5 GiB\n"
    )


def test_of_several_sets_each_has_its_name(tmp_path, capsys):
    with opened(tmp_path) as reporter:
        reporter.evaluation(20, METRICS, "held_out")
        reporter.evaluation(20, METRICS, "a:b")
    assert lines(tmp_path) == [
        {"step": 20} | {f"eval/{name}/{key}": value for key, value in METRICS.items()}
        for name in ("held_out", "a:b")
    ]
    assert capsys.readouterr().out.splitlines()[0].startswith("step 20/100, held_out: top-1 50.00%")
    with opened(tmp_path, step=20) as reporter:
        known = [reporter.has_evaluation(20, name) for name in ("held_out", "a:b", "", "a")]
    assert known == [True, True, False, False]


def test_one_live_line_on_a_terminal(tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with opened(tmp_path) as reporter:
        for step in range(10, 101, 10):
            reporter.train(step, record(1 / step))
    assert "loss" not in capsys.readouterr().out
    assert "\n" not in terminal.getvalue().rstrip("\n")
    last = terminal.getvalue().split("\r")[-1]
    assert "step 100/100" in last
    assert "loss 0.0100, 1,234 images/s" in last
    assert "left" in last


def test_records_after_the_checkpoint_and_a_cut_line_are_dropped(tmp_path):
    with opened(tmp_path) as reporter:
        for step in (10, 20, 30):
            reporter.train(step, record(0.5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    with opened(tmp_path, step=20) as reporter:
        reporter.train(30, record(0.75))
    assert [(r["step"], r["loss"]) for r in lines(tmp_path)] == [(10, 0.5), (20, 0.5), (30, 0.75)]
    assert [p.name for p in tmp_path.glob("*.partial")] == []


def test_a_bad_byte_costs_one_line_and_not_the_run(tmp_path, capsys):
    """Nor does a line of another type; what is dropped is said, and the rest stays as it is."""
    with opened(tmp_path) as reporter:
        for step in (10, 20, 30):
            reporter.train(step, record(0.5))
        reporter.evaluation(30, METRICS)
    path = tmp_path / "metrics.jsonl"
    first, second, *others = path.read_bytes().splitlines(keepends=True)
    bad = [second.replace(b"0.5", b"\xff"), b"[1]\n", b"3\n", b'{"step": "x"}\n', b'{"a": 1}\n']
    path.write_bytes(b"".join([first, *bad, *others]))
    capsys.readouterr()
    with opened(tmp_path, step=30) as reporter:
        said = capsys.readouterr().out
        assert f"{path}: dropped what cannot be read: line 2, 3, 4, 5, 6\n" in said
        assert (reporter.has_evaluation(30), reporter.has_evaluation(10)) == (True, False)
        reporter.train(40, record(0.75))
    assert [r["step"] for r in lines(tmp_path)] == [10, 30, 30, 40]
    assert path.read_bytes().startswith(first + b"".join(others))


def test_an_evaluation_after_the_checkpoint_does_not_count(tmp_path):
    with opened(tmp_path) as reporter:
        reporter.evaluation(20, METRICS)
        assert reporter.has_evaluation(20)
    with opened(tmp_path, step=10) as reporter:
        assert not reporter.has_evaluation(20)


def test_a_whole_last_line_without_an_end_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
    with opened(tmp_path, step=1) as reporter:
        reporter.train(2, record(0.5))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_what_a_full_disk_refuses_is_written_later(tmp_path, capsys):
    """A limit on the size of files stands in for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as reporter:
        reporter.train(1, record(0.5))
        size = (tmp_path / "metrics.jsonl").stat().st_size
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
            reporter.train(2, record(0.25))
            reporter.train(3, record(0.125))
            with pytest.raises(UserError, match=r"expected to write metrics\.jsonl"):
                reporter.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        reporter.train(4, record(0.0625))
        reporter.finish()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert capsys.readouterr().out.count("a report could not be written") == 1


def events_of(folder):
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content)
            yield Event.FromString(content[12 : 12 + length])
            content = content[12 + length + 4 :]


@pytest.mark.parametrize("step", [0, 100])
def test_events_of_a_start_that_was_cut_off_are_taken_back_once(tmp_path, step):
    """Before the first checkpoint too; and not those of this start, where it needs another file."""
    events = logs.Events(tmp_path / "tensorboard", step)
    for number in (1, 2):
        events.waiting.append((step + number, 1.0, {"loss": 0.5}))
        assert events.write() == ""
        events.close()  # as after a write that failed
    found = [
        ("start" if each.HasField("session_log") else "record", each.step)
        for each in events_of(tmp_path / "tensorboard")
        if each.step
    ]
    assert found == [("start", step + 1), ("record", step + 1), ("record", step + 2)]


def test_a_silent_reporter_leaves_no_trace(tmp_path, capsys):
    with contextlib.closing(journal.Reporter(tmp_path, 0, 10, silent=True)) as reporter:
        reporter.say("hello")
        reporter.train(1, record(0.5))
        reporter.evaluation(1, METRICS)
        reporter.finish()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
