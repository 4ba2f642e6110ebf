"""One cell of a study: a normal run, and its posteriors on held-out and on test examples."""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from didicm_jax import evaluation
from didicm_jax.evaluation import Outcomes, report, scores, temperature
from didicm_jax.evaluation.subject import OtherData, Subject, open_subject, other_dataset
from didicm_jax.inference import network as networks
from didicm_jax.inference import sweep
from didicm_jax.run import Places, RunFolder
from didicm_jax.study import methods
from didicm_jax.study.axes import METHOD, Cell
from didicm_jax.study.folder import StudyFolder
from didicm_jax.training import loop, operations, plan

_SCALED = ("nll", "ece")  # metrics that a temperature changes
_DIGITS = 7  # of what is left out: records are small files
_EXPLODED = 10  # times the median norm of the gradient over the logged steps of a run


def run(cell: Cell, study: StudyFolder) -> bool:
    """Trains, or goes on training, evaluates, and writes what it found; False if stopped.

    Raises:
      UserError: what a run can run into, or that another process runs this cell.
    """
    with study.alone(cell):
        return _run(cell, study)


def _run(cell: Cell, study: StudyFolder) -> bool:
    config, folder = copy.deepcopy(cell.config), study.place(cell)
    has_begun = Places(folder).begun
    run = plan.make_plan(config, begun=has_begun)
    plain = plan.make_plan(cell.plain, begun=True)  # it is counted, not trained
    step, plain_step = operations.of_step(run), operations.of_step(plain)
    if cell.equal_compute:
        begun, steps = study.begun(cell), math.ceil(run.durations.total * plain_step / step)
        # Another version of XLA may count otherwise: what has begun keeps its duration.
        config.train.duration = begun.train.duration if begun else f"{steps} steps"
        run = plan.make_plan(config, begun=has_begun)
    claimed = RunFolder.claim(folder, config, run.description)
    print(run.describe(), flush=True)
    started = time.monotonic()
    if loop.train(run, claimed).metrics is None:
        return False
    record = {
        "parameters": sum(x.size for x in jax.tree.leaves(run.abstract.params)),
        "training": {
            "steps": run.durations.total,
            "images": len(run.dataset.train),
            "gigaflops": run.durations.total * step / 1e9,
            "step_in_plain_steps": step / plain_step,
            **_stability(folder),
            "seconds_of_last_start": time.monotonic() - started,
        },
    }
    costs = _passes(run), _passes(plain).of(1)
    held_out = open_subject(claimed, "latest")
    other = other_dataset(claimed.config, claimed.description, OtherData(split=cell.test_split))
    on = {"validation": held_out, "test": held_out._replace(source=other.test)}
    record["samplers"] = _samplers(cell, claimed.config, on, *costs)
    if run.sets[0].every < run.durations.total:
        best, samplers = networks.load(claimed, "best", held_out.mesh), record["samplers"]
        if best.step != held_out.network.step:
            on = {split: each._replace(network=best) for split, each in on.items()}
            samplers = _samplers(cell, claimed.config, on, *costs)
        record["stopped"] = {"step": best.step, "samplers": samplers}
    study.write_record(cell, record)
    return True


def _samplers(
    cell: Cell,
    config: ml_collections.ConfigDict,
    on: Mapping[str, Subject],  # by split: the same network
    passes: operations.Passes,
    plain_pass: float,
) -> list[dict[str, Any]]:
    """Each sampler's metrics on the held-out and the test examples, and what it costs."""
    records = []
    method = cell.values.get(METHOD)
    settings = methods.find(method).samplers if method else ()
    for chosen in [sweep.changed(config, each) for each in settings] or [config]:
        answer = on["validation"].program(chosen)
        found = {
            split: scores.join(each.batches(answer, lambda rows: rows))
            for split, each in on.items()
        }
        described = sweep.describe(chosen)
        cost = passes.of(*(described.get(key, 1) for key in ("steps", "views", "chains")))
        validation = found["validation"]
        scale = temperature.fit(validation.posterior.probs, validation.labels)
        pairs = {
            split: [
                evaluation.outcomes(probs, each.labels)
                for probs in (each.posterior.probs, temperature.apply(each.posterior.probs, scale))
            ]
            for split, each in found.items()
        }
        records.append(
            {"label": sweep.label(chosen), **described, "temperature": scale}
            | {"megaflops": cost / 1e6, "plain_passes": cost / plain_pass}
            | {split: _metrics(*pair) for split, pair in pairs.items()}
            | {"left_out": _left_out(pairs["test"], len(on["test"].class_names))}
        )
    return records


def _passes(run: plan.Plan) -> operations.Passes:
    return operations.of_passes(run.graphdef, run.abstract, run.dataset.image_shape)


def _metrics(posterior: Outcomes, scaled: Outcomes) -> dict[str, float]:
    found = evaluation.summarize(scaled)
    return evaluation.summarize(posterior) | {f"{key}_scaled": found[key] for key in _SCALED}


def _left_out(pair: Sequence[Outcomes], num_classes: int) -> dict[str, list[list[float]]]:
    """What paired errors are computed from when this cell is compared with others.

    Args:
      pair: as they are, and scaled.
      num_classes: of the examples.
    """
    if len(pair[0].nll) == 1:
        return {}  # nothing is left, and nothing known of what another example would give
    found, also = (evaluation.left_out(each, num_classes) for each in pair)
    kept = {key: found[key] for key in ("top1", *_SCALED)}
    kept |= {f"{key}_scaled": also[key] for key in _SCALED}
    return {key: np.round(values, _DIGITS).tolist() for key, values in kept.items()}


def _stability(folder: Path) -> dict[str, float | None]:
    """Steps that were not finite, and the share of logged ones whose gradient exploded."""
    lines = report.read(folder)
    norms = np.asarray([line["grad_norm"] for line in lines if "grad_norm" in line], float)
    exploded = ~(norms <= _EXPLODED * np.nanmedian(norms)) if np.isfinite(norms).any() else [True]
    return {
        "skipped_steps": max(line.get("skipped_steps", 0) for line in lines),
        "exploding_share": float(np.mean(exploded)),
        "largest_grad_norm": float(np.nanmax(norms)) if np.isfinite(norms).any() else None,
    }
