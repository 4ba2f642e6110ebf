"""Norms as affine maps with gradients of their own, against plain formulas that JAX differentiates.

The references compute mean and variance in two passes, each norm for itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from didicm_jax import models
from didicm_jax.models import feature_maps, pooling, resnet_layers
from didicm_jax.models.conditioning import EMBEDDING_WIDTH, INITS
from didicm_jax.models.resnet_layers import Block, Compute, ConditionedBlock


def convolve(x, layer, stride):
    kernel = layer["kernel"]
    pads = [(kernel.shape[0] // 2,) * 2] * 2
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, pads, dimension_numbers=dims)


def normalise(x, axes, scale, bias):
    mean = x.mean(axes, keepdims=True)
    var = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def batch_norm(x, layer):
    one = (None,) * 3
    return normalise(x, (0, 1, 2), layer["scale"][one], layer["bias"][one])


def reference(params, x, stride, bottleneck, activated=None, groups=1):
    """A block by the formulas of its docstring; draws follow from the rows of `activated`."""
    last = 3 if bottleneck else 2
    residual = x
    for index in range(1, last + 1):
        strided = index == (2 if bottleneck else 1)
        residual = convolve(residual, params[f"conv{index}"], stride if strided else 1)
        residual = batch_norm(residual, params[f"bn{index}"])
        residual = residual if index == last else jax.nn.relu(residual)
    shortcut = x
    if "skip" in params:
        shortcut = batch_norm(convolve(x, params["skip"]["conv"], stride), params["skip"]["norm"])
    if activated is not None:
        residual, shortcut = (
            jnp.repeat(each, len(activated) // len(x), axis=0) for each in (residual, shortcut)
        )
        layer, norm = params["condition"], params["group_norm"]
        shift = activated @ layer["kernel"] + layer["bias"][None]
        residual = residual + shift[:, None, None]
        grouped = residual.reshape(*residual.shape[:3], groups, -1)
        one = (None,) * 3
        scale, bias = (norm[k].reshape(groups, -1)[one] for k in ("scale", "bias"))
        residual = normalise(grouped, (1, 2, 4), scale, bias).reshape(residual.shape)
        residual = jax.nn.silu(residual)
    return jax.nn.relu(residual + shortcut)


class Case:
    """A block with random parameters, inputs, and weights of a scalar of its result."""

    def __init__(self, *, bottleneck, stride, conditioned, dtype="float32", draws=1, axis=None):
        kind, self.stride, self.bottleneck = Block, stride, bottleneck
        if conditioned:
            kind = functools.partial(ConditionedBlock, group_channels=2, init=INITS["torch"])
        block = kind(
            16,
            4 if bottleneck else 8,
            stride=stride,
            bottleneck=bottleneck,
            compute=Compute(jnp.dtype(dtype), axis),
            rngs=nnx.Rngs(0),
        )
        rng = np.random.default_rng(0)
        self.graphdef, params, stats = nnx.split(block, nnx.Param, nnx.BatchStat)
        self.stats = nnx.to_pure_dict(stats)
        self.groups = block.group_norm.num_groups if conditioned else 1
        # No zeros, and both signs of every scale.
        self.params = jax.tree.map(
            lambda x: (
                x + 0.5 * jnp.asarray(rng.standard_normal(x.shape), x.dtype) if x.ndim == 1 else x
            ),
            nnx.to_pure_dict(params),
        )
        self.x = jnp.asarray(rng.standard_normal((4, 8, 8, 16)), jnp.float32)
        self.activated = jnp.asarray(rng.standard_normal((4 * draws, EMBEDDING_WIDTH)), jnp.float32)
        self.dtype, self.draws, self.conditioned = dtype, draws, conditioned

    def result(self, params, x, activated):
        block = nnx.merge(self.graphdef, params, self.stats)
        x = x.astype(self.dtype)
        if not self.conditioned:
            return block(x).astype(jnp.float32)
        features = block.branches(x)
        features = jax.tree.map(lambda f: jnp.repeat(f, self.draws, axis=0), features)
        return block.join(features, activated).astype(jnp.float32)

    def expected(self, params, x, activated):
        activated = activated if self.conditioned else None
        return reference(params, x, self.stride, self.bottleneck, activated, self.groups)

    def gradients(self, result):
        def loss(params, x, activated):
            y = result(params, x, activated)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y

        (_, y), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(
            self.params, self.x, self.activated
        )
        return y, grads


def distances(ours, expected):
    """Of each array, relative to it."""
    return [
        np.linalg.norm(a - b) / (np.linalg.norm(b) + 1e-6)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"bottleneck": False, "stride": 1, "conditioned": False},
        {"bottleneck": True, "stride": 2, "conditioned": False},
        {"bottleneck": False, "stride": 2, "conditioned": True},
        {"bottleneck": True, "stride": 1, "conditioned": True, "draws": 3},
    ],
)
def test_blocks_and_their_gradients_are_those_of_the_formulas(options):
    case = Case(**options)
    found = distances(case.gradients(case.result), case.gradients(case.expected))
    assert max(found) < 2e-5


# What folds takes the moments of its last convolution from the input of that.
def test_folded_norms_are_as_near_to_the_formulas_as_others_in_bfloat16(monkeypatch):
    case = Case(bottleneck=True, stride=1, conditioned=False, dtype="bfloat16")
    asked = []
    widens = resnet_layers.widens
    monkeypatch.setattr(
        resnet_layers, "widens", lambda layer: asked.append(widens(layer)) or asked[-1]
    )
    expected = case.gradients(case.expected)
    folded = distances(case.gradients(case.result), expected)
    assert asked == [False, False, True]
    monkeypatch.setattr(resnet_layers, "widens", lambda layer: False)
    others = distances(case.gradients(case.result), expected)
    assert max(others) > 1e-3
    assert all(ours < 1.5 * other + 5e-4 for ours, other in zip(folded, others, strict=True))


def test_moments_follow_from_those_of_the_input_of_a_product():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, 5, 6)) + 1
    kernel, weights = rng.standard_normal((6, 8)), rng.standard_normal((2, 1, 8))
    ours, transpose = jax.vjp(
        lambda x: feature_maps.moments_of_product(x, jnp.asarray(kernel, jnp.float32)),
        jnp.asarray(x, jnp.float32),
    )
    product, axes = x @ kernel, (0, 1, 2)
    np.testing.assert_allclose(ours.mean[0], product.mean(axes), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.mean_square[0], np.square(product).mean(axes), rtol=1e-4)
    gradient = transpose(feature_maps.Moments(*jnp.asarray(weights, jnp.float32)))[0]
    # By hand: d mean = kernel / n, d mean of squares = 2 product kernel / n.
    by_hand = (weights[0] + 2 * product * weights[1]) @ kernel.T / 60
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-3, atol=1e-4)


def test_two_devices_that_share_statistics_are_one():
    one, two = (
        Case(bottleneck=True, stride=1, conditioned=True, axis=axis) for axis in (None, "data")
    )
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    sharded, whole = PartitionSpec("data"), PartitionSpec()
    weights = jnp.cos(jnp.arange(one.x.size, dtype=jnp.float32)).reshape(one.x.shape)

    def step(case, params, x, activated, weights):
        def loss(*inputs):
            return jnp.sum(case.result(*inputs) * weights)

        return jax.grad(loss, (0, 1, 2))(params, x, activated)

    def per_device(params, x, activated, weights):
        params = jax.lax.pcast(params, "data", to="varying")
        grads = step(two, params, x, activated, weights)
        return jax.lax.psum(grads[0], "data"), *grads[1:]

    mapped = jax.shard_map(
        per_device, mesh=mesh, in_specs=(whole, *[sharded] * 3), out_specs=(whole, *[sharded] * 2)
    )
    inputs = one.params, one.x, one.activated, weights
    found = distances(jax.jit(mapped)(*inputs), jax.jit(functools.partial(step, one))(*inputs))
    assert max(found) < 2e-5


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 3)])
def test_gathered_gradients_of_the_pool_are_those_of_its_definition(size):
    """With ties, of which the first is the largest."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.integers(-2, 3, (2, *size, 3)), jnp.float32)
    y, transpose = jax.vjp(pooling._max_pool, x)
    gradient = jnp.asarray(rng.integers(-9, 9, y.shape), jnp.float32)
    np.testing.assert_array_equal(pooling._gather(x, gradient)[0], transpose(gradient)[0])


