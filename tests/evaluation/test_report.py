"""The report of training runs."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.evaluation import report
from tests.reading import Page


def cells(page):
    """The rows of all its tables."""
    labels = [each.attributes["aria-label"] for each in page.root.all("section")]
    return [row for label in labels for row in page.table(label)]


def run(path, losses=(1.0, 0.5, None, 0.25), top1=(0.5, 0.75, 0.7), **settings):
    path.mkdir(parents=True)
    config = configuration.default()
    with config.unlocked():
        config.update(settings)
    (path / "config.json").write_text(config.to_json())
    lines = [
        {"step": 10 * (k + 1), "loss": loss, "learning_rate": 0.1, "images_per_second": 100.0 + k}
        for k, loss in enumerate(losses)
    ]
    rest = {"top5": 1.0, "nll": 0.5, "ece": 0.1, "brier": 0.2}
    lines += [
        {"step": 10 * (k + 1)} | {f"eval/{key}": v for key, v in (rest | {"top1": value}).items()}
        for k, value in enumerate(top1)
    ]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    return path


def test_one_page_that_needs_nothing_else(tmp_path):
    other = {"method": "cross_entropy", "model": {"name": "resnet18"}}
    workdirs = [run(tmp_path / "a"), run(tmp_path / "b <2>", **other)]
    picture, page = report.write(workdirs, tmp_path / "out")
    assert sorted(path.name for path in picture.parent.iterdir()) == ["report.html", "report.png"]
    found = Page(page.read_text())
    source = found.root.only("img").attributes["src"]
    kind, _, data = source.partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.width > 1000
    assert base64.b64decode(data) == picture.read_bytes()
    rows = {tuple(row[:1]): row for row in cells(found)}
    assert rows["method",] == ["method", "didicm", "cross_entropy"]  # what differs, and only that
    assert ("train.batch_size",) not in rows
    evaluations = next(row for row in cells(found) if row[:2] == ["b <2>", "30"])
    assert evaluations[2:4] == ["70.00%", "75.00% at 20"]
    steps = next(row for row in cells(found) if row[0] == "a" and row[1] == "40")
    assert steps[2:5] == ["0.2500", "102", "1"]


def test_one_run_lists_what_is_not_default(tmp_path):
    _, page = report.write([run(tmp_path / "a", seed=5)], tmp_path)
    assert ["seed", "0", "5"] in cells(Page(page.read_text()))


def test_each_set_has_a_table_the_one_that_decides_first(tmp_path):
    workdir = run(tmp_path / "a", evaluation={"sets": ("held_out=train[95%:]", "x<y=test")})
    begun = run(tmp_path / "b", top1=())
    lines = (workdir / "metrics.jsonl").read_text().replace("eval/", "eval/x<y/")
    values = {"top1": 0.25, "top5": 1.0, "nll": 0.5, "ece": 0.1, "brier": 0.2}
    held = {"step": 40} | {f"eval/held_out/{key}": value for key, value in values.items()}
    path = workdir / "metrics.jsonl"
    path.write_text(lines.rpartition("\n")[0] + "\n" + json.dumps(held) + "\n")
    _, page = report.write([workdir, begun], tmp_path)
    text = page.read_text()
    assert "<h2>Evaluations</h2>" not in text
    first, second = (text.index(f"on {name}<") for name in ("held_out", "x&lt;y"))
    assert first < second
    of_run = [row[1:4] for row in cells(Page(text)) if row[0] == "a"][:2]
    assert of_run == [["40", "25.00%", "25.00% at 40"], ["30", "70.00%", "75.00% at 20"]]
    assert text.count("not evaluated yet") == 2


def test_runs_of_one_name_are_told_apart(tmp_path):
    workdirs = [run(tmp_path / "x" / "digits"), run(tmp_path / "y" / "digits")]
    _, page = report.write(workdirs, tmp_path)
    assert "x/digits, y/digits" in page.read_text()


def test_a_run_that_has_just_begun(tmp_path):
    _, page = report.write([run(tmp_path / "a", losses=(1.0,), top1=())], tmp_path)
    assert "not evaluated yet" in page.read_text()


def test_a_value_that_was_not_finite_is_not_the_best(tmp_path):
    folder = run(tmp_path / "a", top1=(0.5, 0.6))
    path = folder / "metrics.jsonl"
    (*lines, torn) = path.read_text().splitlines(keepends=True)
    last = next(i for i, line in enumerate(lines) if '"eval/top1": 0.6' in line)
    lines[last] = json.dumps(json.loads(lines[last]) | {"eval/nll": None}) + "\n"
    path.write_text("".join([*lines, torn]))
    _, page = report.write([folder], tmp_path)
    assert "not finite" in page.read_text()


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"expected a run with metrics\.jsonl in .*nothing"):
        report.write([tmp_path / "nothing"], tmp_path / "out")
    whole = run(tmp_path / "a")
    with pytest.raises(UserError, match=r"different runs, found \S*a twice"):
        report.write([whole, tmp_path / "." / "a"], tmp_path / "out")
    (whole / "metrics.jsonl").write_text('{"st')
    with pytest.raises(UserError, match="expected records of training, found none"):
        report.write([whole], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_that_are_none_are_told_with_their_file(tmp_path):
    path = run(tmp_path / "a")
    (path / "config.json").write_text('{"colour": "red"}')
    with pytest.raises(UserError, match=r"a/config\.json: .*unknown keys colour"):
        report.write([path], tmp_path / "out")


@pytest.mark.parametrize(
    "line", ['{"step": 1, "loss": "low"}', '{"step": 1e400}', '{"step": 5, "skipped_steps": [1]}']
)
def test_a_line_that_holds_no_numbers_costs_nothing_but_itself(tmp_path, line):
    path = run(tmp_path / "a")
    expected = report.read(path)
    whole = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(f"{line}\n{whole}")
    assert report.read(path) == expected
    report.write([path], tmp_path / "out")


def test_records_are_read_as_they_were_written(tmp_path):
    records = report.read(run(tmp_path / "a"))
    assert [r["loss"] for r in records if "loss" in r] == [1.0, 0.5, None, 0.25]
    assert np.mean([r["eval/top1"] for r in records if "eval/top1" in r]) == pytest.approx(0.65)
