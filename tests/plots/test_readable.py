"""Figures can be read: no text overlaps another or is cut, and no legend covers what is shown.

The numbers are extremes that runs do have: samplers that fail, a thousand classes, one step.
"""

import matplotlib.colors
import numpy as np
import pytest

from didicm_jax.evaluation import classes as of_classes
from didicm_jax.evaluation import metrics, scores
from didicm_jax.plots import benchmarks, prediction, study, style, training
from didicm_jax.plots import evaluation as figures
from tests.plots import readable

LONG = [f"a very long class name, number {k}, in Latin Canis lupus" for k in range(1000)]
PHOTO = "a_very_long_name_of_a_photo_from_some_camera_2026-01-01_0001.jpg"
SAMPLERS = [
    f"cp, {name}, {query} query" for name in ("euler", "exact") for query in ("min", "draw")
]


def record(steps, top1, nll, error=0.01):
    ends = {"top1": (top1 - error, min(1.0, top1 + error)), "nll": (0.9 * nll, 1.1 * nll)}
    return {"steps": steps, "top1": top1, "nll": nll, "intervals": ends}


FAILING = {
    "cp, euler": [record(1, 0.1, 2.3), record(2, 0.9, 0.4), record(8, 0.935, 0.28)],
    "cp, heun": [record(1, 0.12, 2.3), record(8, 0.92, 0.3)],
    "one_shot": [record(1, 0.93, 0.26)],
}
MANY_STEPS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 100, 128, 256, 1000)


def steps(kind):
    if kind == "many":
        return figures.steps(
            {name: [record(s, 0.9, 1 / s) for s in MANY_STEPS] for name in SAMPLERS}
        )
    if kind == "wide":
        return figures.steps({"cp": [record(1, 0.9, 1e-6), record(2, 0.9, 30.0)]})
    if kind == "less than a decade":
        return figures.steps({"cp": [record(s, 0.9, 0.3 + 0.5 / s) for s in (1, 2, 4, 8)]})
    return figures.steps(FAILING)


def reliability(images):
    examples = np.array([0, images, 2, 0, 1])
    with np.errstate(invalid="ignore"):
        found = metrics.Reliability(
            np.linspace(0, 1, 6), examples, np.full(5, 0.4), np.linspace(0.1, 0.9, 5)
        )
    return figures.reliability(
        found, 0.01234, f"{SAMPLERS[3]} by the exact integrator, 1,000 steps"
    )


def curve(accuracy, count=1000):
    """From all right to `accuracy` on all images."""
    coverage = np.arange(1, count + 1) / count
    return metrics.Selective(coverage, 1 - (1 - accuracy) * coverage**2)


def classes(count, names):
    random = np.random.RandomState(0)
    probs = random.dirichlet(np.ones(count), 4 * count)
    labels = np.arange(4 * count) % count
    probs[labels % 2 == 0, labels[labels % 2 == 0]] = 1
    probs /= probs.sum(axis=1, keepdims=True)
    return figures.classes(of_classes.per_class(scores.of(probs, labels), count), names)


def corruptions(count):
    accuracy = np.full((count, 4), 0.1)
    names = ["gaussian_noise", "shot_noise", "fog", "elastic_transform"][:count]
    return figures.corruptions(names, [1, 3, 5], {"run": accuracy, "baseline": accuracy})


def story(count, steps, names=LONG, title=PHOTO):
    random = np.random.RandomState(0)
    way = random.dirichlet(np.ones(count), steps + 1).astype(np.float32)
    image = np.zeros((32, 32, 3), np.uint8)
    return prediction.Story(title, image, names[:count], way[-1], way if steps else None)


def sheet(count):
    bars = [(name, 0.5, 0.25) for name in LONG[:3]]
    card = prediction.Card(PHOTO, np.zeros((32, 32, 3), np.uint8), LONG[0], bars)
    return prediction.sheet([card] * count, ("run", "baseline"))


def trained(runs, count, every=1, evaluated=True, loss=0.5):
    lines = [
        {"step": k, "loss": loss, "learning_rate": 1e-3, "images_per_second": 5000.0}
        for k in range(every, count + 1, every)
    ]
    last = {"": [{"step": count, "top1": 0.5, "nll": 1.5, "ece": 0.25}]} if evaluated else {}
    return dict.fromkeys(runs, lines), dict.fromkeys(runs, last)


