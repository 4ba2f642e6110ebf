"""The trunk that DiDiRN and the plain ResNets share: sizes, strides, normalisation, state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from didicm_jax import models
from didicm_jax.models import float32_layers


@functools.cache
def abstract(name, num_classes=1000, image_size=224, **options):
    """The model without its arrays: nothing is allocated, nothing computed."""
    return nnx.eval_shape(
        lambda: models.create_model(
            name, num_classes=num_classes, image_size=image_size, rngs=nnx.Rngs(0), **options
        )
    )


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_didirn_has_the_originals_number_of_parameters(golden, depth):
    assert count(abstract(f"didirn{depth}")) == golden[f"params/resnet{depth}"]


# As published with torchvision's weights (docs.pytorch.org/vision, "num_params" of each model).
@pytest.mark.parametrize(
    ("depth", "published"),
    [
        (18, 11_689_512),
        (34, 21_797_672),
        (50, 25_557_032),
        (101, 44_549_160),
        (152, 60_192_808),
    ],
)
def test_plain_resnet_has_torchvisions_number_of_parameters(depth, published):
    assert count(abstract(f"resnet{depth}", stem="imagenet")) == published


def test_names_are_of_both_kinds():
    assert set(models.names()) == set(models.score_models()) | set(models.classifiers())
    assert "didirn50" in models.score_models()
    assert "resnet152" in models.classifiers()
    assert isinstance(abstract("didirn18"), models.ScoreModel)
    assert isinstance(abstract("resnet18"), models.Classifier)


@pytest.mark.parametrize("name", ["didirn18", "resnet50"])
@pytest.mark.parametrize(
    ("stem", "stride"), [("fine", 4), ("small", 8), ("didirn", 16), ("imagenet", 32)]
)
def test_total_stride_of_the_stems(name, stem, stride):
    model = abstract(name, image_size=224, stem=stem)
    seen = []
    convolve = nnx.Conv.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            nnx.Conv, "__call__", lambda self, x: seen.append(y := convolve(self, x)) or y
        )
        inputs = (jnp.zeros((2, 224, 224, 3)), jnp.zeros(2, jnp.int32), jnp.zeros(2))
        wanted = inputs if isinstance(model, models.ScoreModel) else inputs[:1]
        graphdef, state = nnx.split(model)
        jax.eval_shape(lambda state: nnx.merge(graphdef, state)(*wanted), state)
    assert seen[-1].shape[1:3] == (224 // stride, 224 // stride)
    assert models.STEMS[stem].total_stride == stride


@pytest.mark.parametrize(
    ("channels", "image_size", "stem"),
    [
        (1, 8, "small"),
        (4, (33, 20), "didirn"),
        (3, 17, "imagenet"),
        (7, (5, 64), "small"),
        (1, (3, 8), "fine"),
    ],
)
def test_any_channels_and_image_size(channels, image_size, stem):
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    model = abstract("resnet18", 2, image_size, in_channels=channels, stem=stem, width=0.5)
    graphdef, state = nnx.split(model)
    images = jnp.zeros((2, height, width, channels))
    logits = jax.eval_shape(lambda state: nnx.merge(graphdef, state)(images), state)
    assert logits.shape == (2, 2)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("width", "groups"), [(0.25, [8, 16, 32, 32]), (1, [32] * 4), (1.25, [8, 16, 32, 32])]
)
def test_width_multiplies_all_channels(width, groups):
    model = abstract("didirn18", width=width)
    for stage in range(4):
        block = getattr(model, f"layer{stage + 1}")[0]
        assert block.conv1.kernel.get_value().shape[-1] == 64 * width * 2**stage
        assert block.group_norm.num_groups == groups[stage]


@pytest.mark.parametrize("name", ["didirn18", "didirn50"])
@pytest.mark.parametrize("stem", ["fine", "small", "didirn", "imagenet"])
def test_the_original_widths_have_32_groups_on_every_map(name, stem):
    """Also on the smallest images that a stem takes, whose last map is of one pixel."""
    model = abstract(name, image_size=models.STEMS[stem].total_stride // 2 + 1, stem=stem)
    for stage in range(4):
        assert getattr(model, f"layer{stage + 1}")[0].group_norm.num_groups == 32


# Channels of the four stages 8, 16, 32, 64 (width 1/8) or twice as many; maps as the comments say.
@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"image_size": 32, "width": 0.125}, [4, 8, 16, 16]),  # 16, 8, 4, 2
        ({"image_size": 8, "width": 0.125}, [4, 8, 8, 4]),  # 8, 4, 2, 1
        ({"image_size": 8, "width": 0.25}, [8, 16, 16, 8]),
        ({"image_size": (8, 5), "width": 0.125}, [4, 8, 8, 4]),  # 8x5, 4x3, 2x2, 1x1
        ({"image_size": 8, "width": 0.125, "group_elements": 64}, [4, 4, 2, 1]),
        ({"image_size": 8, "width": 0.125, "group_elements": 1}, [4, 8, 16, 32]),  # as before
        ({"image_size": 8, "width": 0.125, "group_elements": 1000}, [1, 1, 1, 1]),
    ],
)
def test_groups_have_so_many_elements(options, groups):
    stem = "didirn" if options["image_size"] == 32 else "small"
    model = abstract("didirn18", stem=stem, **options)
    found = [getattr(model, f"layer{stage + 1}")[1].group_norm for stage in range(4)]
    assert [norm.num_groups for norm in found] == groups
    # Parameters do not depend on it.
    assert [norm.scale.get_value().size for norm in found] == [
        64 * options["width"] * 2**stage for stage in range(4)
    ]


def test_a_fine_stem_sees_each_pixel_twice(make):
    fine, small = (make(models.ResNet, stem=stem) for stem in ("fine", "small"))
    images = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
    larger = np.kron(images, np.ones((1, 2, 2, 1), np.float32))
    np.testing.assert_array_equal(fine._stem(jnp.asarray(images)), small._stem(jnp.asarray(larger)))


@pytest.mark.parametrize("name", ["didirn18", "resnet18", "didirn50"])
@pytest.mark.parametrize("stages", [4, 0])
def test_state_is_params_and_batch_stats_with_readable_paths(name, stages):
    options = {"conditioned_stages": stages} if name in models.score_models() else {}
    model = abstract(name, **options)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    paths = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(params)}
    assert {"conv1/kernel", "layer1/0/conv1/kernel", "layer2/0/skip/norm/scale", "fc/bias"} <= paths
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, stats)))


def test_initial_values():
    def initial():
        model = models.create_model(
            "didirn18",
            num_classes=9,
            image_size=16,
            rngs=nnx.Rngs(0),
            width=0.125,
            conditioned_stages=1,
        )
        return nnx.state((model.layer1, model.layer2[0].skip.norm, model.layer4, model.fc))

    # Only what is returned is compiled: every shape that is drawn costs a third of a second.
    layer1, skip_norm, layer4, fc = nnx.to_pure_dict(jax.jit(initial)()).values()
    # Kaiming, fan_out: 3 x 3 x 64 outputs. 36,864 draws fix the deviation to 0.4 %.
    kernel = np.asarray(layer4[1]["conv2"]["kernel"])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    # Each block starts as the identity: zero scale in the last normalisation of its branch.
    np.testing.assert_array_equal(layer1[0]["bn2"]["scale"], 0)
    np.testing.assert_array_equal(layer4[0]["bn2"]["scale"], 1)
    np.testing.assert_array_equal(layer4[0]["group_norm"]["scale"], 0)
    np.testing.assert_array_equal(skip_norm["scale"], 1)
    # Every log score starts at 0, that of pure noise.
    np.testing.assert_array_equal(fc["kernel"], 0)
    np.testing.assert_array_equal(fc["bias"], 0)


def test_initial_values_of_pytorch():
    """By its documentation, and how its layers are made: kernels and biases of `nn.Linear` uniform
    in +-1/sqrt(inputs) (`kaiming_uniform_(a=sqrt(5))`), `nn.Embedding` N(0, 1), norms at 1 and 0,
    and torchvision's `kaiming_normal_(mode="fan_out")` of convolutions."""

    def initial():
        model = models.create_model(
            "didirn18", num_classes=100, image_size=16, rngs=nnx.Rngs(0), width=0.25, init="torch"
        )
        block = model.layer4[1]
        return nnx.state(
            (model.embedding, block.conv2, block.condition, block.group_norm, model.fc)
        )

    embedding, conv2, condition, norm, fc = nnx.to_pure_dict(jax.jit(initial)()).values()
    linears = {256: embedding["time_in"], 128: embedding["time_out"]}
    for inputs, layer in [*linears.items(), (128, condition), (128, fc)]:
        bound = 1 / np.sqrt(inputs)
        for values in (layer["kernel"], layer["bias"]):
            assert np.abs(values).max() <= bound
            # Of n uniform draws the largest is above 1 - 7/n with all but a thousandth of chance,
            # and the deviation, b / sqrt(3), known to 0.45 / sqrt(n).
            assert np.abs(values).max() > bound * (1 - 7 / values.size)
            assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 4 * 0.45 / np.sqrt(values.size)
        assert layer["kernel"].shape[0] == inputs
    table = np.asarray(embedding["label"]["embedding"])
    assert abs(table.std() - 1) < 4 / np.sqrt(2 * table.size)
    assert abs(table.mean()) < 4 / np.sqrt(table.size)
    np.testing.assert_allclose(conv2["kernel"].std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    np.testing.assert_array_equal(norm["scale"], 1)
    np.testing.assert_array_equal(norm["bias"], 0)


def test_batch_norm_is_pytorchs():
    """Against the definition of torch.nn.BatchNorm2d: biased to normalise, unbiased to keep."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 1, 2, 4))
    norm = float32_layers.BatchNorm(4, None)
    ours = norm(jnp.asarray(x, jnp.float32))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(ours, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * var * 4 / 3, rtol=1e-5)
    norm.eval()
    running = (x - np.asarray(norm.mean[...])) / np.sqrt(np.asarray(norm.var[...]) + 1e-5)
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), running, atol=1e-5)


def test_batch_norm_shares_statistics_over_a_named_axis():
    """Four devices with three images each normalise, learn and remember as one with twelve."""
    images = np.random.default_rng(1).normal(1.0, 2.0, (12, 2, 1, 3))
    images, weights = jnp.asarray(images, jnp.float32), jnp.arange(72.0).reshape(12, 2, 1, 3)

    def run(axis_name, images, weights):
        def loss(images):
            norm = float32_layers.BatchNorm(3, axis_name)
            y = norm(images)
            return jnp.sum(weights * jnp.sin(y)), (y, norm.mean[...], norm.var[...])

        grad, (y, mean, var) = jax.grad(loss, has_aux=True)(images)
        return y, grad, mean, var

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharded, whole = PartitionSpec("data"), PartitionSpec()
    mapped = jax.shard_map(
        functools.partial(run, "data"),
        mesh=mesh,
        in_specs=(sharded, sharded),
        # The statistics are known to be equal on all devices without a further all-reduce.
        out_specs=(sharded, sharded, whole, whole),
    )
    expected = run(None, images, weights)
    for ours, reference in zip(jax.jit(mapped)(images, weights), expected, strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(ours, reference, atol=1e-5 * scale)


def test_batch_norm_of_one_value_is_refused():
    norm = float32_layers.BatchNorm(4, None)
    with pytest.raises(ValueError, match="at least 2 values per channel, found 1"):
        norm(jnp.ones((1, 1, 1, 4)))


def test_train_and_eval_switch_the_running_statistics(make):
    model = make(models.ResNet)
    graphdef, state = nnx.split(model)
    images = jnp.asarray(np.random.default_rng(5).standard_normal((4, 8, 8, 3)), jnp.float32)

    def run(state, training):
        model = nnx.merge(graphdef, state)
        model.train() if training else model.eval()
        out = model(images)
        return out, nnx.state(model, nnx.BatchStat)

    before = jax.tree.leaves(nnx.state(model, nnx.BatchStat))
    evaluated, same = jax.jit(lambda state: run(state, False))(state)
    trained, moved = jax.jit(lambda state: run(state, True))(state)
    assert all(np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(same), strict=True))
    assert not any(
        np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(moved), strict=True)
    )
    assert np.abs(np.asarray(evaluated - trained)).max() > 1e-3