def wide_arrays(model, images, *args):
    """Shapes of float32 arrays of an image's size or more that wait for the backward pass."""
    model.train()
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def waiting(images, params, stats):
        def result(images, params):
            return nnx.merge(graphdef, params, stats)(images, *args)

        return jax.vjp(result, images, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(waiting, images, params, stats))
    return [x.shape for x in kept if x.dtype == jnp.float32 and x.size >= images.size]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "didirn18", "didirn50"])
def test_a_run_in_bfloat16_keeps_no_activation_in_float32(name):
    model = nnx.eval_shape(
        lambda: models.create_model(
            name, num_classes=3, image_size=32, rngs=nnx.Rngs(0), width=0.125, dtype="bfloat16"
        )
    )
    args = (jnp.zeros(16, jnp.int32), jnp.ones(16)) if name.startswith("didirn") else ()
    assert not wide_arrays(model, jax.ShapeDtypeStruct((16, 32, 32, 3), jnp.float32), *args)


def test_flaxs_norm_would_keep_one():
    """The test before this one can fail."""

    class Plain(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(8, dtype=jnp.float32, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jax.nn.relu(self.norm(x).astype(jnp.bfloat16))

    assert wide_arrays(Plain(), jax.ShapeDtypeStruct((2, 32, 32, 8), jnp.bfloat16))
