"""`--mode=predict`: a user's own images."""

import json
import os
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from didicm_jax import data, plots
from didicm_jax.cli import pictures
from didicm_jax.cli.predict import FIGURES
from didicm_jax.inference.predictor import Predictor
from tests.cli.looking import is_picture, one_line, table
from tests.data.making import close


def figures(folder):
    return sorted(path.name for path in (folder / FIGURES).iterdir())


def test_links_that_lead_to_no_file_are_not_passed_over(folder, tmp_path):
    """What reads the images says of each what is wrong with it."""
    place = tmp_path / "linked"
    place.mkdir()
    (place / "digit.png").symlink_to(folder / "digit0.png")
    (place / "gone.png").symlink_to(tmp_path / "nowhere")
    (place / "more").symlink_to(folder)
    (place / "self.png").symlink_to("self.png")
    found = pictures.find([str(place)], without=[tmp_path / "predictions"])
    assert [path.name for path in found] == ["digit.png", "gone.png", "more", "self.png"]


def test_a_folder_that_may_not_be_read_is_not_passed_over(folder, tmp_path, monkeypatch):
    place = tmp_path / "images"
    (place / "closed").mkdir(parents=True)
    (place / "digit.png").symlink_to(folder / "digit0.png")
    close(place / "closed", monkeypatch)
    with pytest.raises(PermissionError, match="closed"):
        pictures.find([str(place)])


def test_prediction_of_a_folder(main, run, folder, tmp_path, capsys):
    given = [f"--images={folder}", f"--output={tmp_path}", "--gif", "--max_figures=2"]
    assert main("--mode=predict", f"--workdir={run}", *given) == 0
    said = capsys.readouterr()
    for name in ("broken.png", "notes.txt"):
        assert f"{name}: " in next(line for line in said.err.splitlines() if name in line)
    assert said.err.count("skipped") == 2
    rows = table(tmp_path / "predictions.csv")
    assert [Path(row["file"]).name for row in rows] == ["digit0.png", "digit1.png", "digit2.png"]
    paths = [folder / "digit0.png", folder / "digit1.png", folder / "more" / "digit2.png"]
    expected = Predictor.from_workdir(run)([str(path) for path in paths])
    assert [row["class"] for row in rows] == list(expected.classes)
    probs = [[float(row[str(k)]) for k in range(10)] for row in rows]
    np.testing.assert_allclose(probs, expected.probs, rtol=1e-5)
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert [r["class"] for r in records] == list(expected.classes)
    assert records[0]["top"][0]["class"] == expected.classes[0]
    assert figures(tmp_path) == [
        *("0001-digit0.gif", "0001-digit0.png", "0002-digit1.gif", "0002-digit1.png")
    ]
    assert is_picture(tmp_path / FIGURES / "0001-digit0.png")
    with Image.open(tmp_path / FIGURES / "0001-digit0.gif") as image:
        assert image.n_frames == 3
    assert f"{FIGURES} (2 figures of the first of 3 images: --max_figures) in" in said.out


def test_figures_of_another_prediction_do_not_stay(main, run, folder, tmp_path, capsys):
    """Nor are they, or its tables, images to predict: the second call is given all of it."""
    out = tmp_path / "out"
    for given in ([f"--images={folder / 'digit0.png'}", "--gif"], [f"--images={tmp_path}"]):
        for name in ("a.png", "b.png") if len(given) == 1 else ():
            (tmp_path / name).write_bytes((folder / "digit0.png").read_bytes())
        assert main("--mode=predict", f"--workdir={run}", *given, f"--output={out}") == 0
        assert capsys.readouterr().err == ""
    assert [Path(row["file"]).name for row in table(out / "predictions.csv")] == ["a.png", "b.png"]
    assert figures(out) == ["0001-a.png", "0002-b.png"]
    kept = [out / FIGURES / "notes.txt", out / FIGURES / "kept" / "0001-a.png"]
    kept[1].parent.mkdir()
    for path in kept:  # by whoever looks at them
        path.write_text("")
    words = [f"--images={tmp_path}", f"--output={out}", "--max_figures=0"]
    assert main("--mode=predict", f"--workdir={run}", *words) == 0
    assert figures(out) == ["kept", "notes.txt"]
    assert all(path.exists() for path in kept)


def test_a_classifier_predicts_too(main, classifier, folder, tmp_path):
    given = [f"--images={folder / 'digit0.png'}", f"--output={tmp_path}"]
    assert main("--mode=predict", f"--workdir={classifier}", *given) == 0
    assert is_picture(tmp_path / FIGURES / "0001-digit0.png")


def posteriors(folder):
    rows = table(folder / "predictions.csv")
    return np.array([[float(row[str(k)]) for k in range(10)] for row in rows])


@pytest.fixture
def same(tmp_path):
    """One digit five times."""
    folder = tmp_path / "same"
    folder.mkdir()
    image = data.load("digits").test.batch(np.arange(1))["image"][0, ..., 0]
    for k in range(5):
        Image.fromarray(image).save(folder / f"{k}.png")
    return folder


