"""One cell of a grid: a normal run, and its posteriors on held-out and on test examples."""

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx

from didicm_jax import evaluation, files
from didicm_jax.evaluation import scores, temperature
from didicm_jax.evaluation.subject import open_subject
from didicm_jax.inference import posterior, sweep
from didicm_jax.run import description, workdir
from didicm_jax.study import methods
from didicm_jax.study.axes import METHOD, RESULT, Cell
from didicm_jax.training import loop, plan, programs

_EXPLODED = 10  # times the median norm of the gradient over the logged steps of a run


def run(cell: Cell, folder: Path) -> bool:
    """Trains, or goes on training, evaluates, and writes `cell.json`; False if stopped.

    Raises:
      UserError: what a run can run into.
    """
    config = cell.config
    run, plain = plan.plan(config), plan.plan(cell.plain)
    step, plain_step = _step_flops(run), _step_flops(plain)
    if cell.values.get(METHOD, "").endswith(methods.EQUAL_COMPUTE):
        steps = math.ceil(run.durations.total * plain_step / step)
        with config.unlocked():
            config.train.duration = f"{steps} steps"
        run = plan.plan(config)
    workdir.claim(folder, config)
    description.write(folder, description.of(run.dataset))
    print(run.describe(), flush=True)
    started = time.monotonic()
    if loop.train(run, folder).metrics is None:
        return False
    record = {
        "values": cell.values,
        "parameters": sum(x.size for x in jax.tree.leaves(run.abstract.params)),
        "training": {
            "steps": run.durations.total,
            "images": len(run.dataset.train),
            "gigaflops": run.durations.total * step / 1e9,
            "step_in_plain_steps": step / plain_step,
            **_stability(folder),
            "seconds_of_last_start": time.monotonic() - started,
        },
        "samplers": _samplers(cell, config, folder, run, sum(_pass_flops(plain))),
    }
    files.write_json(folder / RESULT, record)
    return True


def _samplers(
    cell: Cell,
    config: ml_collections.ConfigDict,
    folder: Path,
    run: plan.Run,
    plain_flops: float,
) -> list[dict[str, Any]]:
    """Each sampler's metrics on the held-out and the test examples, and what it costs."""
    shown = copy.deepcopy(config)
    shown.data.eval_split = cell.test_split
    held_out = open_subject(folder, config, "latest")
    test = open_subject(folder, shown, "latest")
    once, each_step = _pass_flops(run)
    records = []
    for chosen in _sampling(config, cell.values.get(METHOD)):
        answer = held_out.program(chosen)
        found = {
            split: scores.join(each.batches(answer, lambda rows: rows))
            for split, each in (("validation", held_out), ("test", test))
        }
        described = posterior.describe(chosen)
        flops = once + int(str(described["steps"])) * each_step
        validation = found["validation"]
        scale = temperature.fit(validation.posterior.probs, validation.labels)
        metrics = {
            split: _metrics(each.posterior.probs, each.labels, scale)
            for split, each in found.items()
        }
        records.append(
            {"label": sweep.label(chosen), **described, "temperature": scale}
            | {"megaflops": flops / 1e6, "plain_passes": flops / plain_flops}
            | metrics
        )
    return records


def _sampling(
    config: ml_collections.ConfigDict, method: str | None
) -> list[ml_collections.ConfigDict]:
    if method is None or config.method != "didicm":
        return [config]
    return [sweep.changed(config, settings) for settings in methods.find(method).samplers]


def _metrics(probs: Any, labels: Any, scale: float) -> dict[str, float]:
    metrics = evaluation.summarize(evaluation.outcomes(probs, labels))
    scaled = evaluation.summarize(evaluation.outcomes(temperature.apply(probs, scale), labels))
    return metrics | {f"{key}_scaled": scaled[key] for key in ("nll", "ece")}


def _stability(folder: Path) -> dict[str, float | None]:
    """Steps that were not finite, and the share of logged ones whose gradient exploded."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    norms = np.asarray([line["grad_norm"] for line in lines if "grad_norm" in line], float)
    exploded = ~(norms <= _EXPLODED * np.nanmedian(norms)) if np.isfinite(norms).any() else [True]
    return {
        "skipped_steps": max(line.get("skipped_steps", 0) for line in lines),
        "exploding_share": float(np.mean(exploded)),
        "largest_grad_norm": float(np.nanmax(norms)) if np.isfinite(norms).any() else None,
    }


def _step_flops(run: plan.Run) -> float:
    """Operations of a training step, by XLA's account of the program before it is optimised."""
    size, dataset = run.config.train.batch_size, run.dataset
    batch = {
        "image": jax.ShapeDtypeStruct((size, *dataset.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
        "stop": jax.ShapeDtypeStruct((run.mesh.size,), jnp.float32),
        "replaced": jax.ShapeDtypeStruct((run.mesh.size,), jnp.float32),
    }
    step: Any = programs.make_step(run)
    return float(step.lower(run.abstract_state(), batch).cost_analysis()["flops"])


def _pass_flops(run: plan.Run) -> tuple[float, float]:
    """Operations for an image: those done once, and those of each step."""
    image = jax.ShapeDtypeStruct((1, *run.dataset.image_shape), jnp.float32)
    words = (jax.ShapeDtypeStruct((1,), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.float32))

    def network(variables: Any) -> Any:
        model = nnx.merge(run.graphdef, *variables)
        model.eval()
        return model

    def count(function: Any, *arguments: Any) -> float:
        costs: Any = jax.jit(function).lower(run.abstract, *arguments).cost_analysis()
        return float(costs["flops"])

    if run.config.method != "didicm":
        return count(lambda variables, x: network(variables)(x), image), 0.0

    def encode(variables: Any, x: Any) -> Any:
        return network(variables).encode(x)

    features = jax.eval_shape(encode, run.abstract, image)
    score = count(lambda variables, f, c, s: network(variables).score(f, c, s), features, *words)
    return count(encode, image), score
