"""Evaluating and reporting on a small run of real digits, and the mistakes of all modes."""

import json
import re

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.data import corruptions
from didicm_jax.errors import UserError
from didicm_jax.evaluation import real_labels
from didicm_jax.evaluation.subject import OtherData, open_subject
from didicm_jax.plots import evaluation as figures
from didicm_jax.run import RunFolder
from tests.cli.looking import is_picture, one_line, table
from tests.cli.running import DIGITS
from tests.reading import Page

FIGURES = ["classes.png", "reliability.png", "selective.png", "steps.png"]


def test_evaluation_with_a_list_of_samplers(main, run, tmp_path, capsys):
    before = json.loads((run / "evaluation.json").read_text())
    chosen = ["--sampler=one_shot,cp", "--integrator=exact", "--steps=1,2", "--trajectories"]
    assert main("--mode=evaluate", f"--workdir={run}", f"--output={tmp_path}", *chosen) == 0
    said = capsys.readouterr().out
    assert "one_shot" in said
    assert re.search(r"cp exact +2 ", said)
    assert "most confused" in said
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(r["sampler"], r["steps"]) for r in result["samplers"]] == [
        ("one_shot", 1),
        ("cp", 1),
        ("cp", 2),
    ]
    # The last is what training evaluated with: one record, whoever writes it.
    assert result.keys() == before.keys() | {"best_temperature"}  # for which all is kept here
    assert before["samplers"] == result["samplers"][-1:]
    assert (result | {"samplers": before["samplers"]}).items() >= before.items()
    for record in result["samplers"]:
        for key, (low, high) in record["intervals"].items():
            assert low <= high
            if not key.startswith("ece"):  # which is biased upwards on resamples
                assert low <= record[key] <= high
    assert json.loads((run / "evaluation.json").read_text()) == before
    with np.load(tmp_path / "predictions.npz") as found:
        assert found["probs"].shape == (360, 10)
        assert found["trajectory"].shape == (360, 3, 10)
        np.testing.assert_array_equal(found["labels"], data.load("digits").test.labels)
        assert found["ids"].tolist() == [str(k) for k in range(360)]
        top1 = np.mean(np.argmax(found["probs"], axis=1) == found["labels"])
        assert top1 == result["top1"]
        np.testing.assert_array_equal(found["trajectory"][:, -1], found["probs"])
    rows = table(tmp_path / "classes.csv")
    assert [row["class"] for row in rows] == [str(k) for k in range(10)]
    assert sum(int(row["examples"]) for row in rows) == 360
    assert (tmp_path / "confusions.csv").exists()
    assert all(is_picture(tmp_path / name) for name in FIGURES)
    assert not list(tmp_path.glob("*.partial"))