def test_a_sampler_draws_anew_in_every_chunk(main, run, same, tmp_path, monkeypatch):
    """As for one call with all images; a file that cannot be read takes no place."""
    (same / "1a.png").write_text("no image")
    monkeypatch.setattr(pictures, "CHUNK", 2)
    given = [f"--images={same}", f"--output={tmp_path / 'out'}", "--max_figures=0"]
    chosen = ["--sampler=cl", "--steps=2", "--chains=5"]
    assert main("--mode=predict", f"--workdir={run}", *given, *chosen) == 0
    settings = {"name": "cl", "steps": 2, "chains": 5}
    expected = Predictor.from_workdir(run, sampler=settings)([same / f"{k}.png" for k in range(5)])
    assert np.any(expected.probs[:2] != expected.probs[2:4])
    np.testing.assert_allclose(posteriors(tmp_path / "out"), expected.probs, rtol=1e-5)


def test_odd_names_and_commas_lose_nothing(main, run, same, tmp_path, capsys):
    names = ["n" * 250 + ".png", os.fsdecode(b"caf\xe9.png"), "a,b.png", "ä$x_y$.png"]
    for number, name in enumerate(names):
        (same / f"{number}.png").rename(same / name)
    words = [f"--images={same / names[2]},nowhere"]
    assert main("--mode=predict", f"--workdir={run}", *words) == 2
    assert f"found no {same / 'a'}" in one_line(capsys)
    out = tmp_path / "out"
    images = [f"--images={same / names[2]}", f"--images={same / names[3]},{same / names[0]}"]
    images += [f"--images={same / names[1]}"]
    assert main("--mode=predict", f"--workdir={run}", *images, f"--output={out}", "--gif") == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "caf\\udce9.png" in said.out
    found = [Path(row["file"]).name for row in table(out / "predictions.csv")]
    assert found == ["a,b.png", "ä$x_y$.png", names[0], "caf\\udce9.png"]
    records = json.loads((out / "predictions.json").read_text())
    assert [Path(record["file"]) for record in records] == [same / names[k] for k in (2, 3, 0, 1)]
    drawn = [name for name in figures(out) if name.endswith(".png")]
    assert drawn == ["0001-a,b.png", "0002-ä$x_y$.png", f"0003-{'n' * 200}.png", "0004-caf_.png"]
    assert all(is_picture(out / FIGURES / name) for name in drawn)
    assert len(figures(out)) == 8


def test_a_figure_that_fails_costs_one_figure(main, run, same, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    save = plots.save

    def some(figure, path):
        assert len(posteriors(out)) == 5  # the tables are whole before
        if path.name == "0002-1.png":
            raise RuntimeError("no such\nglyph")
        save(figure, path)

    monkeypatch.setattr(plots, "save", some)
    given = [f"--images={same}", f"--output={out}", "--max_figures=3"]
    assert main("--mode=predict", f"--workdir={run}", *given) == 0
    said = capsys.readouterr()
    assert said.err == "warning: 0002-1.png could not be drawn: RuntimeError: no such glyph\n"
    assert figures(out) == ["0001-0.png", "0003-2.png"]
    assert "(2 figures of the first of 5 images: --max_figures)" in said.out


def test_one_figure_is_not_1_figures(main, run, same, tmp_path, capsys):
    given = [f"--images={same / '0.png'}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=predict", f"--workdir={run}", *given) == 0
    assert f"{FIGURES} (1 figure) in" in capsys.readouterr().out


def test_images_are_predicted_some_at_a_time(main, run, same, tmp_path, monkeypatch):
    """What is known of those before is written and gone."""
    made = []
    predict = Predictor.predict

    def watched(self, *args, **options):
        assert sum(each() is not None for each in made) <= 1  # the chunk before
        answer = predict(self, *args, **options)
        made.append(weakref.ref(answer.probs))
        return answer

    monkeypatch.setattr(Predictor, "predict", watched)
    monkeypatch.setattr(pictures, "CHUNK", 1)
    given = [f"--images={same}", f"--output={tmp_path / 'out'}", "--max_figures=2"]
    assert main("--mode=predict", f"--workdir={run}", *given) == 0
    assert len(made) == 5 + 2


@pytest.mark.parametrize("mode", ["evaluate", "predict", "compare", "report"])
def test_a_run_that_is_looked_at_from_elsewhere_is_left_as_it_is(
    main, run, same, tmp_path, monkeypatch, capsys, mode
):
    """Also where it cannot be written to; then its own folder is refused for the output."""
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, how, **options: (
            not (how & os.W_OK and Path(path).resolve().is_relative_to(run))
            and access(path, how, **options)
        ),
    )
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    update, caches = jax.config.update, []
    monkeypatch.setattr(
        jax.config,
        "update",
        lambda key, value: (
            caches.append(value) if key == "jax_compilation_cache_dir" else update(key, value)
        ),
    )
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    given = [f"--mode={mode}", f"--workdir={run}"]
    given += [f"--baseline={run}"] * (mode == "compare")
    given += [f"--images={same / '0.png'}"] * (mode == "predict")
    assert main(*given) == 2
    said = one_line(capsys)
    assert f"--output: expected a folder that can be written, found {run} read-only" in said
    assert main(*given, f"--output={tmp_path / 'out'}") == 0
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before
    if mode != "report":  # which compiles nothing
        assert caches[-1] == str(tmp_path / "out" / "compilation_cache")
