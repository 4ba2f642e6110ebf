"""The model card of a bundle: what a network is, how it was made, and what it is worth.

It says what the run's folder knows, and of the rest that it is not known.
"""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import yaml
from tabulate import tabulate

from didicm_jax import config as configuration
from didicm_jax.cli import options
from didicm_jax.cli.beginning import Beginning
from didicm_jax.cli.command_line import counted
from didicm_jax.evaluation import record as records
from didicm_jax.evaluation.subject import OtherData
from didicm_jax.inference import sweep
from didicm_jax.run import bundle

_PAPER = "https://arxiv.org/abs/2511.20263"
_TASK = "image-classification"
_DIGITS = 4  # of the figures
_CLASSES_NAMED = 20
_MARKDOWN = re.compile(r"[\\`*_~<\[&]")  # what a name may hold and Markdown would not show
# Keys of `evaluation.json`: what they are called here, and in percent or not.
_FIGURES = {"top1": ("top-1 %", 100, 2), "nll": ("NLL", 1, 4), "ece": ("ECE", 1, 4)}


class Facts(NamedTuple):
    """What a run's folder does not know or does not say alone."""

    folder: Path  # to be written; the network is called as it is
    dtype: str  # that its kernels are stored in
    checkpoint: str  # `latest` or `best`
    evaluation: Mapping[str, Any] | None  # `evaluation.json` of these very weights, if there is one
    license: str | None  # as the Hub abbreviates it
    dataset: str | None  # its name on the Hub
    began: Beginning | None

    @property
    def name(self) -> str:
        """Of the network."""
        return self.folder.name

    @property
    def packaged(self) -> bool:
        """Whether it comes with the package."""
        return self.folder.parent == bundle.PRETRAINED.resolve()

    @property
    def source(self) -> str:
        """What `bundle.find` finds it by; a folder of its own, from beside it."""
        other = self.name in bundle.names() and not self.packaged
        return f"./{self.name}" if other else self.name


def write(trained: bundle.Bundle, facts: Facts) -> str:
    """The text of the card: metadata in YAML, and Markdown."""
    metadata = yaml.safe_dump(_metadata(trained, facts), sort_keys=False, allow_unicode=True)
    sections = {
        "Use": _use(facts),
        "Data": _data(trained, facts),
        "Training": _training(trained, facts),
        "Results": _results(trained, facts),
        "What it cannot do": _limits(trained),
    }
    body = "\n".join(f"## {title}\n\n{text}\n" for title, text in sections.items())
    return f"---\n{metadata}---\n\n# {facts.name}\n\n{_summary(trained, facts)}\n\n{body}"


