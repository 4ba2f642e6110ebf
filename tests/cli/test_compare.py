"""`--mode=compare`: two runs on the same images."""

import contextlib
import json
import shutil
import struct
import weakref

import numpy as np
import pytest

from didicm_jax import data
from didicm_jax.cli import compare, disputes, pictures, predict
from didicm_jax.evaluation import record
from didicm_jax.evaluation.subject import OtherData, open_subject
from didicm_jax.inference.predictor import Predictor
from didicm_jax.plots import prediction as figures
from didicm_jax.run import RunFolder
from tests.cli.looking import is_picture, one_line, table

# What tells who was compared.
SIDE = ("workdir", "step", "sampler", "steps")


def test_two_runs_compared_on_labels(main, run, classifier, tmp_path, capsys):
    given = [f"--workdir={run}", f"--baseline={classifier}", "--sheet=3", f"--output={tmp_path}"]
    assert main("--mode=compare", *given) == 0
    assert "McNemar" in capsys.readouterr().out
    result = json.loads((tmp_path / "comparison.json").read_text())
    scores = [json.loads((path / "evaluation.json").read_text()) for path in (run, classifier)]
    difference = result["difference"]["top1"]
    assert difference["value"] == pytest.approx(scores[0]["top1"] - scores[1]["top1"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    test = result["mcnemar"]
    gap = (test["only_ours"] - test["only_theirs"]) / 360
    assert gap == pytest.approx(difference["value"])
    rows = table(tmp_path / "disagreements.csv")
    assert len(rows) == result["num_disagreements"] > 0
    assert all(row["run"] != row["baseline"] for row in rows)
    assert [result["run"][key] for key in SIDE] == ["run", 12, "cp", 2]
    distances = [float(row["total_variation"]) for row in rows]
    assert distances == sorted(distances, reverse=True)
    assert is_picture(tmp_path / "disagreements.png")


def test_images_that_cannot_be_decoded_are_not_compared(
    main, run, classifier, tmp_path, capsys, monkeypatch
):
    """Each network was asked about some other image in their place."""
    monkeypatch.setattr(data.ArraySource, "broken", lambda self: np.arange(0, 360, 2))
    given = [f"--workdir={run}", f"--baseline={classifier}", "--sheet=1", f"--output={tmp_path}"]
    assert main("--mode=compare", *given) == 0
    said = "Left out: 180 images that cannot be decoded."
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "comparison.html").read_text()
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert (result["num_images"], result["left_out_images"]) == (180, 180)
    assert result["run"]["num_examples"] == 180
    rows, labels = table(tmp_path / "disagreements.csv"), data.load("digits").test.labels
    assert rows
    for row in rows:
        assert int(row["id"]) % 2
        assert row["label"] == str(labels[int(row["id"])])


def test_a_comparison_says_which_images_it_is_of(run, tmp_path):
    folder, other = RunFolder.open(run), OtherData(split="train[90%:]", examples=20)
    subject = open_subject(folder, "latest", other)
    images = record.images_of(folder.config, other)
    compare.labelled((subject, subject), images, 3, tmp_path, contextlib.nullcontext)
    assert json.loads((tmp_path / "comparison.json").read_text()).items() >= images.items()
    words = "The data: digits, part train[90%:], of which 20 were asked for."
    assert words in (tmp_path / "comparison.html").read_text()


def test_the_current_folder_has_a_name(main, run, tmp_path, monkeypatch):
    monkeypatch.chdir(run)
    for mode in (["--mode=evaluate"], ["--mode=compare", f"--baseline={run}"]):
        assert main(*mode, "--workdir=.", "--examples=8", f"--output={tmp_path}") == 0
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert [result[each]["workdir"] for each in ("run", "baseline")] == ["run", "run"]
    assert "The run: run, checkpoint" in (tmp_path / "comparison.html").read_text()
    assert "Evaluation of run<" in (tmp_path / "evaluation.html").read_text()


@pytest.mark.parametrize(
    ("mode", "written"),
    [
        ("compare", "comparison.json disagreements.csv disagreements.png comparison.html"),
        ("predict", "predictions.csv predictions.json"),
    ],
)
def test_what_a_start_has_left_among_the_images_is_none_of_them(
    main, run, folder, tmp_path, monkeypatch, mode, written
):
    place, seen = tmp_path / "images", []
    shutil.copytree(folder, place)
    before = sorted(path for path in place.rglob("*") if path.is_file())
    (place / "compilation_cache").mkdir()
    for name in (*written.split(), "compilation_cache/program"):
        (place / name).touch()
    monkeypatch.setattr(compare, "unlabelled", lambda _, paths, *rest: seen.append(paths))
    monkeypatch.setattr(predict, "run", lambda _, paths, *rest, **more: seen.append(paths))
    given = [f"--workdir={run}", f"--images={place}", f"--output={place}"]
    given += [f"--baseline={run}"] if mode == "compare" else []
    assert main(f"--mode={mode}", *given) == 0
    assert seen == [before]


def test_two_runs_compared_without_labels(main, run, classifier, folder, tmp_path, capsys):
    given = [f"--workdir={run}", f"--baseline={classifier}", f"--output={tmp_path}"]
    assert main("--mode=compare", *given, f"--images={folder}") == 0
    said = capsys.readouterr()
    assert said.err.count("skipped") == 2
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["num_images"] == 3
    assert "mcnemar" not in result
    sides = [[result[each][key] for key in SIDE] for each in ("run", "baseline")]
    assert sides == [["run", 12, "cp", 2], ["classifier", 4, "softmax", 1]]
    page = (tmp_path / "comparison.html").read_text()
    assert "The run: run, checkpoint of step 12, by cp exact with 2 steps." in page
    assert "The baseline: classifier, checkpoint of step 4, by softmax with 1 step." in page
    assert is_picture(tmp_path / "disagreements.png")


def test_a_classifier_takes_of_the_flags_what_it_reads(main, run, classifier, tmp_path, capsys):
    """Else one of the two would be shown other views, or scaled, and the other not."""
    flags = ["--temperature=3", f"--output={tmp_path}"]
    assert main("--mode=compare", f"--workdir={run}", f"--baseline={classifier}", *flags) == 0
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert [result[each]["temperature"] for each in ("run", "baseline")] == [3, 3]
    given = ["--mode=compare", f"--workdir={classifier}", f"--baseline={classifier}", "--steps=4"]
    capsys.readouterr()
    assert main(*given, *flags) == 2
    assert "--steps: expected a run of method didicm, found cross_entropy" in one_line(capsys)


def test_a_sampler_that_the_baseline_cannot_use_is_said_to_be_of_the_baseline(
    main, run, classifier, tmp_path, capsys
):
    other = changed(run, tmp_path / "other", sampler__name="one_shot")
    given = ["--mode=compare", f"--baseline={other}", f"--output={tmp_path / 'out'}"]
    assert main(*given, f"--workdir={run}", "--steps=2") == 2
    assert "--baseline: expected a sampler that reads steps, found one_shot" in one_line(capsys)
    # What it advises is accepted.
    assert main(*given, f"--workdir={run}", "--steps=2", "--sampler=cp", "--examples=8") == 0
    capsys.readouterr()
    assert main(*given, f"--workdir={classifier}", "--sampler=cp,cl") == 2
    assert "error: --mode=compare: expected one sampler, found 2" in one_line(capsys)


def changed(run, place, **settings):
    """A copy of a run whose stored config says something else."""
    shutil.copytree(run, place)
    config = json.loads((place / "config.json").read_text())
    for key, value in settings.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    (place / "config.json").write_text(json.dumps(config))
    return place


def test_runs_of_other_seeds_are_judged_on_the_same_examples(main, run, tmp_path):
    """One network twice, so they agree on every image, if it is the same."""
    other = changed(run, tmp_path / "other", seed=5)
    given = [f"--workdir={run}", f"--baseline={other}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=compare", *given, "--examples=8") == 0
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["num_images"] == 8
    assert result["mean_total_variation"] == 0


def write_idx(folder, images, labels):
    """The test digits, as training and as test split."""
    folder.mkdir()
    shape = struct.pack(">3I", *images.shape[:3])
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + shape + images.tobytes()
        )
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + shape[:4] + labels.astype(np.uint8).tobytes()
        )