def gains(panels, rows, columns, values=None):
    grid = np.linspace(-4, 4, len(rows) * len(columns)).reshape(len(rows), len(columns))
    return study.gains(
        [study.Map(name, grid if values is None else values) for name in panels],
        ("resolution", rows),
        ("data_ratio, optimizer.learning_rate", columns),
        "reduction of the NLL (%)",
    )


def compute(methods, places=3):
    point = study.Point(1.0, 80.0, 0.5, True)
    return study.compute(
        {
            f"resolution=28, data_ratio=0.{place}, optimizer.name=adamw": {
                name: [point, point._replace(passes=8.0)] for name in methods
            }
            for place in range(places)
        }
    )


def bench(ratio):
    found = {"ratio": ratio, "ratio_low": 0.99 * ratio, "ratio_high": 1.01 * ratio}
    first = {"name": "train step", "target": 1.25, "gain": False} | found
    return benchmarks.ratios([first, first | {"gain": True}])


DRAWN = {
    "steps of samplers, some of which fail": lambda: steps("failing"),
    "many steps of many samplers": lambda: steps("many"),
    "likelihoods over many decades": lambda: steps("wide"),
    "likelihoods within a decade": lambda: steps("less than a decade"),
    "reliability on few images": lambda: reliability(4),
    "reliability on many images": lambda: reliability(40_000),
    "selective accuracy of many": lambda: figures.selective(
        {f"{name}, {k} steps": curve(0.8) for name in SAMPLERS for k in (1, 2, 4, 8, 16)}
    ),
    "2 classes": lambda: classes(2, LONG),
    "10 classes": lambda: classes(10, LONG),
    "30 classes": lambda: classes(30, LONG),
    "1,000 classes": lambda: classes(1000, LONG),
    "one corruption": lambda: corruptions(1),
    "corruptions": lambda: corruptions(4),
    "refinement of 2 classes": lambda: prediction.refinement(story(2, 8)),
    "refinement of 1,000 classes": lambda: prediction.refinement(story(1000, 8)),
    "refinement in 256 steps": lambda: prediction.refinement(story(10, 256)),
    "posterior without steps": lambda: prediction.refinement(story(1000, 0)),
    "one card": lambda: sheet(1),
    "many cards": lambda: sheet(9),
    "a long training": lambda: training.curves(*trained(["imagenet"], 375_000, 5000)),
    "many runs": lambda: training.curves(*trained([f"{LONG[0]}/{k}" for k in range(20)], 9)),
    "one step of training": lambda: training.curves(*trained(["run"], 1)),
    "gains of one place": lambda: gains(["paper"], ["28"], [""]),
    "gains of many places": lambda: gains(
        ["paper", "paper@compute", "chosen of them"],
        ["28", "14"],
        [f"0.{a}, 0.000{b}" for a in range(3) for b in range(3)],
    ),
    "compute": lambda: compute(["softmax", "smoothed", "paper", "paper@compute", "late", "head"]),
    "benchmarks of little difference": lambda: bench(1.2),
    "benchmarks of much difference": lambda: bench(12_345.0),
}


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_overlaps_or_is_cut(name):
    figure = DRAWN[name]()
    assert readable.faults(figure) == []
    # A page shows some 900 pixels: of a wider figure the letters would be too small.
    assert figure.get_figwidth() <= 12


def test_a_sampler_that_fails_does_not_flatten_the_others():
    left, _ = figures.steps(FAILING).axes
    low, high = left.get_ylim()
    assert 85 < low < 89
    assert high < 96
    assert {text.get_text() for text in left.texts} == {"▼ 10.0", "▼ 12.0"}
    # One that is just above the lower edge is drawn there, and not named once more.
    near = {"cp": [record(1, 0.21, 2.0), record(2, 0.57, 1.0), record(4, 0.3, 1.0, 0.09)]}
    left, _ = figures.steps(near).axes
    assert left.get_ylim()[0] < 21
    assert list(left.texts) == []


def test_no_tick_of_an_accuracy_above_all():
    for accuracy in (1.0, 0.9996, 0.8):
        (axes,) = figures.selective({"cp": curve(accuracy)}).axes
        assert max(map(float, readable.ticks(axes.yaxis))) == 100


def test_the_noise_of_the_first_images_makes_no_axis():
    noisy = curve(0.9)
    noisy.accuracy[:3] = 0
    (axes,) = figures.selective({"cp": noisy}).axes
    assert axes.get_ylim()[0] > 85


def test_few_images_are_counted_in_whole_numbers():
    _, bottom = reliability(4).axes
    shown = readable.ticks(bottom.yaxis)
    assert len(shown) > 2
    assert all(text.isdigit() for text in shown)


