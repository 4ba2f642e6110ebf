"""What an evaluation of a large set over many classes takes, in a process of its own."""

import subprocess
import sys

import pytest

CLASSES, EXAMPLES = 21_841, 50_000  # ImageNet-21k's classes, ImageNet's validation images
PROGRAM = f"""
import resource, sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from didicm_jax import config, data, files, parallel
from didicm_jax.evaluation import classes, loop, notable, record
from didicm_jax.evaluation.predictions import Predictions
from didicm_jax.inference.program import Program
from didicm_jax.inference.sampling import Posterior

K, N, folder = {CLASSES}, {EXAMPLES}, Path(sys.argv[1])


def random(model, images, keys):
    logits = jax.vmap(lambda key: 3 * jax.random.normal(key, (K,)))(keys)
    return Posterior(jax.nn.softmax(logits))


program = Program(nnx.graphdef(nnx.Module()), random, lambda _, x: x, parallel.make_mesh(), seed=0)
labels = np.random.default_rng(0).integers(K, size=N, dtype=np.int32)
source = data.ArraySource(np.zeros((N, 1, 1, 1), np.uint8), labels)
names = tuple(map(str, range(K)))
with Predictions(folder) as kept:
    found = loop.evaluate(program, ({{}}, {{}}), source, batch_size=256, keep=kept.add)
    chosen = record.of_sampler(config.default(), found.scores)
    whole = record.of([chosen], found, step=0, images={{"dataset": "random"}}, class_names=names)
    for name, rows in classes.tables(found.scores, names, pairs=20).items():
        files.write_csv(folder / name, rows)
    kept.write(folder / "predictions.npz", labels=labels)
    record.write(folder, whole)
notable.choose(found.scores, K)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_fifty_thousand_posteriors_over_twenty_thousand_classes_take_less_than_eight_gib(tmp_path):
    """4.4 GB of posteriors, which go to disk; every file of an evaluation but the figures."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "predictions.npz").stat().st_size > 4 * CLASSES * EXAMPLES
    assert int(done.stdout.split()[-1]) < 8 * 2**30
