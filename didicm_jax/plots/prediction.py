"""Figures of single images: how a posterior is refined, and where two models disagree."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from didicm_jax import files
from didicm_jax.plots import style

# Classes that are drawn: those that come to matter at some step.
_CLASSES = 5
_FRAME_MS, _LAST_FRAME_MS = 500, 2000
_ANIMATION_DPI = 90


class Story(NamedTuple):
    """An image and how its posterior came about."""

    title: str
    image: np.ndarray  # u8[H, W, C]
    class_names: Sequence[str]  # K
    probs: np.ndarray  # f32[K]
    trajectory: np.ndarray | None  # f32[S + 1, K], from the uniform start; None without one


class Card(NamedTuple):
    """An image that two models disagree about."""

    title: str
    image: np.ndarray  # u8[H, W, C]
    label: str | None  # the true class, where it is known
    bars: Sequence[tuple[str, float, float]]  # class, probability of the first and second model


def refinement(story: Story) -> Figure:
    """The image, and the posterior at each step for the classes that matter."""
    figure, (left, right) = style.new(9, 3.8, 1, 2)
    left.get_gridspec().set_width_ratios([1, 1.6])
    _show(left, story.image)
    left.set_title(_lines(story.title), fontsize=9)
    shown = matter(story.probs, story.trajectory)
    if story.trajectory is None:
        _bars(right, story, shown, story.probs)
        right.set_title(_verdict(story, story.probs), fontsize=10)
        return figure
    _way(right, story, shown, story.trajectory)
    right.set_title(_verdict(story, story.probs), fontsize=10)
    right.legend(
        *_lines_of(right), fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    return figure


def steps(story: Story) -> Figure:
    """The posterior at each step, without the image, for a page as narrow as a phone.

    Args:
      story: with a trajectory.
    """
    assert story.trajectory is not None
    figure, axes = style.new(5.5, 3.6)
    _way(axes, story, matter(story.probs, story.trajectory), story.trajectory)
    figure.legend(*_lines_of(axes), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def growth(strengths: np.ndarray, entropy: np.ndarray, probs: np.ndarray, most: float) -> Figure:
    """How the uncertainty about one image grows with its corruption.

    Args:
      strengths: f32[M], shares of a corruption, from 0 to 1.
      entropy: f32[M], of the posterior at each, in nats.
      probs: f32[M], what each gives to the class that the image has without corruption.
      most: the entropy of knowing nothing, in nats.
    """
    figure, axes = style.new(5.5, 3.2)
    axes.plot(100 * strengths, entropy, color=style.BLUE, marker="o", ms=5, label="entropy")
    axes.axhline(most, color=style.GREY, linestyle=":", label="entropy of knowing nothing")
    axes.set_ylim(0, 1.08 * most)
    axes.set_xlabel("corruption (% of what the sliders say)")
    axes.set_ylabel("entropy (nats)")
    right = axes.twinx()
    style.prepare(right)
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    label = "probability of the first answer"
    right.plot(100 * strengths, 100 * probs, color=style.ORANGE, marker="s", ms=4, label=label)
    right.set_ylim(0, 108)
    right.set_ylabel("probability (%)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def animate(story: Story, path: Path) -> None:
    """Writes the refinement as an animated GIF, a frame for each step."""
    way = story.probs[None] if story.trajectory is None else story.trajectory
    shown = matter(story.probs, story.trajectory)
    frames = []
    for number, probs in enumerate(way):
        figure, (left, right) = style.new(7.5, 3, 1, 2)
        left.get_gridspec().set_width_ratios([1, 1.6])
        _show(left, story.image)
        left.set_title(_lines(story.title), fontsize=9)
        _bars(right, story, shown, probs)
        title = f"step {number} of {len(way) - 1}" if len(way) > 1 else _verdict(story, probs)
        right.set_title(title, fontsize=10)
        figure.set_dpi(_ANIMATION_DPI)
        with style.drawing():
            figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
        frames.append(Image.fromarray(np.ascontiguousarray(pixels)))
    times = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    files.write_whole(
        path,
        lambda file: frames[0].save(
            file, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0
        ),
    )


def sheet(cards: Sequence[Card], names: tuple[str, str]) -> Figure:
    """A contact sheet: each image with what two models say of it.

    Args:
      cards: the images, the most disputed first.
      names: of the two models.
    """
    rows, columns = style.grid(len(cards), 4)
    figure = style.empty(3.3 * columns + 0.3, 3.3 * rows + 0.5)
    grid = np.atleast_2d(
        figure.subplots(2 * rows, columns, height_ratios=[1.7, 1] * rows, squeeze=False)
    )
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        image, bars = grid[2 * row, column], grid[2 * row + 1, column]
        if number >= len(cards):
            image.set_visible(False)
            bars.set_visible(False)
            continue
        _card(image, bars, cards[number])
    style.legend(figure, [Patch(color=color) for color in (style.BLUE, style.ORANGE)], names)
    return figure


def _card(image: Axes, bars: Axes, card: Card) -> None:
    _show(image, card.image)
    title = _lines(card.title)
    if card.label is not None:
        title += f"\n{_lines(f'true: {card.label}')}"
    image.set_title(title, fontsize=9)
    style.prepare(bars)
    y = np.arange(len(card.bars))
    for offset, place, color in ((-0.2, 1, style.BLUE), (0.2, 2, style.ORANGE)):
        bars.barh(y + offset, [100 * bar[place] for bar in card.bars], 0.36, color=color)
    labels = style.distinct([bar[0] for bar in card.bars], 16)
    bars.set_yticks(y, [style.plain(label) for label in labels], fontsize=9)
    for tick, bar in zip(bars.get_yticklabels(), card.bars, strict=True):
        if bar[0] == card.label:
            tick.set_fontweight("bold")
    bars.invert_yaxis()
    bars.set_xlim(0, 100)
    bars.set_xticks([0, 50, 100], ["0", "50", "100 %"])


def matter(probs: np.ndarray, trajectory: np.ndarray | None) -> np.ndarray:
    """The few classes that are probable at some step, by their probability at the end, i64[n].

    Args:
      probs: f32[K].
      trajectory: f32[S + 1, K], from the uniform start; None without one.
    """
    way = probs[None] if trajectory is None else trajectory[1:]
    peak = np.max(way, axis=0) if len(way) else probs
    # The likeliest at the end first, then those that were likely on the way.
    best = np.argsort(-probs, kind="stable")[: _CLASSES - 2]
    rest = [k for k in np.argsort(-peak, kind="stable") if k not in best]
    chosen = np.array([*best, *rest][:_CLASSES])
    return chosen[np.argsort(-probs[chosen], kind="stable")]


def _verdict(story: Story, probs: np.ndarray) -> str:
    best = int(np.argmax(probs))
    name = style.short(story.class_names[best], 30)
    return style.plain(f"{name}, {100 * probs[best]:.1f} %")


def _lines(title: str) -> str:
    """The name of a file in lines that are no wider than its image may be."""
    return style.plain("\n".join(textwrap.wrap(style.short(title, 54), 28)))


def _way(axes: Axes, story: Story, shown: np.ndarray, way: np.ndarray) -> None:
    """The probabilities of some classes over the steps."""
    x = np.arange(len(way))
    names = style.distinct([story.class_names[k] for k in shown], 24)
    for k, name, (color, marker) in zip(shown, names, style.colors(), strict=False):
        axes.plot(
            x,
            100 * way[:, k],
            color=color,
            marker=marker,
            ms=5,
            markevery=style.every(len(x), 32),
            label=style.plain(f"{name}: {100 * story.probs[k]:.1f} %"),
        )
    axes.set_ylim(-2, 103)
    margin = 0.02 * x[-1]
    axes.set_xlim(-margin, x[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10], integer=True))
    axes.set_xlabel("step of the sampler")
    axes.set_ylabel("probability (%)")


def _lines_of(axes: Axes) -> tuple[list[Line2D], list[Any]]:
    """All lines and their labels: by itself a legend leaves out a class called `_silence_`."""
    return list(axes.lines), [line.get_label() for line in axes.lines]


def _bars(axes: Axes, story: Story, shown: np.ndarray, probs: np.ndarray) -> None:
    y = np.arange(len(shown))
    for place, (k, (color, _)) in enumerate(zip(shown, style.colors(), strict=False)):
        axes.barh(place, 100 * probs[k], 0.7, color=color)
        axes.text(100 * probs[k] + 1, place, f"{100 * probs[k]:.1f}", va="center", fontsize=9)
    labels = style.distinct([story.class_names[k] for k in shown], 20)
    axes.set_yticks(y, [style.plain(label) for label in labels])
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("probability (%)")
    axes.grid(axis="y", visible=False)


def _show(axes: Axes, image: np.ndarray) -> None:
    # Of few pixels, each is to be seen; of many, matplotlib chooses how to shrink. Of channels that
    # are no colours the first three are seen, or the first.
    axes.imshow(
        image[..., :3] if image.shape[-1] >= 3 else image[..., 0],
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest" if max(image.shape) <= 128 else "antialiased",
    )
    axes.set_axis_off()