def test_of_many_classes_the_worst_have_names():
    whole, named = classes(1000, [f"name {k}" for k in range(1000)]).axes
    assert len(readable.ticks(named.yaxis)) == 20
    assert all(text.startswith("name ") for text in readable.ticks(named.yaxis))
    assert "1,000" in whole.get_xlabel()


def test_every_corruption_shows_its_severities():
    for axes in corruptions(4).axes[2:]:
        assert not axes.get_visible() or readable.ticks(axes.xaxis) == ["0", "1", "3", "5"]


def test_names_that_begin_alike_are_told_apart():
    names = [*LONG, "short", LONG[0]]
    for length in (12, 20, 28):
        cut = style.distinct(names, length)
        assert max(map(len, cut)) <= length
        assert len(set(cut)) == len(set(names))
        assert cut[-2:] == ["short", cut[0]]
    assert style.distinct(["abcdef", "xyz"], 4) == ["abc…", "xyz"]


def test_markers_of_many_steps_do_not_hide_the_line():
    _, right = prediction.refinement(story(10, 256)).axes
    for line in right.get_lines():
        assert len(line.get_xdata()) / line.get_markevery() <= 40


def test_an_image_without_steps_has_no_step_in_its_animation(tmp_path, monkeypatch):
    titles = []
    whole = prediction.style.new

    def watched(*size):
        figure, panels = whole(*size)
        titles.append(panels[1])
        return figure, panels

    monkeypatch.setattr(prediction.style, "new", watched)
    prediction.animate(story(2, 0, ["no", "yes"]), tmp_path / "a.gif")
    assert "step" not in titles[0].get_title()


def test_a_run_that_was_not_evaluated_has_no_empty_panels():
    figure = training.curves(*trained(["run"], 20, evaluated=False))
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "training loss",
        "learning rate",
        "images per second",
    ]


def test_a_loss_that_is_nowhere_finite_is_said_so():
    loss = training.curves(*trained(["run"], 20, loss=None)).axes[0]
    assert [text.get_text() for text in loss.texts] == ["no finite value"]
    assert readable.ticks(loss.yaxis) == []


def test_one_step_is_seen():
    for axes in training.curves(*trained(["run"], 1)).axes:
        assert any(line.get_marker() not in ("", "None", None) for line in axes.get_lines())


def test_a_loss_that_exploded_does_not_hide_the_others():
    runs, evaluations = trained(["run"], 20)
    runs["run"][3]["loss"] = 5e4
    assert training.curves(runs, evaluations).axes[0].get_yscale() == "log"
    assert training.curves(*trained(["run"], 20)).axes[0].get_yscale() == "linear"


def test_one_gain_beyond_all_leaves_the_others_their_colours():
    values = np.array([[-345.0, 12.0], [6.0, 4.0], [8.0, -9.0]])
    figure = gains(["paper"], ["28", "14", "7"], ["0.1", "0.02"], values)
    assert figure.axes[0].images[0].get_clim()[1] < 40
    assert figure.axes[-1]._colorbar.extend == "both"


def test_without_any_gain_the_scale_has_no_factor():
    figure = gains(["paper"], ["28"], ["0.1"], np.zeros((1, 1)))
    figure.canvas.draw()
    assert figure.axes[-1].yaxis.get_offset_text().get_text() == ""


def test_compute_names_every_method():
    point = [study.Point(1.0, 80.0, 0.0, True)]
    figure = study.compute({"28": {"softmax": point}, "14": {"softmax": point, "paper": point}})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["softmax", "paper"]


@pytest.mark.parametrize("most", [1.6, 1.9, 28.0])
def test_compute_says_how_many_passes(most):
    points = [study.Point(passes, 80.0, 0.0, False) for passes in (1.05, most)]
    figure = study.compute({"28": {"softmax": points}})
    figure.canvas.draw()
    axis = figure.axes[0].xaxis
    low, high = axis.get_view_interval()
    seen = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    assert len(seen) >= 3


def test_colours_are_seen_on_white():
    """By the contrast of WCAG 2; 1.05 is white on white, and the yellow that was here had 1.3."""
    for color in style.COLORS:
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in matplotlib.colors.to_rgb(color)
        ]
        assert 1.05 / (np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05) > 2


def test_curves_of_one_grey_differ_in_their_markers():
    (axes,) = figures.selective({name: curve(0.8) for name in SAMPLERS}).axes
    assert len({line.get_marker() for line in axes.get_lines()} - {"None"}) == len(SAMPLERS)
