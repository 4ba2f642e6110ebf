"""The evaluation loop around networks with known answers."""

import contextlib
import tracemalloc
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import config as configuration
from didicm_jax import data, parallel
from didicm_jax.errors import UserError
from didicm_jax.evaluation import loop, metrics, scores
from didicm_jax.evaluation.predictions import Predictions
from didicm_jax.inference import sampling
from didicm_jax.inference.program import Program
from didicm_jax.inference.sampling import Posterior
from didicm_jax.parallel import processes

CLASSES = 6
VARIABLES = ({}, {})


class Written(nnx.Module):
    """A classifier whose logits are written into the images, [B, 1, K, 1] bytes."""

    def __call__(self, images):
        return images[:, 0, :, 0]


def program(answer=sampling.softmax):
    return Program(
        nnx.graphdef(Written()),
        answer,
        lambda keys, images: images.astype(jnp.float32)[None],
        parallel.make_mesh(),
        seed=0,
    )


@pytest.fixture
def logits():
    """f32[11, K]: more than a batch, and no multiple of one."""
    return np.random.default_rng(0).integers(0, 6, (11, CLASSES)).astype(np.uint8)


def source_of(logits):
    return data.ArraySource(logits[:, None, :, None], np.arange(len(logits)) % CLASSES)


def softmax(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_an_evaluation_counts_every_example_once(logits):
    source = source_of(logits)
    found = loop.evaluate(program(), VARIABLES, source, batch_size=8).metrics
    expected = metrics.summarize(metrics.outcomes(softmax(logits), source.labels))
    assert found["num_examples"] == 11
    assert found.pop("replaced_images") == 0
    assert found == pytest.approx(expected, rel=1e-5)


def test_scores_are_in_the_order_of_the_source(logits):
    source, kept = source_of(logits), []
    found = loop.evaluate(program(), VARIABLES, source, batch_size=4, keep=kept.append).scores
    expected = scores.of(softmax(logits).astype(np.float32), source.labels)
    np.testing.assert_array_equal(found.labels, source.labels)
    np.testing.assert_array_equal(found.predicted, expected.predicted)
    np.testing.assert_allclose(found.mass, expected.mass, rtol=1e-5)
    np.testing.assert_array_equal(np.sort(found.likely, axis=1), np.tile(np.arange(6), (11, 1)))
    np.testing.assert_allclose(scores.join(kept).probs, softmax(logits), rtol=1e-5)


@pytest.mark.parametrize("num_classes", [10, 40])
def test_what_is_kept_of_ties_holds_the_answer(num_classes):
    """Of equally probable classes the first is the answer, and listed first."""
    probs = np.full((1, num_classes), 1 / num_classes, np.float32)
    found = scores.of(probs, np.array([3]))
    assert found.predicted[0] == found.likely[0, 0] == 0
    assert (np.diff(found.likely[0]) > 0).all()
    np.testing.assert_array_equal(found.likely_mass, probs[:, : scores.LIKELY])


def test_a_stop_between_batches_leaves_no_result(logits):
    asked = []
    stop = partial(loop.evaluate, program(), VARIABLES, source_of(logits), batch_size=4)
    assert stop(proceed=lambda: asked.append(0) or len(asked) < 3) is None
    assert len(asked) == 3


def test_an_image_that_is_broken_counts_once(logits, monkeypatch):
    """Image 10 is the last: the padding of its batch shows it again, as do other samplers."""
    real = data.eval_batches

    class Broken(contextlib.closing):
        def __iter__(self):
            for batch in self.thing:
                yield batch | {"replaced": np.isin(batch["index"], [3, 10])}

        def close(self):
            self.thing.close()

    monkeypatch.setattr(data, "eval_batches", lambda *args, **kwargs: Broken(real(*args, **kwargs)))
    source, chosen = source_of(logits), program()
    for _ in range(2):
        found = loop.evaluate(chosen, VARIABLES, source, batch_size=8)
        assert np.flatnonzero(found.replaced).tolist() == [3, 10]
        assert found.metrics["replaced_images"] == 2


def test_only_what_waits_for_others_counts_as_waiting(logits, monkeypatch):
    """Computing and scoring are one's own time; so is compiling, with the first batch."""
    waits, gathered = [], []

    @contextlib.contextmanager
    def waiting():
        waits.append(True)
        yield
        waits.append(False)

    def inside():
        return bool(waits) and waits[-1]

    def reduce(rows):
        assert not inside()
        return rows.labels

    real = loop._gather
    monkeypatch.setattr(loop, "_gather", lambda c: gathered.append(inside()) or real(c))
    source = source_of(logits)
    for _ in loop.batches(program(), VARIABLES, source, reduce, batch_size=4, waiting=waiting):
        assert not inside()
    assert gathered == [False, True, True]


def test_posteriors_that_cannot_be_scored_end_every_process(logits, monkeypatch):
    """With NaN in the share of one process alone, the others waited for it in vain."""
    broken = program(lambda model, images, keys: Posterior(model(images[0]) * jnp.nan))
    with pytest.raises(UserError, match="found NaN or infinity"):
        loop.evaluate(broken, VARIABLES, source_of(logits), batch_size=8)
    monkeypatch.setattr(parallel, "any_process", lambda flag: True)
    with pytest.raises(UserError, match="on another process"):
        loop.evaluate(program(), VARIABLES, source_of(logits), batch_size=8)


def test_a_fault_of_any_kind_is_told_to_the_others(logits, monkeypatch):
    """Of other kinds than posteriors that are not finite, the others did not hear."""
    off = program(lambda model, images, keys: Posterior(2 * jax.nn.softmax(model(images[0]))))
    told = []
    monkeypatch.setattr(parallel, "any_process", lambda flag: told.append(flag) or flag)
    with pytest.raises(ValueError, match="that sum to 1"):
        loop.evaluate(off, VARIABLES, source_of(logits), batch_size=8)
    assert told == [True]


def test_process_0_alone_keeps_and_a_full_disk_ends_every_process(logits, monkeypatch):
    """The others waited for it in vain; here they are process 1, and process 0 has failed."""
    kept = []
    monkeypatch.setattr(processes, "is_main", lambda: False)
    monkeypatch.setattr(processes, "any_process", lambda flag: True)
    with pytest.raises(UserError, match="expected process 0 to do its part"):
        loop.evaluate(program(), VARIABLES, source_of(logits), batch_size=4, keep=kept.append)
    assert not kept


def test_an_evaluation_holds_no_posteriors():
    """512 posteriors over 20,000 classes are 41 MB; one batch of them is 0.3 MB."""
    classes, count = 20_000, 512
    flat = program(lambda model, images, keys: Posterior(jnp.full((len(keys), classes), 5e-5)))
    source = data.ArraySource(np.zeros((count, 1, 1, 1), np.uint8), np.zeros(count, np.int32))
    loop.evaluate(flat, VARIABLES, source, batch_size=4)  # compiled
    tracemalloc.start()
    found = loop.evaluate(flat, VARIABLES, source, batch_size=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.metrics["num_examples"] == count
    assert peak < 20e6


def test_a_program_is_traced_without_running(logits):
    """With the shapes alone, and what the sampler refuses it refuses then."""
    config = configuration.default()
    config.method = "cross_entropy"
    chosen = program(sampling.create(config, CLASSES))
    found = chosen.trace(jax.eval_shape(lambda: VARIABLES), (1, CLASSES, 1), 8)
    assert found.probs == jax.ShapeDtypeStruct(
        (8, CLASSES), jnp.float32, sharding=found.probs.sharding
    )
    assert found.trajectory is None


def test_predictions_are_written_as_they_come(tmp_path):
    random = np.random.default_rng(0)
    parts = [
        Posterior(
            random.random((n, 3), np.float32),
            random.random((n, 5, 3), np.float32),
            np.arange(n, dtype=np.int32),
        )
        for n in (4, 4, 1)
    ]
    path = tmp_path / "predictions.npz"
    with Predictions(tmp_path) as kept:
        for part in parts:
            kept.add(part)
        assert not list(tmp_path.iterdir())
        np.testing.assert_array_equal(kept.probs, scores.join(parts).probs)
        kept.write(path, labels=np.arange(9, dtype=np.int32), ids=np.array(["a", "bc"]))
    with np.load(path) as found:
        assert set(found.files) == {"probs", "trajectory", "steps_used", "labels", "ids"}
        for name, expected in scores.join(parts)._asdict().items():
            np.testing.assert_array_equal(found[name], expected)
            assert found[name].dtype == expected.dtype
        assert found["ids"].tolist() == ["a", "bc"]
    assert [each.name for each in tmp_path.iterdir()] == ["predictions.npz"]


def test_some_examples_alone_are_answered_as_among_all(logits):
    """Also by a sampler that draws: its keys go with the places of the examples."""

    def drawn(model, images, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, (CLASSES,)))(keys)
        return Posterior(jax.nn.softmax(model(images[0]) + noise))

    def probs(**options):
        chosen = program(drawn), VARIABLES, source_of(logits), lambda rows: rows.posterior.probs
        return np.concatenate(list(loop.batches(*chosen, batch_size=4, **options)))

    only = np.array([10, 3, 8, 0, 5])
    np.testing.assert_allclose(probs(only=only), probs()[only], rtol=1e-6)
