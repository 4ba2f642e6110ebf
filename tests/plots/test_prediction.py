"""Figures of single images."""

import numpy as np
import pytest
from PIL import Image

from didicm_jax import plots
from didicm_jax.plots import prediction as figures

NAMES = [f"class {k}" for k in range(10)]


def story(steps=4, channels=1):
    random = np.random.RandomState(0)
    way = random.dirichlet(np.ones(10), steps + 1).astype(np.float32)
    way[0] = 0.1
    image = random.randint(0, 256, (8, 8, channels)).astype(np.uint8)
    return figures.Story("photo$1.png", image, NAMES, way[-1], way)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_refinement_draws_the_way_of_the_classes_that_matter(channels):
    given = story(channels=channels)
    left, right = figures.refinement(given).axes
    np.testing.assert_array_equal(np.squeeze(left.images[0].get_array()), np.squeeze(given.image))
    drawn = right.get_lines()
    assert len(drawn) == 5
    labels = [line.get_label() for line in drawn]
    best = int(np.argmax(given.probs))
    assert labels[0].startswith(f"class {best}: ")
    # One that was likely on the way is there too, whatever became of it.
    on_the_way = int(np.argmax(given.trajectory[1:].max(axis=0)))
    assert any(label.startswith(f"class {on_the_way}: ") for label in labels)
    np.testing.assert_allclose(drawn[0].get_ydata(), 100 * given.trajectory[:, best])
    assert right.get_title() == f"class {best}, {100 * given.probs[best]:.1f} %"


def test_a_legend_has_every_class_whatever_it_is_called():
    told = story()._replace(class_names=[f"_{name}_" for name in NAMES])
    (legend,) = figures.steps(told).legends
    for each in (legend, figures.refinement(told).axes[1].get_legend()):
        assert len(each.get_texts()) == 5


def test_without_a_trajectory_there_are_bars():
    given = story()._replace(trajectory=None)
    _, right = figures.refinement(given).axes
    widths = [bars[0].get_width() for bars in right.containers]
    np.testing.assert_allclose(widths, 100 * np.sort(given.probs)[::-1][:5])


def test_an_animation_has_a_frame_for_each_step(tmp_path):
    figures.animate(story(steps=4), tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 5
        first = np.asarray(image.convert("RGB"))
        image.seek(4)
        assert np.any(first != np.asarray(image.convert("RGB")))
        assert image.info["duration"] > 1000  # the end is to be read
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_a_name_in_another_script_is_drawn_without_a_warning(tmp_path):
    told = story(steps=1)._replace(title="猫.png")
    figures.animate(told, tmp_path / "a.gif")
    plots.save(figures.refinement(told), tmp_path / "a.png")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_sheet_shows_every_card(tmp_path, count):
    image = np.zeros((8, 8, 3), np.uint8)
    bars = [("cat", 0.75, 0.25), ("dog", 0.25, 0.5)]
    cards = [figures.Card(f"{k}.png", image, "cat" if k else None, bars) for k in range(count)]
    figure = figures.sheet(cards, ("run", "baseline"))
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["0.png", *(f"{k}.png\ntrue: cat" for k in range(1, count))]
    charts = [axes for axes in figure.axes if axes.containers]
    assert len(charts) == count
    widths = [[bar.get_width() for bar in bars] for bars in charts[0].containers]
    assert widths == [[75, 25], [25, 50]]
    bold = [tick.get_fontweight() == "bold" for tick in charts[-1].get_yticklabels()]
    assert bold == [count > 1, False]
    plots.save(figure, tmp_path / "sheet.png")


def test_steps_draw_the_way_and_the_uncertainty_grows():
    given = story()
    (axes,) = figures.steps(given).axes
    best = int(np.argmax(given.probs))
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), 100 * given.trajectory[:, best])
    strengths, entropy, probs = (
        np.linspace(0, 1, 3),
        np.array([0.1, 1, 2]),
        np.array([0.9, 0.5, 0.2]),
    )
    left, right = figures.growth(strengths, entropy, probs, most=np.log(10)).axes
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), entropy)
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), 100 * probs)
    assert left.get_ylim()[1] > np.log(10)
