"""What holds for score models of every family: the split, transformations, precision."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from didicm_jax import models


def test_encode_and_score_are_the_call(small):
    whole = jax.jit(small.model)(small.images, small.labels, small.sigma)
    parts = small.score(small.encode(small.images), small.labels, small.sigma)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert parts.shape == (3, 5)
    assert parts.dtype == jnp.float32


def test_entry_at_the_label_is_exactly_zero(small):
    log_score = small.score(small.encode(small.images), small.labels, small.sigma)
    zero = np.asarray(log_score) == 0
    np.testing.assert_array_equal(zero, np.arange(5) == np.asarray(small.labels)[:, None])


def test_score_depends_on_each_of_its_inputs(small):
    def at(images, labels, sigma):
        return np.asarray(small.score(small.encode(images), labels, sigma))

    base = at(small.images, small.labels, small.sigma)
    # Class 3 is no label before or after, so its entry is never the zeroed one.
    for other in (
        at(jnp.roll(small.images, 1, axis=0), small.labels, small.sigma),
        at(small.images, (small.labels + 2) % 5, small.sigma),
        at(small.images, small.labels, small.sigma + 1),
    ):
        assert np.all(np.abs(other[:, 3] - base[:, 3]) > 1e-5)


def test_images_do_not_mix_in_eval_mode(small):
    def first(images, labels, sigma):
        return small.score(small.encode(images), labels, sigma)[0]

    alone = first(
        small.images.at[1:].set(9.0), small.labels.at[1:].set(1), small.sigma.at[1:].set(2.0)
    )
    together = first(small.images, small.labels, small.sigma)
    np.testing.assert_allclose(alone, together, atol=1e-5)


# A network of each family and a head alone: the transformations see no more than that.
few = pytest.mark.parametrize(
    "small", ["stages1", "stages0", "blocks1"], indirect=True, scope="session"
)


@few
def test_vmapped_chains_share_one_encoding(small):
    features = small.encode(small.images)
    labels = jnp.asarray(np.random.default_rng(2).integers(0, 5, (4, 3)), jnp.int32)
    sigma = jnp.linspace(0.01, 5.0, 12).reshape(4, 3)
    chains = jax.jit(jax.vmap(lambda c, s: small.model.score(features, c, s)))(labels, sigma)
    loop = jnp.stack([small.score(features, c, s) for c, s in zip(labels, sigma, strict=True)])
    np.testing.assert_allclose(chains, loop, atol=1e-5)


@few
def test_score_in_a_scan(small):
    features = small.encode(small.images)
    sigma = jnp.asarray([5.0, 0.5])

    def step(labels, noise):
        log_score = small.model.score(features, labels, jnp.full(3, noise))
        return jnp.argmax(log_score, axis=-1).astype(jnp.int32), log_score

    labels, scores = jax.jit(lambda: jax.lax.scan(step, small.labels, sigma))()
    expected = small.labels
    for noise, log_score in zip(sigma, scores, strict=True):
        alone = small.score(features, expected, jnp.full(3, noise))
        np.testing.assert_allclose(log_score, alone, atol=1e-5)
        expected = jnp.argmax(alone, axis=-1).astype(jnp.int32)
    np.testing.assert_array_equal(labels, expected)


@few
def test_mapped_over_images_on_a_mesh_of_explicit_axes(small):
    given = small.images, small.labels, small.sigma
    mapped = jax.jit(jax.vmap(lambda *one: small.model(*(x[None] for x in one))[0]))
    with jax.set_mesh(jax.make_mesh((3,), ("data",), devices=jax.devices()[:3])):
        found = mapped(*jax.device_put(given, jax.P("data")))
    assert found.sharding.spec[0] == "data"
    expected = small.score(small.encode(small.images), small.labels, small.sigma)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradient_reaches_every_parameter(small):
    graphdef, params, stats = nnx.split(small.model, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def loss(params):
        # The squares keep GroupNorm and softmax-like invariances from cancelling the gradient.
        return jnp.sum(
            nnx.merge(graphdef, params, stats)(small.images, small.labels, small.sigma) ** 2
        )

    grads = jax.jit(jax.grad(loss))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("family", [models.DiDiRN, models.DiDiViT])
def test_the_structure_is_a_value(make, family):
    """So that it can be a static argument, as `jax.jit(step, static_argnums=0)(graphdef, state)`"""
    one, other = nnx.graphdef(make(family)), nnx.graphdef(make(family))
    assert len({one, other, pickle.loads(pickle.dumps(one))}) == 1
    assert one != nnx.graphdef(make(family, num_classes=6))


@pytest.mark.parametrize(
    ("family", "options", "kind"),
    [
        (models.DiDiRN, {"conditioned_stages": 4}, jnp.bfloat16),
        (models.DiDiRN, {"conditioned_stages": 0}, jnp.float32),
        (models.DiDiViT, {"conditioned_blocks": 1, "pool": "token"}, jnp.bfloat16),
        (models.DiDiViT, {"conditioned_blocks": 0}, jnp.float32),
    ],
)
def test_bfloat16_computes_beside_float32(make, family, options, kind):
    single = make(family, **options)
    half = make(family, **options, dtype="bfloat16")
    images = jnp.asarray(np.random.default_rng(3).standard_normal((4, 16, 16, 3)), jnp.float32)
    labels, sigma = jnp.arange(4, dtype=jnp.int32), jnp.linspace(0.01, 3.0, 4)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(half))} == {"float32"}

    def both(images):
        features = half.encode(images)
        return features, half.score(features, labels, sigma)

    features, coarse = jax.jit(both)(images)
    fine = jax.jit(single)(images, labels, sigma)
    # Of a feature map only what is known of its channels is float32.
    maps = [leaf for leaf in jax.tree.leaves(features) if leaf.ndim > 2] or features
    assert all(leaf.dtype == kind for leaf in maps)
    assert coarse.dtype == jnp.float32
    # 8 bits of mantissa through 9 to 17 layers; a float32 network in disguise would agree to 1e-5.
    difference = np.abs(np.asarray(coarse - fine)).max() / np.asarray(fine).std()
    assert 1e-4 < difference < 0.1


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (models.DiDiRN, {"conditioned_stages": 1, "stem": "didirn"}),
        (models.DiDiViT, {"depth": 1, "parameterization": "posterior"}),
    ],
)
def test_training_under_shard_map_is_training_on_each_device(make, family, options):
    """With jax's check of varying axes; each device has the statistics of its own images."""
    devices, each = 4, 2
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(4)
    images = jnp.asarray(rng.standard_normal((devices * each, 8, 8, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, devices * each), jnp.int32)
    sigma = jnp.linspace(0.1, 2.0, devices * each)
    model = make(family, **options)
    model.train()
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def step(params, stats, images, labels, sigma):
        def loss(params):
            model = nnx.merge(graphdef, params, stats)
            out = model(images, labels, sigma)
            return jnp.mean(out**2), (out, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (_, (out, after)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return out, grads, after

    def per_device(params, stats, *batch):
        params, stats = jax.lax.pcast((params, stats), "data", to="varying")
        out, grads, after = step(params, stats, *batch)
        return out, *jax.lax.pmean((grads, after), "data")

    sharded, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(whole, whole, sharded, sharded, sharded),
        out_specs=(sharded, whole, whole),
    )
    result = jax.jit(mapped)(params, stats, images, labels, sigma)

    alone = jax.jit(step)
    parts = [
        alone(params, stats, *(x[i * each : (i + 1) * each] for x in (images, labels, sigma)))
        for i in range(devices)
    ]
    mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *[part[1:] for part in parts])
    expected = np.concatenate([part[0] for part in parts]), *mean
    for ours, reference in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, reference, atol=2e-3 * np.abs(reference).max() + 1e-7)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        (models.DiDiRN, {"width": 0.5, "conditioned_stages": 1, "stem": "didirn"}),
        (models.DiDiRN, {"width": 0.5, "conditioned_stages": 0, "dtype": "bfloat16"}),
        (models.DiDiViT, {"conditioned_blocks": 1, "pool": "token"}),
        (models.DiDiViT, {"conditioned_blocks": 0}),
        (models.ViT, {}),
    ],
)
def test_on_a_mesh_of_explicit_axes_a_loss_and_its_gradient_have_a_place(make, family, options):
    """What `jax.make_mesh` makes unless it is told otherwise: JAX asks where a result shall lie."""
    graphdef, state = nnx.split(make(family, **options))
    images = jnp.asarray(np.random.default_rng(3).standard_normal((8, 16, 16, 3)), jnp.float32)
    seen = (jnp.arange(8, dtype=jnp.int32) % 5, jnp.linspace(0.01, 3.0, 8))

    def loss(state, images, seen):
        model = nnx.merge(graphdef, state)
        model.train()
        output = model(images) if family is models.ViT else model(images, *seen)
        return jnp.sum(output**2), output

    step = jax.jit(jax.grad(loss, has_aux=True))
    with jax.set_mesh(jax.make_mesh((4,), ("data",))):
        given = (jax.device_put(state, jax.P()), *jax.device_put((images, seen), jax.P("data")))
        # The types say where a result is; a network that compiles soon is run.
        found = step(*given) if family is models.ViT else jax.eval_shape(step, *given)
    gradient, output = found
    assert output.sharding.spec[0] == "data"
    assert all(not any(x.sharding.spec) for x in jax.tree.leaves(gradient))
    if family is models.ViT:
        expected = step(state, images, seen)
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())
