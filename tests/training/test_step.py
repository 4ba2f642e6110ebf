"""What one step does to the state: gradient, average, counters, and what it compiles to."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from didicm_jax import diffusion
from didicm_jax.models.variables import split
from didicm_jax.training import objectives
from tests.training.stepping import (
    BATCH,
    MIN_TIME,
    SCHEDULE,
    SEED,
    Score,
    assert_close,
    make,
    mesh_of,
    placed,
    prepare,
    run,
)


def drawn(batch, draws=1):
    """By the rule for the first step: its images and targets, times [B, M], keys of the noise."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0), 3)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    augment_keys, noise_keys = (fold_in(key, jnp.arange(BATCH)) for key in keys[:2])
    images, targets = prepare(
        augment_keys, *(jnp.asarray(batch[key]) for key in ("image", "label", "index"))
    )
    times = diffusion.sample_times(keys[2], (BATCH, draws), min_time=MIN_TIME)
    return images, targets, times, jax.vmap(lambda key: jax.random.split(key, draws))(noise_keys)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_gradient_is_that_of_the_loss_over_the_whole_batch(batch, draws):
    """One SGD step against jax.grad of the published loss at the same draws, with no step code.

    Of several draws per image the loss is evaluated one after the other, image and all.
    """
    options = {"norm": False, "optimizer": optax.sgd(1.0), "draws_per_image": draws}
    step, first = make(mesh_of(4), **options)
    before = jax.device_get(first.variables.params)
    after, metrics = step(first, placed(batch, mesh_of(4)))
    graphdef, variables = split(Score(norm=False, rngs=nnx.Rngs(0)))

    images, targets, times, keys = drawn(batch, draws)

    def loss(params):
        model = nnx.merge(graphdef, params, variables.stats)
        values = []
        for m in range(draws):
            sigma = SCHEDULE.total(times[:, m])
            labels = jax.vmap(diffusion.sample_marginal)(keys[:, m], targets, sigma)
            log_ratio = diffusion.log_ratio(targets, sigma, labels)
            entropy = diffusion.score_entropy(model(images, labels, sigma), log_ratio, labels)
            values.append((SCHEDULE.rate(times[:, m]) * entropy).mean())
        return sum(values) / draws

    value, grads = jax.jit(jax.value_and_grad(loss))(variables.params)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, optax.tree.norm(grads), rtol=1e-5)
    moved = jax.tree.map(lambda a, b: a - b, before, jax.device_get(after.variables.params))
    assert_close(moved, grads)


def test_running_statistics_are_averaged_over_the_devices(batch):
    """Each device normalises with its own share; the state stays one."""
    step, first = make(mesh_of(4))
    weights = jax.device_get(first.variables.params["image"])
    after, _ = step(first, placed(batch, mesh_of(4)))
    images, *_ = drawn(batch)
    hidden = np.asarray(images).reshape(4, 4, 12) @ weights["kernel"] + weights["bias"]
    stats = after.variables.stats["norm"]
    np.testing.assert_allclose(stats["mean"], 0.1 * hidden.mean((0, 1)), rtol=1e-4, atol=1e-6)
    variance = 0.9 + 0.1 * hidden.var(1).mean(0)
    np.testing.assert_allclose(stats["var"], variance, rtol=1e-4)
    assert not np.allclose(hidden.var(1).mean(0), hidden.var((0, 1)), rtol=0.05)


def test_a_step_compiles_once_and_donates_its_state(batch):
    traces = []

    class Counted(objectives.DiDiCM):
        def __call__(self, model, part):
            traces.append(1)
            return super().__call__(model, part)

    mesh = mesh_of(4)
    step, current = make(mesh, objective=Counted(SCHEDULE))
    first = current
    for _ in range(3):
        current, _ = step(current, placed(batch, mesh))
    assert len(traces) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))


def test_the_hosts_tell_one_another_through_the_step(batch):
    mesh = mesh_of(4)
    step, current = make(mesh)
    for stop, replaced in ((0, 0), (1, 5)):
        current, metrics = step(current, placed(batch, mesh, stop=stop, replaced=replaced))
        assert (metrics.stop, metrics.replaced) == (stop, replaced)


def test_a_non_finite_step_changes_nothing_but_the_counters(batch):
    mesh = mesh_of(4)
    step, current = make(mesh, ema_decay=0.9)
    current, _ = step(current, placed(batch, mesh))
    before = jax.device_get(current)
    bad = batch | {
        "image": np.where(np.arange(BATCH)[:, None, None, None] == 3, 255, batch["image"])
    }
    bad["image"] = bad["image"].astype(np.uint8)
    for count in (1, 2):
        current, metrics = step(current, placed(bad, mesh))
        assert not np.isfinite(metrics.loss)
        assert (metrics.skipped, metrics.skipped_in_row) == (count, count)
    after = jax.device_get(current)
    kept = ("variables", "opt_state", "ema")
    for name in kept:
        chex.assert_trees_all_equal(getattr(after, name), getattr(before, name))
    assert after.step == 3
    current, metrics = step(current, placed(batch, mesh))
    assert np.isfinite(metrics.loss)
    assert (metrics.skipped, metrics.skipped_in_row) == (2, 0)


def test_the_average_follows_the_weights(batch):
    """`ema = d ema + (1 - d) w`, d = min(decay, (1 + n) / (10 + n)), statistics included."""
    mesh = mesh_of(2)
    step, current = make(mesh, ema_decay=0.15)
    average = jax.device_get(current.variables)
    for n in range(3):
        current, _ = step(current, placed(batch, mesh))
        decay = min(0.15, (1 + n) / (10 + n))
        average = jax.tree.map(
            lambda a, w, d=decay: d * a + (1 - d) * w, average, jax.device_get(current.variables)
        )
    assert_close(current.ema, average)
    chex.assert_trees_all_equal(current.averaged, current.ema)


def test_every_step_draws_anew(batch):
    _, losses = run(mesh_of(2), batch, optimizer=optax.sgd(0.0), norm=False)
    assert len(set(losses)) == 3