def _metadata(trained: bundle.Bundle, facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {"license": facts.license} if facts.license else {}
    found |= {
        "library_name": bundle.LIBRARY,
        "pipeline_tag": _TASK,
        "tags": [bundle.LIBRARY, "jax", "flax", trained.config.method, _TASK],
    }
    if facts.dataset:
        found["datasets"] = [facts.dataset]
    if facts.evaluation is not None:
        name = _evaluated_on(trained, facts.evaluation, facts)
        chosen, by = _reported(trained, facts.evaluation)
        metrics = [
            {"type": kind, "value": round(float(chosen[key]), _DIGITS), "name": f"{label}{by}"}
            for key, kind, label in (
                ("top1", "accuracy", "top-1 accuracy"),
                ("nll", "nll", "negative log-likelihood"),
                ("ece", "ece", "expected calibration error, 15 bins"),
            )
        ]
        result = {
            "task": {"type": _TASK},
            "dataset": {"type": name, "name": name} | _part(facts.evaluation),
            "metrics": metrics,
        }
        found |= {
            "metrics": [metric["type"] for metric in metrics],
            "model-index": [{"name": facts.name, "results": [result]}],
        }
    return found


def _evaluated_on(trained: bundle.Bundle, found: Mapping[str, Any], facts: Facts) -> str:
    """The name of the data set that figures are of; that of `idx` does not say which it is."""
    own = found["dataset"] == trained.config.data.name
    return facts.dataset if own and facts.dataset else str(found["dataset"])


def _part(found: Mapping[str, Any]) -> dict[str, Any]:
    """Which part of the data set figures are of, as the Hub writes it; {} of older records."""
    part: dict[str, Any] = {"split": found["split"]} if found.get("split") else {}
    return part | ({"args": {"examples": found["examples"]}} if "examples" in found else {})


def _reported(trained: bundle.Bundle, found: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The record of the sampler of this network, or else of the last, and of that its name."""
    described = sweep.describe(trained.config)
    for each in reversed(found["samplers"]):
        if all(each.get(key, value) == value for key, value in described.items()):
            return each, ""
    last = found["samplers"][-1]
    return last, f", by {_sampler(last)} in {counted(last['steps'], 'step')}"


def _sampler(record: Mapping[str, Any]) -> str:
    """The name of a sampler; older records have none."""
    words = (record[key] for key in ("sampler", "integrator") if key in record)
    return str(record.get("label") or " ".join(map(str, words)))


def _summary(trained: bundle.Bundle, facts: Facts) -> str:
    config, described = trained.config, trained.description
    parameters = sum(array.size for name, array in bundle.flatten(trained.variables))
    shape = "x".join(map(str, described.image_shape))
    way = (
        f"by a discrete diffusion over the class labels ([DiDiCM]({_PAPER}))"
        if config.method == "didicm"
        else f"directly (`{config.method}`): the plain classifier that [DiDiCM]({_PAPER}) is "
        "compared with"
    )
    stored = "" if facts.dtype == "float32" else f", kernels stored as {facts.dtype}"
    return (
        f"A `{config.model.name}` of {parameters:,} numbers{stored}. It takes images of {shape} "
        f"(height, width, channels) and gives a posterior over {described.num_classes} classes, "
        f"{way}. Written by `{bundle.LIBRARY}`, whose `Predictor` reads this folder."
    )


def _use(facts: Facts) -> str:
    where = "comes with the package" if facts.packaged else "this folder; or hf://user/name"
    return (
        "```python\n"
        "from didicm_jax import Predictor\n\n"
        f'predictor = Predictor.from_pretrained("{facts.source}")  # {where}\n'
        'answer = predictor(["photo.jpg"])\n'
        "answer.classes, answer.probs\n"
        "```"
    )


def _data(trained: bundle.Bundle, facts: Facts) -> str:
    data, described = trained.config.data, trained.description
    known = f", [{facts.dataset}](https://huggingface.co/datasets/{facts.dataset})"
    names = _MARKDOWN.sub(r"\\\g<0>", ", ".join(described.class_names[:_CLASSES_NAMED]))
    more = described.num_classes - _CLASSES_NAMED
    trained_on = f", trained on its part `{data.train_split}`{_share(data)}" * (trained.step > 0)
    return (
        f"`config.data.name={data.name}`{known if facts.dataset else ''}{trained_on}. "
        f"Classes: {names}{f', and {more:,} more (`config.json`)' if more > 0 else ''}."
    )


def _share(data: ml_collections.ConfigDict) -> str:
    if data.train_examples:
        return f", {data.train_examples:,} images of it"
    return "" if data.data_ratio == 1 else f", {data.data_ratio:.3g} of its images"


def _training(trained: bundle.Bundle, facts: Facts) -> str:
    if not trained.step:  # made of weights from elsewhere, or stopped before the first step
        return (
            "These are weights that a run began with, at step 0: how they were trained is not "
            "known here. `config.json` has the settings by which they would be trained further."
        )
    config = bundle.given_away(trained.config)
    kept = "moving average of the weights" if config.train.ema_decay > 0 else "weights"
    source = ", from the weights of another network" if trained.config.model.init_from else ""
    text = (
        f"The {kept} at step {trained.step:,} of a training of {config.train.duration} in batches "
        f"of {config.train.batch_size:,} with {config.optimizer.name}, seed {config.seed}{source}. "
        "`config.json` has all settings"
    )
    base = configuration.default() if facts.began is None else facts.began.config
    if facts.began is not None and _in_a_folder(config.data.name):
        config.data.data_dir = "DATA"
    words = [
        f"--config.{key}={value}"
        for key, (value, _) in configuration.differences(config, base).items()
    ]
    if facts.began is None:
        listed = "\n".join(word.removeprefix("--") for word in words)
        return f"{text}; those that are not the default:\n\n```\n{listed}\n```"
    words = [f"--config={facts.began.file}", "--workdir=RUN", *words]
    command = " \\\n    ".join(["python launch/main.py", *map(shlex.quote, words)])
    return f"{text}; the training is\n\n```sh\n{command}\n```"


def _results(trained: bundle.Bundle, facts: Facts) -> str:
    found = facts.evaluation
    if found is None:
        return "These weights have not been evaluated."
    headers = ["sampler", "steps", *(f"{name} [95 %]" for name, _, _ in _FIGURES.values()), "Brier"]
    rows = []
    for each in found["samplers"]:
        row = [_sampler(each), each["steps"]]
        for key, (_, scale, digits) in _FIGURES.items():
            low, high = (f"{scale * end:.{digits}f}" for end in each["intervals"][key])
            row.append(f"{scale * each[key]:.{digits}f} [{low}, {high}]")
        rows.append([*row, f"{each['brier']:.4f}"])
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    name = _evaluated_on(trained, found, facts)
    part = records.part(found, "`")
    again = "Found again by" if len(rows) == 1 else "The last row is found again by"
    text = (
        f"On {found['num_examples']:,} images of `{name}`{part}, with bootstrap intervals:\n\n"
        f"{table}\n\n{again}\n\n```sh\n{_evaluation_command(trained, facts)}\n```"
    )
    notes = []
    if facts.checkpoint == "best":
        judged = "NLL" if trained.config.evaluation.best == "nll" else "top-1"
        notes.append(
            f"The checkpoint was chosen by its {judged} among those of its training, so where "
            "these are the images that it was chosen on, the figures flatter it a little."
        )
    if facts.dtype != "float32":
        notes.append(f"The figures are those of float32, before the kernels became {facts.dtype}.")
    return "\n\n".join([text, *notes])


def _evaluation_command(trained: bundle.Bundle, facts: Facts) -> str:
    found = facts.evaluation
    assert found is not None
    words = ["python", "launch/main.py", "--mode=evaluate", f"--pretrained={facts.source}"]
    name, split = found["dataset"], found.get("split")
    own = records.images_of(trained.config)
    # Of a set that is named it is the set's own part, whatever the network was evaluated on.
    if name != own["dataset"] or (split == "" and own["split"]):
        words.append(f"--dataset={name}")
        own = records.images_of(trained.config, OtherData(name))
    if _in_a_folder(name):
        words.append("--data_dir=DATA")
    if split and split != own["split"]:
        words.append(f"--split={split}")
    if "examples" in found:
        words.append(f"--examples={found['examples']}")
    described = sweep.describe(trained.config)
    usual = {"name": described["sampler"]} | described
    words += [
        f"--{flag}={value}"
        for flag, key in options.SAMPLER_KEYS.items()
        if (value := found.get("sampler" if key == "name" else key)) not in (None, usual.get(key))
    ]
    return shlex.join(words)


def _in_a_folder(dataset: str) -> bool:
    """Whether a command must say where a data set is; digits are part of a library."""
    return dataset != "digits"


def _limits(trained: bundle.Bundle) -> str:
    height, width, _ = trained.description.image_shape
    count = trained.description.num_classes
    return (
        f"- It answers with one of its {count} classes whatever an image shows; it has no way to "
        "say that it shows none of them.\n"
        f"- Every image is brought to {height}x{width} pixels, and what cannot be told at that "
        "size it cannot tell.\n"
        "- Accuracy and calibration hold for images like those it was evaluated on; for other "
        "cameras, crops, styles or corrupted images they were not measured here.\n"
        f"- It is {'one training with one seed' if trained.step else 'a network'}, made for "
        "research; nothing was done to find or remove biases of its data."
    )
