"""What a network is and how good, in sentences: from the folder of its run, or from its card."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from didicm_jax import files
from didicm_jax.evaluation import record as records
from didicm_jax.inference.network import Network, Trained
from didicm_jax.run import RunFolder, bundle


def sentences(network: Network, trained: Trained) -> Sequence[str]:
    """One of what it is, and one of how good.

    Args:
      network: the network.
      trained: where it comes from.

    Raises:
      UserError: the run's `evaluation.json` is damaged.
    """
    described, config = network.description, network.config
    size = "x".join(map(str, described.image_shape[:2]))
    first = (
        f"{trained.path.resolve().name}: {config.model.name} ({config.method}) trained on "
        f"{config.data.name}, {described.num_classes} classes, images of {size}, step "
        f"{network.step:,}."
    )
    found = _of_run(trained) if isinstance(trained, RunFolder) else _of_card(trained)
    return first, f"{found}." if found else "It has not been evaluated."


def _of_run(folder: RunFolder) -> str:
    """The figures of the last evaluation, "" without one."""
    if not folder.evaluation_file.exists():
        return ""
    record = files.read_json(folder.evaluation_file)
    figures = {
        "top-1": f"{100 * record['top1']:.1f} %" if "top1" in record else None,
        "NLL": _rounded(record.get("nll")),
        "ECE": _rounded(record.get("ece")),
    }
    words = ", ".join(f"{name} {value}" for name, value in figures.items() if value)
    if "num_examples" in record:
        words += f" on {record['num_examples']:,} images of {record.get('dataset')}"
        words += records.part(record)
    if "sampler" in record:
        older = " ".join(filter(None, [record["sampler"], record.get("integrator", "")]))
        words += f" by {record.get('label', older)} in {record.get('steps')} steps"
    return words + (f", step {record['step']:,}" if "step" in record else "")


def _of_card(trained: bundle.Bundle) -> str:
    """The figures that a model card has for programs, "" without any."""
    try:
        _, head, _ = (trained.path / bundle.CARD_FILE).read_text(encoding="utf-8").split("---\n", 2)
        (result,) = yaml.safe_load(head)["model-index"][0]["results"]
        metrics: Sequence[Mapping[str, Any]] = result["metrics"]
        words = ", ".join(f"{each['name']} {each['value']:.4g}" for each in metrics)
        data = result["dataset"]
        part = records.part({"split": data.get("split"), **data.get("args", {})})
        return f"{words} on {data['name']}{part}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return ""  # a card is for people, who may have written it as they like


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
