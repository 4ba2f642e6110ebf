"""A step over one, two and four devices, in one piece or in micro-batches: the same numbers."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import augment, data
from didicm_jax.training import objectives, optimizers
from didicm_jax.training.step import make_local_gradients, make_train_step
from tests.training.stepping import (
    BATCH,
    MIN_TIME,
    SCHEDULE,
    SEED,
    SGD,
    assert_close,
    make,
    mesh_of,
    placed,
    run,
    start,
)


@pytest.mark.parametrize(("count", "accumulate"), [(1, 4), (2, 2)])
def test_devices_and_micro_batches_are_interchangeable(batch, count, accumulate):
    """D devices with A micro-batches are D A devices: the groups of BatchNorm are the same."""
    expected = run(mesh_of(4), batch)
    assert_close(run(mesh_of(count), batch, accumulate=accumulate), expected)


def test_with_synchronised_statistics_devices_do_not_matter(batch):
    """Mean and variance are those of the whole batch, whoever holds it."""
    with jax.default_prng_impl("rbg"):  # of such keys `jax.vmap` reads the first alone
        found = run(mesh_of(4), batch, norm="sync")
    assert_close(found, run(mesh_of(1), batch))


@pytest.mark.parametrize(("count", "accumulate"), [(1, 4), (4, 1), (4, 2)])
def test_accumulation_equals_the_large_batch(batch, count, accumulate):
    """Without BatchNorm nothing ties the examples together, so no split may change anything."""
    expected = run(mesh_of(1), batch, norm=False)
    assert_close(run(mesh_of(count), batch, norm=False, accumulate=accumulate), expected)


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (1, 4), (2, 2), (4, 1), (4, 2)])
def test_a_step_mixes_no_image_with_its_copy(count, accumulate):
    """Two copies of each image, which stand 8 apart; each example is a class of its own."""
    examples, mesh = 20, mesh_of(count)
    source = data.ArraySource(np.zeros((examples, 2, 2, 3), np.uint8), np.arange(examples))
    batch = data.train_batch(source, step=0, batch_size=16, seed=0, repeats=2)
    policy = augment.Policy((0.5,) * 3, (0.5,) * 3, mixup=1.0)
    graphdef, current, _ = start(mesh, norm=False)

    class ShareUnmixed:
        def draw(self, keys, rows):
            return None

        def __call__(self, model, part):
            chex.assert_shape(part.targets, (16 // count // accumulate, examples))
            # It needs a gradient, and may as well be 0.
            weight = 0 * model.out.bias[...].sum()
            return weight + (part.targets.max(axis=1) == 1).astype(jnp.float32)

    local = make_local_gradients(
        graphdef,
        ShareUnmixed(),
        lambda keys, images, labels, index: policy.train(keys, images, labels, examples, index),
        seed=SEED,
        accumulate=accumulate,
    )
    step = make_train_step(local, SGD, mesh, accumulate=accumulate)
    assert step(current, placed(batch, mesh))[1].loss == 0


def collectives(compiled):
    """Names and bytes of the collectives of a compiled program."""
    found = []
    widths = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    for line in compiled.as_text().splitlines():
        match = re.search(rf"= (.*?) ({names})(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"(f32|s32|u32|pred)\[([\d,]*)\]", match[1])
            sizes = [widths[t] * math.prod(int(d) for d in s.split(",") if d) for t, s in shapes]
            found.append((match[2], sum(sizes)))
    return found


def test_one_all_reduce_of_the_gradients_and_nothing_that_grows_with_the_batch(batch):
    """Parameters and statistics x 4 bytes, and the loss and two numbers of the hosts."""
    mesh = mesh_of(4)
    step, current = make(mesh, ema_decay=0.9)
    larger = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    totals = []
    for one in (batch, larger):
        found = collectives(step.lower(current, placed(one, mesh)).compile())
        assert {name for name, _ in found} == {"all-reduce"}
        assert len(found) <= 2
        totals.append(sum(size for _, size in found))
    count = sum(x.size for x in jax.tree.leaves(current.variables))
    assert totals == [4 * (count + 3)] * 2


def test_a_spread_optimizer_gives_the_same_numbers_in_less_memory(batch):
    """Moments and average are split over the devices: the first kernel along its axis of 12."""
    mesh = mesh_of(4)
    optimizer = optimizers.lamb(0.01, weight_decay=0.01, clip_norm=1.0)
    options = {"ema_decay": 0.9, "optimizer": optimizer, "norm": False}
    expected = run(mesh, batch, **options)
    current, losses = run(mesh, batch, spread=True, **options)
    kernel = current.ema.params["image"]["kernel"]
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(3, 8)] * 4
    moments = [x for x in jax.tree.leaves(current.opt_state) if x.shape == (12, 8)]
    assert len(moments) == 2
    assert all(x.addressable_shards[0].data.shape == (3, 8) for x in moments)
    assert current.variables.params["image"]["kernel"].sharding.is_fully_replicated
    assert_close((current, losses), expected)


def test_times_are_stratified_over_the_global_batch_and_do_not_depend_on_the_devices(batch):
    seen = {}

    def spy(name, stratified):
        class Spy(objectives.DiDiCM):
            def __call__(self, model, part):
                keys, time = part.draws
                jax.debug.callback(
                    lambda t, k: seen.setdefault(name, []).append((np.asarray(t), np.asarray(k))),
                    time,
                    jax.random.key_data(keys),
                )
                labels = jnp.zeros(len(time), jnp.int32)
                return model(part.images, labels, time[:, 0]).sum(-1)

        return Spy(SCHEDULE, min_time=MIN_TIME, stratified=stratified)

    for name, count, stratified in (("four", 4, True), ("one", 1, True), ("free", 4, False)):
        run(mesh_of(count), batch, steps=1, objective=spy(name, stratified))
    jax.effects_barrier()
    times = {
        name: np.sort(np.concatenate([t.ravel() for t, _ in parts])) for name, parts in seen.items()
    }
    parts = np.floor((times["four"] - MIN_TIME) / (1 - MIN_TIME) * BATCH)
    np.testing.assert_array_equal(parts, np.arange(BATCH))
    np.testing.assert_array_equal(times["four"], times["one"])
    assert (np.floor((times["free"] - MIN_TIME) / (1 - MIN_TIME) * BATCH) != parts).any()
    keys = {
        name: {tuple(k) for _, keys in parts for k in keys.tolist()} for name, parts in seen.items()
    }
    assert len(keys["four"]) == BATCH
    assert keys["four"] == keys["one"]
