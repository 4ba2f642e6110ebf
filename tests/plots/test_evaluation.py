"""Figures of evaluations: what they show is what they were given."""

import itertools

import numpy as np
import pytest
from PIL import Image

from didicm_jax import evaluation, plots
from didicm_jax.evaluation import classes, metrics, scores
from didicm_jax.plots import evaluation as figures
from didicm_jax.plots import style


def scored(count=400, num_classes=10):
    random = np.random.RandomState(0)
    probs = random.dirichlet(np.full(num_classes, 0.3), count)
    labels = random.randint(0, num_classes, count)
    labels[: count // 2] = np.argmax(probs[: count // 2], axis=1)
    return probs, labels, evaluation.outcomes(probs, labels)


def record(steps, top1, nll):
    ends = {"top1": (top1 - 0.01, top1 + 0.02), "nll": (nll - 0.1, nll + 0.1)}
    return {"steps": steps, "top1": top1, "nll": nll, "intervals": ends}


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}


def test_steps_shows_each_sampler_in_the_order_of_its_steps():
    curves = {
        "cp euler": [record(8, 0.8, 0.5), record(2, 0.7, 0.9)],
        "one_shot": [record(1, 0.6, 1.2)],
    }
    figure = figures.steps(curves)
    left, right = figure.axes
    bars = left.containers[0]
    np.testing.assert_allclose(bars.lines[0].get_xydata(), [[2, 70], [8, 80]])
    ends = bars.lines[2][0].get_segments()
    np.testing.assert_allclose(ends[0], [[2, 69], [2, 72]])
    np.testing.assert_allclose(right.containers[1].lines[0].get_xydata(), [[1, 1.2]])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(curves)
    assert "%" in left.get_ylabel()
    assert "nats" in right.get_ylabel()


def test_samplers_of_as_many_steps_stand_side_by_side():
    """One lay on the other: a classifier's with one view and with eight."""
    figure = figures.steps({"softmax": [record(1, 0.6, 1.2)], "8 views": [record(1, 0.7, 1.0)]})
    for axes in figure.axes:
        x = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
        assert len(set(x)) == 2
        assert len(axes.get_xticks()) == 0


def test_steps_of_samplers_that_are_right_and_sure(tmp_path):
    """Their NLL of 0 has no place on a logarithmic axis, of which matplotlib warned."""
    sure = record(2, 1.0, 0.0) | {"intervals": {"top1": (1.0, 1.0), "nll": (0.0, 0.0)}}
    plots.save(figures.steps({"cp euler": [sure]}), tmp_path / "steps.png")


def test_reliability_shows_the_bins():
    found = evaluation.reliability(scored()[2])
    top, bottom = figures.reliability(found, 0.1234, "cp").axes
    full = found.examples > 0
    heights = [bar.get_height() for bar in top.containers[0]]
    np.testing.assert_allclose(heights, found.accuracy[full])
    tips = [bar.get_y() + bar.get_height() for bar in top.containers[1]]
    np.testing.assert_allclose(tips, found.confidence[full])
    np.testing.assert_allclose([b.get_height() for b in bottom.containers[0]], found.examples)
    assert "0.1234" in top.get_title()


def test_selective_is_thinned_but_keeps_its_ends():
    curve = evaluation.selective(scored(count=3000)[2])
    (axes,) = figures.selective({"cp": curve}).axes
    data = lines(axes)["cp"].get_xydata()
    assert len(data) <= 500
    np.testing.assert_allclose(data[-1], [100, 100 * curve.accuracy[-1]])
    np.testing.assert_allclose(data[0], [100 * curve.coverage[0], 100 * curve.accuracy[0]])


@pytest.mark.parametrize("num_classes", [10, 100])
def test_classes_go_from_the_worst_to_the_best(num_classes):
    probs, labels, _ = scored(2000, num_classes)
    found = classes.per_class(scores.of(probs, labels), num_classes)
    names = [f"class ${k}" for k in range(num_classes)]  # a dollar is no mathematics here
    figure = figures.classes(found, names)
    *whole, named = figure.axes
    order = np.argsort(found.accuracy, kind="stable")
    if whole:
        (drawn,) = whole[0].get_lines()
        np.testing.assert_allclose(drawn.get_ydata(), 100 * found.confidence[order])
    (drawn,) = named.get_lines()
    shown = order[:10] if num_classes == 10 else order[:20]
    np.testing.assert_allclose(drawn.get_xdata(), 100 * found.confidence[shown])
    widths = [bar.get_width() for bar in named.containers[0]]
    np.testing.assert_allclose(widths, 100 * found.accuracy[shown])
    labels = [tick.get_text().replace("\\", "") for tick in named.get_yticklabels()]
    assert labels == [names[k] for k in shown]
    figure.canvas.draw()


def test_corruptions_have_a_panel_each_and_one_for_the_mean():
    accuracy = np.array([[0.9, 0.8, 0.7], [0.9, 0.6, 0.3]])
    found = {"run": accuracy, "baseline": accuracy / 2}
    panels = figures.corruptions(["fog", "snow"], [1, 5], found).axes
    assert [axes.get_title() for axes in panels if axes.get_visible()] == ["fog", "snow", "mean"]
    np.testing.assert_allclose(lines(panels[1])["run"].get_xydata(), [[0, 90], [1, 60], [5, 30]])
    np.testing.assert_allclose(lines(panels[2])["baseline"].get_ydata(), [45, 35, 25])


def test_saved_whole_without_a_display(tmp_path):
    figure = figures.selective({"cp": evaluation.selective(scored()[2])})
    plots.save(figure, tmp_path / "a.png")
    plots.save(figure, tmp_path / "a.svg")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_allclose(image.size, figure.get_size_inches() * style.DPI, atol=1)
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg"}


def test_colours_differ_in_brightness_and_never_end():
    found = [pair for pair, _ in zip(style.colors(), range(20), strict=False)]
    assert len(set(found)) == 20
    for first, second in itertools.pairwise(found):
        assert first[0] != second[0]


def test_a_sampler_that_fails_is_no_wall_in_selective():
    """It stands in the legend, and the axes begin where the others are."""
    right, wrong = (
        metrics.Selective(np.array([0.5, 0.75, 1.0]), np.array(accuracy))
        for accuracy in ([1.0, 1.0, 0.9], [1.0, 0.4, 0.1])
    )
    (axes,) = figures.selective({"good": right, "bad": wrong}).axes
    drawn = {line.get_label(): len(line.get_xdata()) for line in axes.lines}
    assert drawn == {"good": 3, "bad: 10.0% of all": 0}
    assert axes.get_xlim() == (90, 100)
