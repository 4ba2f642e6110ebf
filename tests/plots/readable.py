"""Whether a figure can be read: by the places of its texts, not by its pixels."""

import itertools


def faults(figure):
    """What overlaps or is cut in a figure, in words; empty where all is well."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    texts = [(text.get_text(), text.get_window_extent(renderer)) for text in _texts(figure)]
    legends = [legend.get_window_extent(renderer) for legend in _legends(figure)]
    found = []
    for text, box in texts + [("legend", box) for box in legends]:
        inside = (
            box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        )
        if not inside:
            found.append(f"{text!r} is cut")
    for (one, first), (other, second) in itertools.combinations(texts, 2):
        if _overlap(first, second):
            found.append(f"{one!r} and {other!r} overlap")
    for legend in legends:
        found += [f"the legend covers {text!r}" for text, box in texts if _overlap(legend, box)]
        for axes in _panels(figure):
            if _overlap(legend, axes.get_window_extent(renderer)):
                found.append(f"the legend covers the panel {axes.get_title()!r}")
    return found


def ticks(axis):
    """The labels that an axis shows, in their order."""
    return [label.get_text() for label in _shown(axis)]


def _overlap(first, second):
    return (
        first.x0 < second.x1
        and second.x0 < first.x1
        and first.y0 < second.y1
        and second.y0 < first.y1
    )


def _panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def _legends(figure):
    own = [axes.get_legend() for axes in _panels(figure)]
    return [*figure.legends, *(legend for legend in own if legend is not None)]


def _texts(figure):
    found = [*figure.texts, figure._suptitle, figure._supxlabel, figure._supylabel]
    for axes in _panels(figure):
        found += [axes.title, *axes.texts]
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                found += [axis.label, axis.offsetText, *_shown(axis)]
    unique = {id(text): text for text in found if text is not None}
    return [text for text in unique.values() if text.get_visible() and text.get_text().strip()]


def _shown(axis):
    low, high = sorted(axis.get_view_interval())
    every = [
        *zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False),
        *zip(axis.get_minorticklocs(), axis.get_minorticklabels(), strict=False),
    ]
    return [label for place, label in every if low <= place <= high and label.get_visible()]