def test_other_images_with_equal_labels_are_not_paired(main, run, tmp_path, capsys):
    batch = data.load("digits").test.batch(np.arange(360))
    images, labels = batch["image"], batch["label"]
    order = np.arange(360)
    for k in range(10):  # the same classes in the same places, by other writers
        order[labels == k] = np.roll(order[labels == k], 1)
    np.testing.assert_array_equal(labels[order], labels)
    runs = []
    for name, chosen in (("a", images), ("b", images[order])):
        write_idx(tmp_path / f"set_{name}", chosen, labels)
        place = {"data__name": "idx", "data__data_dir": str(tmp_path / f"set_{name}")}
        place |= {"data__train_examples": 0}
        runs.append(changed(run, tmp_path / name, **place))
    given = [f"--workdir={runs[0]}", f"--baseline={runs[1]}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=compare", *given) == 2
    said = one_line(capsys)
    assert "--baseline: expected a run that is judged on the same images" in said
    assert not (tmp_path / "out").exists()
    # What it advises is accepted.
    assert "by a dataset and the data_dir that it is in" in said
    advice = ["--dataset=idx", f"--data_dir={tmp_path / 'set_a'}"]
    assert main("--mode=compare", *given, *advice) == 0


def test_images_are_compared_some_at_a_time(main, run, classifier, folder, tmp_path, monkeypatch):
    """With the same result, and the posteriors of those before are gone."""
    given = [f"--workdir={run}", f"--baseline={classifier}", f"--images={folder}", "--sheet=1"]
    assert main("--mode=compare", *given, f"--output={tmp_path / 'whole'}") == 0
    made = []
    predict = Predictor.predict

    def watched(self, *args, **options):
        assert sum(each() is not None for each in made) <= 3  # of this chunk and the last
        answer = predict(self, *args, **options)
        assert answer.trajectory is None
        made.append(weakref.ref(answer.probs))
        return answer

    monkeypatch.setattr(Predictor, "predict", watched)
    monkeypatch.setattr(pictures, "CHUNK", 1)
    assert main("--mode=compare", *given, f"--output={tmp_path / 'parts'}") == 0
    assert len(made) == 6
    whole, parts = (
        json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("whole", "parts")
    )
    for side in ("run", "baseline"):
        assert parts.pop(side) == whole.pop(side)
    assert parts == pytest.approx(whole, rel=1e-4)
    rows = [
        [(row["id"], row["run"], row["baseline"]) for row in table(path / "disagreements.csv")]
        for path in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert rows[0] == rows[1]


def test_a_sheet_that_cannot_be_drawn_costs_no_result(
    main, run, classifier, folder, tmp_path, monkeypatch, capsys
):
    def fails(cards, names):
        raise RuntimeError("no such glyph")

    monkeypatch.setattr(figures, "sheet", fails)
    given = [f"--workdir={run}", f"--baseline={classifier}", f"--output={tmp_path}"]
    assert main("--mode=compare", *given, f"--images={folder}") == 0
    assert "disagreements.png could not be drawn" in capsys.readouterr().err
    assert (tmp_path / "comparison.json").exists()
    assert (tmp_path / "disagreements.csv").exists()


def test_images_and_a_data_set_are_two_things_to_compare_on(main, run, tmp_path, capsys):
    given = [f"--workdir={run}", f"--baseline={run}", f"--images={tmp_path}", "--examples=3"]
    assert main("--mode=compare", *given) == 2
    assert "--examples: expected without --images" in one_line(capsys)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_disputes_are_those_of_all_posteriors_at_once(chunk):
    random = np.random.default_rng(0)
    ours, theirs = random.dirichlet(np.ones(5), (2, 60)).astype(np.float32)
    theirs[40] = ours[20]  # ties, and one of no distance
    ours[40] = theirs[20]
    theirs[50] = ours[50]
    names = [f"class {k}" for k in range(5)]
    labels = random.integers(5, size=60)
    pixels = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)
    found = disputes.Disputes(names, 4)
    for start in range(0, 60, chunk):
        rows = slice(start, start + chunk)
        found.add(
            ours[rows],
            theirs[rows],
            labels[rows],
            lambda row, start=start: f"folder/{start + row}.png",
            pixels[rows].__getitem__,
        )
    distance = 0.5 * np.abs(ours.astype(np.float64) - theirs).sum(axis=1)
    order = sorted(range(60), key=lambda i: (-distance[i], i))
    assert [card.title for card in found.cards()] == [f"{i}.png" for i in order[:4]]
    assert [int(card.image[0, 0, 0]) for card in found.cards()] == order[:4]
    assert [card.label for card in found.cards()] == [names[labels[i]] for i in order[:4]]
    differ = [i for i in order if ours[i].argmax() != theirs[i].argmax()]
    assert [each.place for each in found.differ()] == differ
    said = [(names[ours[i].argmax()], names[theirs[i].argmax()]) for i in differ]
    assert [each.classes for each in found.differ()] == said
    assert found.mean == pytest.approx(distance.mean())
    assert (found.total, found.differing) == (60, len(differ))
