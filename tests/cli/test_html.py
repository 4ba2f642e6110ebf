"""The pages of `--mode=evaluate` and `--mode=compare`, on small runs of real digits."""

import base64
import contextlib
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from didicm_jax import data, pages
from didicm_jax.cli import evaluate
from didicm_jax.data.digits import load_digits
from didicm_jax.evaluation import record as records
from didicm_jax.evaluation.subject import OtherData, open_subject
from didicm_jax.run import RunFolder
from tests.cli.looking import table
from tests.reading import Page

NAMES = ('<b>&"', *(f"class {k}" for k in range(1, 10)))


@pytest.fixture
def renamed(run, tmp_path, monkeypatch):
    """The run, one of whose classes is called what must not be taken for HTML."""
    whole = dataclasses.replace(load_digits(None), class_names=NAMES)
    monkeypatch.setitem(data.LOADERS, "digits", lambda data_dir: whole)
    shutil.copytree(run, tmp_path / "run")
    description = json.loads((run / "dataset.json").read_text()) | {"class_names": NAMES}
    (tmp_path / "run" / "dataset.json").write_text(json.dumps(description))
    return tmp_path / "run"


def pixels(image):
    with Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition(",")[2]))) as it:
        return np.asarray(it)


def places(cards):
    """Those of the images in the data, by their names."""
    return [int(card.only("span", **{"class": "note"}).text) for card in cards]


def test_the_page_of_an_evaluation(main, run, renamed, tmp_path):
    assert not (run / "evaluation.html").exists()  # training writes none
    given = ["--steps=1,2", f"--output={tmp_path / 'out'}"]
    assert main("--mode=evaluate", f"--workdir={renamed}", *given) == 0
    page = Page((tmp_path / "out" / "evaluation.html").read_text())
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (header, *rows) = page.table("Samplers")
    assert len(rows) == 2
    for row, found in zip(rows, record["samplers"], strict=True):
        cell = dict(zip(header, row, strict=True))
        assert cell["steps"] == str(found["steps"])
        for title, key, scale in (("top-1 %", "top1", 100), ("NLL", "nll", 1), ("ECE", "ece", 1)):
            written = cell[f"{title} [95 %]"].replace("[", "").replace("]", "").replace(",", "")
            expected = [found[key], *found["intervals"][key]]
            shown = np.array(written.split(), float)
            np.testing.assert_allclose(shown, scale * np.array(expected), atol=0.0051)
    scaled = record["best_temperature"]
    assert page.root.only("code").text == f"--temperature={scaled['temperature']:.4g}"
    assert f"NLL of cp exact, 2 steps is {scaled['nll']:.4f}" in " ".join(page.root.text.split())
    drawn = [image for image in page.root.all("img") if "width" in image.attributes]
    assert len(drawn) == 4
    of_classes = table(tmp_path / "out" / "classes.csv")
    (_, *rows) = page.table("Classes")
    accuracy = {row[0]: float(row[2]) for row in rows}
    assert accuracy == {
        row["class"]: pytest.approx(100 * float(row["accuracy"]), abs=0.051) for row in of_classes
    }
    assert list(accuracy.values()) == sorted(accuracy.values())
    with np.load(tmp_path / "out" / "predictions.npz") as found:
        probs, labels = found["probs"], found["labels"]
    said, confidence = probs.argmax(axis=1), probs.max(axis=1)
    wrong = np.flatnonzero(said != labels)
    expected = sorted(wrong.tolist(), key=lambda i: (-confidence[i], i))[:12]
    cards = [
        part for part in page.root.only("ul", id="mistakes").parts if not isinstance(part, str)
    ]
    assert places(cards) == expected
    images = data.load("digits").test.batch(np.array(expected))["image"]
    for card, place, image in zip(cards, expected, images, strict=True):
        bold = [each.text for each in card.all("b")]
        assert bold == [NAMES[said[place]], NAMES[labels[place]]]
        assert f"{bold[0]} {100 * confidence[place]:.1f} %" in card.text
        np.testing.assert_array_equal(pixels(card.only("img")), image[..., 0])
        lines = list(card.all("polyline"))
        assert len(lines) == 5
        # The likeliest class is drawn last, over the others.
        ends = [float(line.attributes["points"].split()[-1].split(",")[1]) for line in lines]
        assert ends[-1] == pytest.approx(80 * (1 - confidence[place]), abs=0.06)
        assert {len(line.attributes["points"].split()) for line in lines} == {3}
    entropy = -np.sum(np.where(probs > 0, probs * np.log(np.maximum(probs, 1e-30)), 0), axis=1)
    cards = [
        part for part in page.root.only("ul", id="uncertain").parts if not isinstance(part, str)
    ]
    shown = places(cards)
    np.testing.assert_allclose(entropy[shown], np.sort(entropy)[::-1][:12], rtol=1e-5)


