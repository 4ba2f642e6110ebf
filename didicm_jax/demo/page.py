"""The page: what is on it, and what happens when something is touched. It needs Gradio."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from didicm_jax.demo import drawing
from didicm_jax.demo.answers import Answers, verdict
from didicm_jax.demo.corrupting import Corruption
from didicm_jax.demo.model import QUERIES, Model, Sampler
from didicm_jax.errors import UserError
from didicm_jax.plots import prediction as figures

_MOST_IMAGES = 64
_SWEPT_EVERY, _KEPT_FOR = 600, 3600  # seconds, of uploads while the page is served
_CANVAS, _BRUSH = 320, 18  # pixels; a brush is as broad as the strokes of digits are
_CLASSES = 5


def build(model: Model, about: Sequence[str]) -> gr.Blocks:
    """The page of a model.

    Args:
      model: the network.
      about: what it is, in sentences.
    """
    with gr.Blocks(
        title="DiDiCM", analytics_enabled=False, delete_cache=(_SWEPT_EVERY, _KEPT_FOR)
    ) as page:
        gr.Markdown("# A posterior, step by step")
        gr.Textbox("\n".join(about), show_label=False, container=False, lines=1, elem_id="about")
        _Page(model)
    return page


class _Page:
    """The parts of the page and what they do; made within `gr.Blocks`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._answers, self._row = gr.State(), gr.State(0)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._inputs()
                self._controls()
            with gr.Column(scale=3, min_width=320):
                self._outputs()
        with gr.Accordion("Corrupt the image"):
            self._corruption()
        self._connect()

    def _inputs(self) -> None:
        with gr.Tab("Images"):
            self._files = gr.File(
                label="One or several", file_count="multiple", height=180, elem_id="files"
            )
        with gr.Tab("Draw"):
            grey = self._model.image_shape[-1] == 1
            self._canvas = gr.Sketchpad(
                label="Draw; it is shown white on black" if grey else "Draw",
                canvas_size=(_CANVAS, _CANVAS),
                fixed_canvas=True,
                image_mode="RGB",
                layers=False,
                transforms=(),
                brush=gr.Brush(
                    default_size=_BRUSH,
                    default_color="#000000",
                    colors=["#000000"] if grey else None,
                    color_mode="fixed" if grey else "defaults",
                ),
                placeholder="Choose the brush, then draw",
                elem_id="canvas",
            )
        self._faults = gr.Textbox(
            label="Cannot be used", visible=False, interactive=False, elem_id="faults"
        )

    def _controls(self) -> None:
        own, names = self._model.own_sampler, list(self._model.samplers)
        there = bool(names)
        with gr.Row(visible=there):
            self._name = gr.Dropdown(names, value=own.name if there else None, label="Sampler")
            self._steps = gr.Dropdown(
                list(self._model.steps),
                value=own.steps,
                label="Steps",
                min_width=120,
                visible=there and self._model.reads(own.name, "steps"),
            )
            self._query = gr.Dropdown(
                list(QUERIES),
                value=own.query,
                label="Query",
                min_width=120,
                visible=there and self._model.reads(own.name, "query"),
            )

    def _outputs(self) -> None:
        gr.Markdown("What the network sees; choose one:")
        self._gallery = _new_gallery("gallery")
        self._step = gr.Slider(
            0, 1, step=1, label="Posterior after step", visible=False, elem_id="step"
        )
        with gr.Row():
            self._posterior = gr.Label(
                label="Posterior", num_top_classes=_CLASSES, elem_id="posterior"
            )
            self._at_once = gr.Label(
                label="With one call of the network",
                num_top_classes=_CLASSES,
                visible=bool(self._model.samplers),
                elem_id="once",
            )
        self._verdict = gr.Textbox(
            show_label=False, container=False, interactive=False, elem_id="verdict"
        )
        self._lines = gr.Plot(show_label=False, format="png", visible=False)

    def _corruption(self) -> None:
        with gr.Row():
            self._strengths = [
                gr.Slider(0, most, value=value, step=0.01, label=label)
                for label, most, value in (
                    ("Blur", 0.3, 0),
                    ("Resolution lost", 0.95, 0),
                    ("Noise", 1, 0.3),
                )
            ]
        with gr.Row():
            with gr.Column(min_width=320):
                gr.Markdown("From none of it to all of it, and what the network sees in it:")
                self._corrupted = _new_gallery("corrupted")
            with gr.Column(min_width=320):
                self._growth = gr.Plot(show_label=False, format="png", elem_id="growth")

    def _connect(self) -> None:
        controls = [self._name, self._steps, self._query]
        given = [self._answers, self._row, self._faults, self._gallery]
        chosen = [self._answers, self._row]
        shown = [
            self._posterior, self._at_once, self._step, self._verdict, self._lines,
        ]  # fmt: skip
        corrupted = [self._corrupted, self._growth]
        changes = (
            self._files.change(self._take_files, [self._files, *controls], given, **_EVENT),
            self._canvas.change(self._take_drawing, [self._canvas, *controls], given, **_EVENT),
            gr.on(
                [each.input for each in controls],
                self._take_sampler,
                [self._answers, *controls],
                [self._answers, self._gallery, self._steps, self._query],
                **_EVENT,
            ),
            self._gallery.select(_row_of, None, self._row, **_EVENT),
        )
        for change in changes:
            change.success(self._show, chosen, shown, **_EVENT).success(
                self._corrupt, [*chosen, *self._strengths], corrupted, **_EVENT
            )
        self._step.input(self._show_step, [*chosen, self._step], self._posterior, **_EVENT)
        gr.on(
            [each.release for each in self._strengths],
            self._corrupt,
            [*chosen, *self._strengths],
            corrupted,
            **_EVENT,
        )

    def _take_files(self, paths: list[str] | None, *controls: Any) -> tuple[Any, ...]:
        """New files: answers, the row that is chosen, what cannot be used, the gallery."""
        paths = paths or []
        pixels, faults = self._model.load(paths[:_MOST_IMAGES])
        names = [Path(path).name for path in paths[:_MOST_IMAGES]]
        said = [f"{names[row]}: {fault}" for row, fault in sorted(faults.items())]
        if len(paths) > _MOST_IMAGES:
            said.append(f"{len(paths) - _MOST_IMAGES} more: at most {_MOST_IMAGES} at a time")
        usable = [row for row in range(len(names)) if row not in faults]
        return self._taken([names[row] for row in usable], pixels[usable], said, controls)

    def _take_drawing(self, drawn: dict[str, Any] | None, *controls: Any) -> tuple[Any, ...]:
        """A stroke more on the canvas; one that is empty leaves what was there."""
        canvas = None if drawn is None else drawn["composite"]
        image = None
        if canvas is not None:
            image = drawing.from_canvas(canvas, as_digit=self._model.image_shape[-1] == 1)
        if image is None:
            return tuple(gr.skip() for _ in range(4))
        return self._taken(["drawing"], self._model.load([image])[0], [], controls)

    def _taken(
        self, names: Sequence[str], pixels: np.ndarray, said: Sequence[str], controls: Sequence[Any]
    ) -> tuple[Any, ...]:
        faults = gr.update(value="\n".join(said), visible=bool(said))
        if not names:
            return None, 0, faults, None
        with _told():
            answers = Answers.of(self._model, names, pixels, self._sampler(*controls))
        framed = gr.update(value=_gallery(answers.pixels, answers.captions), selected_index=0)
        return answers, 0, faults, framed

    def _take_sampler(self, answers: Answers | None, *controls: Any) -> tuple[Any, ...]:
        """Another sampler: answers, the gallery, and which of the other settings it reads."""
        read = [
            gr.update(visible=self._model.reads(controls[0], key)) for key in ("steps", "query")
        ]
        if answers is None:
            return None, None, *read
        with _told():
            answers = answers.again(self._sampler(*controls))
        return answers, _gallery(answers.pixels, answers.captions), *read

    def _sampler(self, name: str | None, steps: int, query: str) -> Sampler | None:
        return None if name is None else Sampler(name, steps, query)

    def _show(self, answers: Answers | None, row: int) -> tuple[Any, ...]:
        """The chosen image: its posterior, that of one call, the slider, the verdict, the way."""
        if answers is None:
            return None, None, gr.update(visible=False), None, gr.update(visible=False)
        with _told():
            at_once = answers.at_once(row)
        probs, steps = answers.posterior(row), answers.steps
        slider = lines = gr.update(visible=False)
        if steps is not None:
            slider = gr.update(maximum=steps, value=steps, visible=True)
            lines = gr.update(value=figures.steps(answers.story(row)), visible=True)
        once = None if at_once is None else answers.named(at_once)
        return answers.named(probs), once, slider, verdict(probs, at_once), lines

    def _show_step(self, answers: Answers | None, row: int, step: int) -> Any:
        return None if answers is None else answers.named(answers.posterior(row, step))

    def _corrupt(self, answers: Answers | None, row: int, *strengths: float) -> tuple[Any, Any]:
        if answers is None:
            return None, None
        with _told():
            growth = answers.growth(row, Corruption(*strengths))
        figure = figures.growth(
            growth.strengths, growth.entropy, growth.probs, np.log(len(self._model.class_names))
        )
        return _gallery(growth.images, growth.captions), figure


# One at a time asks the network, and none is offered to programs.
_EVENT: dict[str, Any] = {
    "concurrency_id": "network",
    "concurrency_limit": 1,
    "trigger_mode": "always_last",
    "api_visibility": "private",
    "show_progress": "minimal",
}


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A mistake is told on the page, without a traceback."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _new_gallery(name: str) -> gr.Gallery:
    return gr.Gallery(
        show_label=False,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        format="png",
        buttons=[],
        elem_id=name,
    )


def _row_of(event: gr.SelectData) -> int:
    return event.index


def _gallery(images: np.ndarray, captions: Sequence[str]) -> list[tuple[np.ndarray, str]]:
    return [
        (drawing.enlarged(image), caption) for image, caption in zip(images, captions, strict=True)
    ]
