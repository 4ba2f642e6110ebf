"""The training step on a small network, over one, two and four devices."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh

from didicm_jax import augment, data, diffusion, parallel
from didicm_jax.models.variables import split
from didicm_jax.training import objectives, optimizers, state
from didicm_jax.training.step import make_local_gradients, make_train_step

CLASSES, BATCH, MIN_TIME, SEED = 5, 16, 0.05, 7
SCHEDULE = diffusion.loglinear()


class Score(nnx.Module):
    """A score model of two layers; with BatchNorm the examples of a micro-batch see each other."""

    def __init__(self, *, norm, rngs):
        self.image = nnx.Linear(12, 8, rngs=rngs)
        axis = parallel.AXIS if norm == "sync" else None
        self.norm = nnx.BatchNorm(8, momentum=0.9, axis_name=axis, rngs=rngs) if norm else None
        self.label = nnx.Embed(CLASSES, 8, rngs=rngs)
        self.out = nnx.Linear(8, CLASSES, rngs=rngs)

    def encode(self, images):
        hidden = self.image(images.reshape(len(images), -1))
        return hidden if self.norm is None else self.norm(hidden)

    def score(self, features, labels, sigma):
        hidden = jnp.tanh(features + self.label(labels) * sigma[:, None])
        at_label = jax.nn.one_hot(labels, CLASSES, dtype=bool)
        return jnp.where(at_label, 0.0, self.out(hidden))

    def __call__(self, images, labels, sigma):
        return self.score(self.encode(images), labels, sigma)


def prepare(keys, images, labels, index):
    """Noise per example, so that the keys matter; an image of 255s becomes a NaN."""
    noise = jax.vmap(lambda key: 0.1 * jax.random.normal(key, images.shape[1:]))(keys)
    images = images.astype(jnp.float32)
    images = jnp.where(images == 255, jnp.nan, images / 255 + noise)
    return images, jax.nn.one_hot(labels, CLASSES, dtype=jnp.float32)


def mesh_of(count):
    return Mesh(np.asarray(jax.devices()[:count]), (parallel.AXIS,), axis_types=(AxisType.Auto,))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (BATCH, 2, 2, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
        "index": np.arange(BATCH, dtype=np.int32),
    }


def start(mesh, *, norm=True, ema=False, optimizer=None):
    key = jax.random.key(0, impl="threefry2x32")
    graphdef, variables = split(Score(norm=norm, rngs=nnx.Rngs(key)))
    # Not Adam: it blows up the rounding of gradients that are 0, like those before a BatchNorm.
    optimizer = optimizer or optax.sgd(0.05, momentum=0.9)
    first = state.create(variables, optimizer, ema=ema)
    return graphdef, optimizer, jax.device_put(first, parallel.replicated(mesh))


def make(
    mesh,
    *,
    norm=True,
    ema_decay=0.0,
    optimizer=None,
    objective=None,
    accumulate=1,
    stratified=True,
    draws_per_image=1,
    placement=None,
):
    graphdef, optimizer, first = start(mesh, norm=norm, ema=ema_decay > 0, optimizer=optimizer)
    objective = objective or objectives.DiDiCM(
        SCHEDULE, min_time=MIN_TIME, stratified=stratified, draws_per_image=draws_per_image
    )
    local = make_local_gradients(graphdef, objective, prepare, seed=SEED, accumulate=accumulate)
    step = make_train_step(
        local, optimizer, mesh, accumulate=accumulate, ema_decay=ema_decay, placement=placement
    )
    return step, first


def placed(batch, mesh, *, stop=0, replaced=0):
    """The batch on the devices, with what the host has to say."""
    hosts = {"stop": stop, "replaced": replaced}
    return parallel.shard(batch, mesh) | {
        key: parallel.from_hosts(value, mesh) for key, value in hosts.items()
    }


def run(mesh, batch, steps=3, **options):
    """The last state and all losses."""
    step, current = make(mesh, **options)
    losses = []
    for _ in range(steps):
        current, metrics = step(current, placed(batch, mesh))
        losses.append(float(metrics.loss))
    return jax.device_get(current), losses


def assert_close(found, expected, rtol=2e-5):
    chex.assert_trees_all_close(found, expected, rtol=rtol, atol=3e-5)


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
    graphdef, optimizer, current = start(mesh)

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
    step = make_train_step(local, optimizer, mesh, accumulate=accumulate)
    assert step(current, placed(batch, mesh))[1].loss == 0


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
    keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0), 3)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    augment_keys, noise_keys = (fold_in(key, jnp.arange(BATCH)) for key in keys[:2])
    images, targets = prepare(
        augment_keys, *(jnp.asarray(batch[key]) for key in ("image", "label", "index"))
    )
    times = diffusion.sample_times(keys[2], (BATCH, draws), min_time=MIN_TIME)
    draw_keys = jax.vmap(lambda key: jax.random.split(key, draws))(noise_keys)

    def loss_of_one(model, time, keys):
        sigma = SCHEDULE.total(time)
        labels = jax.vmap(diffusion.sample_marginal)(keys, targets, sigma)
        log_ratio = diffusion.log_ratio(targets, sigma, labels)
        entropy = diffusion.score_entropy(model(images, labels, sigma), log_ratio, labels)
        return (SCHEDULE.rate(time) * entropy).mean()

    def loss(params):
        model = nnx.merge(graphdef, params, variables.stats)
        values = [loss_of_one(model, times[:, m], draw_keys[:, m]) for m in range(draws)]
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
    key = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 0), 3)[0]
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(BATCH))
    images, _ = prepare(keys, *(jnp.asarray(batch[key]) for key in ("image", "label", "index")))
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
    _, current = make(mesh, **options)
    replicated = jax.tree.map(lambda _: parallel.replicated(mesh), current)
    placement = replicated._replace(
        opt_state=parallel.spread(current.opt_state, mesh), ema=parallel.spread(current.ema, mesh)
    )
    step, _ = make(mesh, placement=placement, **options)
    current, losses = jax.device_put(current, placement), []
    for _ in range(3):
        current, metrics = step(current, placed(batch, mesh))
        losses.append(float(metrics.loss))
    kernel = current.ema.params["image"]["kernel"]
    assert [shard.data.shape for shard in kernel.addressable_shards] == [(3, 8)] * 4
    moments = [x for x in jax.tree.leaves(current.opt_state) if x.shape == (12, 8)]
    assert len(moments) == 2
    assert all(x.addressable_shards[0].data.shape == (3, 8) for x in moments)
    assert current.variables.params["image"]["kernel"].sharding.is_fully_replicated
    assert_close((jax.device_get(current), losses), expected)


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


def test_every_step_draws_anew(batch):
    _, losses = run(mesh_of(2), batch, optimizer=optax.sgd(0.0), norm=False)
    assert len(set(losses)) == 3
