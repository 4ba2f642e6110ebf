"""The figure of gains over the difficulty of a place: what it shows is what it was given."""

import numpy as np

from didicm_jax.plots import study as figures


def test_gains_stand_side_by_side_on_one_scale(tmp_path):
    near = {"paper": [figures.Gain(1, 2.0, 0.5), figures.Gain(0, 1.0, 0.25)]}
    far = {"paper": [figures.Gain(1, -9.0, 1.0)], "head": [figures.Gain(1, 3.0, 0.0)]}
    panels = [figures.Panel("over A", near, "points"), figures.Panel("over B", far, "points")]
    figure = figures.difficulty(panels, 2, ["easy", "hard"], "size")
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("over A", "over B")
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] < -10
    assert left.get_ylim()[1] > 3
    assert left.get_xlim() == right.get_xlim() == (-0.5, 1.5)  # of all places, seen or not
    assert [label.get_text() for label in left.get_xticklabels()] == ["easy", "hard"]
    paper = left.containers[0]
    # From the easiest place on, near the place that it belongs to, with its interval.
    np.testing.assert_array_equal(paper[0].get_ydata(), [1.0, 2.0])
    np.testing.assert_allclose(np.array(paper[0].get_xdata(), float), [0, 1], atol=0.3)
    segments = paper[2][0].get_segments()
    np.testing.assert_allclose([s[:, 1] for s in segments], [[0.75, 1.25], [1.5, 2.5]])
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["paper", "head"]


def test_metrics_over_an_axis_are_what_was_given(tmp_path):
    lines = {
        "late": [figures.At(1e5, 47.0, 0.5), figures.At(4e4, 43.0, 0.0)],
        "head": [figures.At(4e5, 1.0, 0.0)],
    }
    panels = [figures.Curves("a", "top-1 %", lines), figures.Curves("a", "NLL", {})]
    long = "data_ratio=0.05, data.label_noise=0.2"
    panels += [figures.Curves(long, metric, lines) for metric in ("top-1 %", "NLL")]
    figure = figures.curves(panels, 2, "duration (examples)")
    first, empty, *_ = figure.axes
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a", "a", *["data_ratio=0.05,\ndata.label_noise=0.2"] * 2]
    assert [axes.get_ylabel() for axes in figure.axes] == ["top-1 %", "NLL"] * 2
    assert figure.get_supxlabel() == "duration (examples)"
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    np.testing.assert_array_equal(first.containers[0][0].get_xydata(), [[4e4, 43], [1e5, 47]])
    assert not empty.containers
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["40k", "100k", "400k"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["late", "head"]


def test_shares_on_an_axis_are_no_thousandths(tmp_path):
    line = {"late": [figures.At(share, 47.0, 0.5) for share in (0.0, 0.02, 0.2, 1.0)]}
    figure = figures.curves([figures.Curves("a", "top-1 %", line)], 1, "data.label_noise")
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.02", "0.2", "1"]