def test_the_page_says_which_images_it_is_of(run, tmp_path):
    folder, other = RunFolder.open(run), OtherData(split="train[90%:]", examples=20)
    subject = open_subject(folder, "latest", other)
    images = records.images_of(folder.config, other)
    requests = evaluate.Requests([], [], None, None, trajectories=False)
    waiting = contextlib.nullcontext
    evaluate.run(subject, [folder.config], requests, tmp_path, waiting, images)
    assert json.loads((tmp_path / "evaluation.json").read_text()).items() >= images.items()
    text = " ".join(Page((tmp_path / "evaluation.html").read_text()).root.text.split())
    assert "on digits, part train[90%:], of which 20 were asked for: 20 images of 10" in text


def test_without_a_diffusion_of_probabilities_there_is_no_way_to_draw(main, classifier, tmp_path):
    given = ["--examples=40", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={classifier}", *given) == 0
    page = Page((tmp_path / "evaluation.html").read_text())
    assert not list(page.root.all("polyline"))
    likely = next(page.root.only("ul", id="uncertain").all("ul")).text
    with np.load(tmp_path / "predictions.npz") as found:
        probs = found["probs"]
    assert f"{100 * probs.max(axis=1).min():.1f} %" in page.root.text
    assert likely.count("%") == 5


def test_the_page_of_a_comparison(main, run, classifier, tmp_path):
    given = [f"--workdir={run}", f"--baseline={classifier}", "--sheet=3", f"--output={tmp_path}"]
    assert main("--mode=compare", *given) == 0
    page = Page((tmp_path / "comparison.html").read_text())
    record = json.loads((tmp_path / "comparison.json").read_text())
    rows = {row[0]: row[1:] for row in page.table("Metrics")[1:]}
    difference = record["difference"]["nll"]
    assert rows["nll"][:3] == [
        f"{record['run']['nll']:.4f}",
        f"{record['baseline']['nll']:.4f}",
        f"{difference['value']:+.4f}",
    ]
    assert f"p = {record['mcnemar']['p_value']:.3g}" in page.root.text
    (_, *rows) = page.table("Images on which the two disagree")
    expected = table(tmp_path / "disagreements.csv")[:200]
    assert [row[:4] for row in rows] == [list(row.values())[:4] for row in expected]
    assert len(list(page.root.only("ul", id="disputed").all("img"))) == 3


def test_without_labels_nobody_is_judged(main, run, classifier, folder, tmp_path):
    given = [f"--workdir={run}", f"--baseline={classifier}", f"--output={tmp_path}"]
    assert main("--mode=compare", *given, f"--images={folder}") == 0
    page = Page((tmp_path / "comparison.html").read_text())
    assert "McNemar" not in page.root.text
    assert len(list(page.root.only("ul", id="disputed").all("img"))) == 3


def test_a_page_that_cannot_be_made_costs_no_result(main, run, tmp_path, monkeypatch, capsys):
    def fails(image):
        raise RuntimeError("no such pixels")

    monkeypatch.setattr(pages, "picture", fails)
    given = ["--examples=8", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    said = capsys.readouterr()
    assert "evaluation.html could not be drawn: RuntimeError: no such pixels" in said.err
    assert "evaluation.html" not in said.out
    assert (tmp_path / "predictions.npz").exists()