def test_a_classifier_is_asked_about_several_views(main, classifier, tmp_path, capsys):
    given = ["--views=1,4", "--examples=40", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={classifier}", *given) == 0
    assert "softmax 4 views" in capsys.readouterr().out
    one, four = json.loads((tmp_path / "evaluation.json").read_text())["samplers"]
    assert (one["views"], four["views"]) == (1, 4)
    assert one["nll"] != four["nll"]


def test_the_temperature_that_an_evaluation_advises_brings_what_it_says(
    main, classifier, tmp_path, capsys
):
    given = ["--mode=evaluate", f"--workdir={classifier}", f"--output={tmp_path}"]
    assert main(*given, "--examples=100") == 0
    advised = re.search(r"^With (--temperature=\S+), the best", capsys.readouterr().out, re.M)[1]
    before = json.loads((tmp_path / "evaluation.json").read_text())
    assert main(*given, "--examples=100", advised) == 0
    after = json.loads((tmp_path / "evaluation.json").read_text())
    assert after["nll"] == pytest.approx(before["best_temperature"]["nll"], abs=1e-4)
    assert after["nll"] < before["nll"]
    assert "best_temperature" not in after
    assert "With --temperature" not in capsys.readouterr().out
    assert main(*given, "--temperature=hot") == 2
    assert "--temperature: expected numbers such as 1,1.5" in capsys.readouterr().err


def test_a_figure_that_cannot_be_drawn_costs_no_result(main, run, tmp_path, monkeypatch, capsys):
    def fails(found, names):
        raise RuntimeError("no such glyph")

    monkeypatch.setattr(figures, "classes", fails)
    given = ["--examples=8", f"--output={tmp_path}"]
    former = [tmp_path / "classes.png", tmp_path / "corruptions.png"]
    for path in former:
        path.write_text("of an evaluation before")
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    said = capsys.readouterr()
    assert not any(path.exists() for path in former)  # beside the new page they would be of this
    assert "classes.png could not be drawn: RuntimeError: no such glyph" in said.err
    assert "classes.png" not in said.out
    for name in ("evaluation.json", "predictions.npz", "confusions.csv", "steps.png"):
        assert (tmp_path / name).exists()


def test_evaluation_of_another_part_of_the_runs_own_data(main, run, tmp_path, capsys):
    """The held-out examples by which a sampler is chosen."""
    given = ["--split=train[90%:]", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    with np.load(tmp_path / "predictions.npz") as found:
        labels = data.load("digits").train.labels
        np.testing.assert_array_equal(found["labels"], labels[1293:])
    capsys.readouterr()
    assert main("--mode=evaluate", f"--workdir={run}", "--split=validation") == 2
    assert "expected" in one_line(capsys)


def test_evaluation_on_part_of_other_data(main, run, tmp_path):
    given = ["--dataset=digits", "--examples=50", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert (result["num_examples"], result["dataset"]) == (50, "digits")


def test_runs_of_other_seeds_are_judged_on_the_same_examples(run, classifier):
    eight = OtherData(examples=8)
    first, second = (
        open_subject(RunFolder.open(each), "latest", eight).source for each in (run, classifier)
    )
    assert len(first) == 8
    assert first.digest() == second.digest()


def test_corruptions_of_a_run_and_its_baseline(main, run, classifier, tmp_path, monkeypatch):
    # In this process: starting others takes longer than the work.
    monkeypatch.setattr(corruptions, "cores", lambda: 1)
    given = ["--corruptions=gaussian_noise,contrast", "--severities=1,5", "--examples=40"]
    given += [f"--baseline={classifier}", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())["corruptions"]
    errors = [1 - np.mean(found["run"][name]["top1"]) for name in ("gaussian_noise", "contrast")]
    assert found["run"]["mean_corruption_error"] == pytest.approx(np.mean(errors))
    theirs = [
        1 - np.mean(found["baseline"][name]["top1"]) for name in ("gaussian_noise", "contrast")
    ]
    relative = np.mean(np.array(errors) / theirs)
    assert found["mce_relative_to_baseline"] == pytest.approx(relative)
    assert "mce_relative_to_alexnet" not in found
    assert is_picture(tmp_path / "corruptions.png")
    page = Page((tmp_path / "evaluation.html").read_text())
    means = [100 * np.mean(errors), 100 * np.mean(theirs)]
    assert page.table("Corruptions")[-1] == ["mean", *(f"{mean:.1f}" for mean in means)]
    assert f"mCE relative to baseline: {100 * relative:.1f} %" in page.root.text


def test_real_labels(main, run, tmp_path, capsys, monkeypatch):
    """Several labels an image, none for some, in the order of the names."""
    labels = data.load("digits").test.labels
    monkeypatch.setattr(
        data.ArraySource, "name", lambda self, index: f"ILSVRC2012_val_{360 - index:08d}.JPEG"
    )
    lists = [[] if k % 2 else [int(labels[359 - k])] for k in range(360)]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    given = [f"--real_labels={tmp_path / 'real.json'}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    assert "ReaL top-1 %" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with np.load(tmp_path / "out" / "predictions.npz") as found:
        right = (np.argmax(found["probs"], axis=1) == found["labels"])[1::2]
    assert (result["top1_real"], result["num_examples_real"]) == (right.mean(), 180)
    page = Page((tmp_path / "out" / "evaluation.html").read_text())
    assert f"ReaL labels of 180 images {100 * right.mean():.2f} %" in page.root.text
    card = next(page.root.only("ul", id="mistakes").all("li"))
    assert "ReaL: " in card.text
    with monkeypatch.context() as patch:  # of these others were scored in their place
        patch.setattr(data.ArraySource, "broken", lambda self: np.array([1, 2, 7]))
        assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (result["num_examples_real"], result["replaced_images"]) == (178, 3)
    with np.load(tmp_path / "out" / "predictions.npz") as found:
        assert np.flatnonzero(found["replaced"]).tolist() == [1, 2, 7]
    capsys.readouterr()
    (tmp_path / "real.json").write_text("[1, 2")
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 2
    assert "expected the file real.json" in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "expected the file real.json"),
        ('{"": [3]}', "expected the file real.json"),
        ("[[true]]", "expected the file real.json"),
        # Of ImageNet's classes, where the run knows 10 of them by other numbers.
        ("[[3], [999]]", "expected labels of 10 classes, those of the run, found label 999"),
    ],
)
def test_labels_of_another_file_or_of_other_classes_are_refused(tmp_path, content, message):
    path = tmp_path / "real.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"^real_labels: {message}"):
        real_labels.read(path, data.load("digits").test, 10)


def test_a_report_of_two_runs(main, run, classifier, tmp_path):
    given = [f"--workdir={run},{classifier}", f"--output={tmp_path}"]
    assert main("--mode=report", *given) == 0
    assert is_picture(tmp_path / "report.png")
    text = (tmp_path / "report.html").read_text()
    assert "model.name" in text
    assert "resnet4" in text


def test_mistakes_are_one_line(main, run, classifier, folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    a_file = tmp_path / "file"
    a_file.write_text("")
    no_checkpoint = tmp_path / "fresh"
    no_checkpoint.mkdir()
    for name in ("config.json", "dataset.json"):
        (no_checkpoint / name).write_text((run / name).read_text())
    others = tmp_path / "others"
    others.mkdir()
    for name in ("config.json", "dataset.json"):
        (others / name).write_text((run / name).read_text())
    described = json.loads((run / "dataset.json").read_text())
    described["class_names"] = [*described["class_names"][:-1], "ten"]
    (others / "dataset.json").write_text(json.dumps(described))
    (others / "checkpoints").symlink_to(run / "checkpoints")
    of_run, of_folder = f"--workdir={run}", [f"--images={folder}"]
    cases = [
        (["--mode=evaluate", f"--workdir={tmp_path / 'no'}"], "expected a run in"),
        (["--mode=evaluate", f"--workdir={no_checkpoint}"], "expected a latest checkpoint"),
        (
            ["--mode=evaluate", f"--workdir={others}"],
            "expected class 9 to be 'ten', found '9' in digits",
        ),
        (["--mode=evaluate", of_run, "--steps=two"], "--steps: expected whole numbers"),
        (["--mode=evaluate", of_run, "--views=0"], "config.sampler.views: expected a number at"),
        (["--mode=evaluate", of_run, "--chains=3"], "--chains: expected a sampler that reads"),
        (["--mode=evaluate", of_run, "--gif"], "--gif: expected with --mode=predict"),
        # What was typed is what is named.
        (["--mode=evaluate", of_run, "--dataset=nonsense"], "check --dataset and --data_dir"),
        (["--mode=evaluate", of_run, "--split=nonsense"], "--split: expected a part of train"),
        (
            ["--mode=evaluate", of_run, "--dataset=idx", f"--data_dir={tmp_path / 'no'}"],
            "set --data_dir to the folder that holds them",
        ),
        (
            ["--mode=evaluate", of_run, "--sampler=cp,one_shot", "--steps=1", "--trajectories"],
            "--trajectories: expected cp as the last sampler, found one_shot",
        ),
        (["--mode=evaluate", f"--workdir={classifier}", "--trajectories"], "found softmax"),
        (["--mode=evaluate", of_run, "--severities=1"], "--severities: expected with"),
        (
            ["--mode=evaluate", of_run, "--corruptions=fogg"],
            "--corruptions: expected names of corruptions, found 'fogg'; did you mean fog",
        ),
        (
            ["--mode=evaluate", of_run, "--corruptions=fog", "--severities=6"],
            "--severities: expected severities from 1 to 5, found 6",
        ),
        (["--mode=evaluate", of_run, f"--baseline={classifier}"], "expected with --corruptions or"),
        (["--mode=evaluate", of_run, "--data_dir=x"], "--data_dir: expected with --dataset"),
        (["--mode=evaluate", of_run, f"--output={a_file}"], "--output: expected a folder"),
        (
            ["--mode=evaluate", of_run, f"--output={others}"],
            "--output: expected a folder without another run",
        ),
        (["--mode=compare", of_run], "--baseline: expected the workdir"),
        (["--mode=compare", of_run, f"--baseline={empty}"], "--baseline: expected a run in"),
        (
            ["--mode=compare", of_run, f"--baseline={no_checkpoint}"],
            "--baseline: expected a latest checkpoint",
        ),
        (["--mode=compare", of_run, f"--baseline={run}", "--steps=1,2"], "one sampler, found 2"),
        (
            ["--mode=compare", of_run, f"--baseline={others}", *of_folder],
            "--baseline: expected a run with the same 10 classes",
        ),
        (["--mode=predict", of_run], "--images: expected files or folders"),
        (["--mode=predict", of_run, f"--images={empty}"], "found no file"),
        (["--mode=predict", of_run, f"--images={tmp_path / 'no.png'}"], "found no"),
        (
            ["--mode=predict", of_run, "--images=http://example.com/cat.png"],
            "--images: expected files or folders on a disk, found http://example.com/cat.png; copy",
        ),
        (
            ["--mode=predict", of_run, f"--images={folder},gs://bucket/cats"],
            "--images: expected files or folders on a disk, found gs://bucket/cats; copy",
        ),
        (
            ["--mode=predict", f"--workdir={classifier}", "--steps=2", *of_folder],
            "of method didicm",
        ),
        (["--mode=report"], "--workdir: expected one folder"),
        (["--mode=report", of_run, "--config=configs/digits.py"], "--config: expected without"),
        (["--mode=report", f"--workdir={empty}"], "expected a run with metrics.jsonl"),
        (["--mode=report", of_run, f"--output={a_file}"], "--output: expected a folder"),
        ([DIGITS, f"--workdir={tmp_path / 'new'}", "--images=x"], "--images: expected with"),
    ]
    for given, message in cases:
        assert main(*given) == 2, given
        assert message in one_line(capsys)
    # None of the files is an image: each is named first.
    given = [f"--images={folder / 'notes.txt'}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=predict", of_run, *given) == 2
    said = capsys.readouterr().err.splitlines()
    assert "skipped" in said[0]
    assert "expected at least one image" in said[1]
    assert not (tmp_path / "out").exists()
