"""Curves of training."""

import numpy as np
import pytest

from didicm_jax.plots import training


def records(count=300):
    lines = [
        {"step": k, "loss": float(k % 7), "learning_rate": 1 / k, "images_per_second": 50.0}
        for k in range(1, count + 1)
    ]
    lines[3]["loss"] = None
    return lines


def evaluated(step, top1=0.5):
    return [{"step": step, "top1": top1, "nll": 1.5, "ece": 0.25}]


def test_each_panel_shows_its_values():
    evaluations = {"a": {"": evaluated(300)}, "b": {"": evaluated(10)}}
    figure = training.curves({"a": records(), "b": records(10)}, evaluations)
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    faint, smooth = panels["training loss"].get_lines()[:2]
    assert np.isnan(faint.get_ydata()[3])  # a gap where the loss was not finite
    assert faint.get_ydata()[4] == 5
    # The mean of a window of seven steps has no wave of seven.
    assert np.ptp(smooth.get_ydata()[10:-10]) < 0.1
    np.testing.assert_allclose(
        panels["learning rate"].get_lines()[0].get_ydata()[:3], [1, 1 / 2, 1 / 3]
    )
    assert [line.get_xydata().tolist() for line in panels["top-1 accuracy (%)"].get_lines()] == [
        [[300, 50]],
        [[10, 50]],
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    figure.canvas.draw()


def test_of_several_sets_a_dash_stands_for_each_in_the_colour_of_the_run():
    evaluations = {
        "a": {"held": evaluated(300), "noise": evaluated(200, top1=0.25)},
        "b": {"noise": evaluated(10)},
    }
    figure = training.curves({"a": records(), "b": records(10)}, evaluations)
    lines = figure.axes[3].get_lines()
    found = [line.get_xydata().tolist() for line in lines]
    assert found == [[[300, 50]], [[200, 25]], [[10, 50]]]
    held, noise, other = lines
    assert held.get_color() == noise.get_color() != other.get_color()
    assert held.get_linestyle() != noise.get_linestyle() == other.get_linestyle()
    (legend,) = figure.legends
    named = zip(legend.get_texts(), legend.get_lines(), strict=True)
    looks = {text.get_text(): line.get_linestyle() for text, line in named}
    assert list(looks) == ["a", "b", "held", "noise"]
    assert looks["held"] == held.get_linestyle()
    assert looks["noise"] == noise.get_linestyle()


def test_smoothing_leaves_out_what_is_not_finite():
    values = np.ones(200)
    values[50:53] = np.nan
    expected = np.where(np.isnan(values), np.nan, 1)  # the gap stays, and does not spread
    np.testing.assert_allclose(training.smoothed(values), expected)
    values[100] = 6  # in a window of five, it adds one to the mean
    assert training.smoothed(values)[100] == pytest.approx(2)
    np.testing.assert_array_equal(training.smoothed(np.array([1.0, np.nan])), [1, np.nan])
