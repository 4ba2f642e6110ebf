"""ViT and DiDiViT: against timm, against each other, positions, sizes, cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import diffusion, models
from didicm_jax.errors import UserError
from didicm_jax.models import vit_layers
from didicm_jax.models.variables import split
from didicm_jax.pytorch import interop


@functools.cache
def abstract(name, num_classes=1000, image_size=224, **options):
    """The model without its arrays, in eval mode: nothing is allocated, nothing computed."""
    model = nnx.eval_shape(
        lambda: models.create_model(
            name, num_classes=num_classes, image_size=image_size, rngs=nnx.Rngs(0), **options
        )
    )
    model.eval()
    return model


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


# sum(p.numel() for p in timm.create_model("vit_tiny_patch16_224").parameters()) and so on, timm
# 1.0.31; of these 197 x D are learned positions and D the class token.
@pytest.mark.parametrize(
    ("size", "width", "published"),
    [("ti", 192, 5_717_416), ("s", 384, 22_050_664), ("b", 768, 86_567_656)],
)
def test_plain_vit_has_timms_number_of_parameters(size, width, published):
    without = published - (197 + 1) * width
    assert count(abstract(f"vit_{size}16")) == without
    # By hand: patches, twelve blocks (qkv, proj, two of the MLP, two norms), norm, classes.
    block = 12 * width**2 + 13 * width
    assert without == 769 * width + 12 * block + 2 * width + (width + 1) * 1000
    if size == "ti":
        assert count(abstract("vit_ti16", pool="token")) == without + width
        assert count(abstract("vit_ti4")) == without - (16**2 - 4**2) * 3 * width


@pytest.mark.parametrize("conditioned", [2, 1, 0])
def test_parameters_of_late_conditioning(make, conditioned):
    """By hand, D = 64: a conditioned block has Linear(128, 6 D) but not the 4 D of its norms, the
    last norm Linear(128, 2 D) but not its 2 D; the rest as in DiDiRN.
    """
    embedding = 257 * 128 + 129 * 128 + 5 * 128
    blocks = conditioned * (129 * 6 * 64 - 4 * 64) + 129 * 2 * 64 - 2 * 64
    head = 2 * (129 * 192 + 2 * 65 * 64)
    score = make(models.DiDiViT, conditioned_blocks=conditioned)
    extra = embedding + (blocks if conditioned else head)
    assert count(score) - count(make(models.ViT)) == extra


# timm 1.0.31, torch 2.14, in float32: create_model("vit_tiny_patch16_224", img_size=(8, 12),
# patch_size=4, embed_dim=64, num_heads=1, depth=2, num_classes=3), for "average" with
# global_pool="avg", class_token=False, fc_norm=False; weights by `rule_value`, but pos_embed the
# fixed positions; the image below.
TIMM_LOGITS = {
    "average": [-0.1731107, 0.9967336, -0.8127311],
    "token": [-0.7580790, 2.3241665, -1.6174526],
}


@pytest.mark.parametrize("pool", ["average", "token"])
def test_logits_are_timms(golden_weights, pool):
    options = {"width": 1 / 3, "depth": 2, "pool": pool}
    model = nnx.eval_shape(
        lambda: models.create_model(
            "vit_ti4", num_classes=3, image_size=(8, 12), rngs=nnx.Rngs(0), **options
        )
    )
    model.eval()
    entries = interop.entries_of(model)
    shapes = [str(entry.torch_shape) for entry in entries.values()]
    weights = golden_weights(np.array(list(entries)), np.array(shapes))
    positions = interop.family_of(model).constants(model)
    interop.load_torch_state_dict(model, weights | positions)
    image = np.random.default_rng(0).standard_normal((1, 8, 12, 3)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(model)(image)[0], TIMM_LOGITS[pool], atol=2e-5)


@pytest.mark.parametrize("pool", ["average", "token"])
def test_didivit_holds_the_plain_vit(make, pool):
    """With gates of 1, scales and shifts those of the plain norms, and no label in it."""
    plain = make(models.ViT, pool=pool)
    score = make(models.DiDiViT, pool=pool, conditioned_blocks=1)
    for own, other in ((score.patch_embed, plain.patch_embed), (score.fc, plain.fc)):
        nnx.update(own, nnx.state(other))
    nnx.update(score.blocks[0], nnx.state(plain.blocks[0]))
    last, reference = score.blocks[1], plain.blocks[1]
    for part in ("attn", "mlp"):
        nnx.update(getattr(last, part), nnx.state(getattr(reference, part)))
    norms = [
        (layer.bias[...], layer.scale[...] - 1) for layer in (reference.norm1, reference.norm2)
    ]
    gate = jnp.ones(64)
    last.modulation.bias[...] = jnp.concatenate([*norms[0], gate, *norms[1], gate])
    score.modulation.bias[...] = jnp.concatenate([plain.norm.bias[...], plain.norm.scale[...] - 1])
    for modulation in (last.modulation, score.modulation):
        modulation.kernel[...] = jnp.zeros_like(modulation.kernel[...])
    if pool == "token":
        score.cls_token[...] = plain.cls_token[...]
    rng = np.random.default_rng(6)
    images = jnp.asarray(rng.standard_normal((2, 8, 8, 3)), jnp.float32)
    labels, sigma = jnp.asarray([0, 3], jnp.int32), jnp.asarray([0.1, 3.0])
    ours = jax.jit(lambda x: score.output(score.encode(x), labels, sigma))(images)
    np.testing.assert_allclose(ours, jax.jit(plain)(images), atol=1e-5)


def test_initial_values():
    def initial():
        options = {"width": 1 / 3, "depth": 1}
        model = models.create_model(
            "didivit_ti4", num_classes=5, image_size=8, rngs=nnx.Rngs(0), **options
        )
        block = model.blocks[0]
        # Only what is returned is compiled.
        return nnx.state((block.modulation, model.modulation, model.fc)), block.attn.qkv.kernel[...]

    zeros, kernel = jax.jit(initial)()
    for leaf in jax.tree.leaves(zeros):
        np.testing.assert_array_equal(leaf, 0)
    # Glorot's bound of a 64 x 64 matrix, three times.
    assert 0.99 < np.abs(kernel).max() / np.sqrt(6 / 128) <= 1


def test_positions_are_those_of_big_vision():
    """`posemb_sincos_2d` of big_vision's models/vit.py, spelled out."""
    rows, columns, channels = 3, 5, 16
    omega = [10_000 ** -(k / 3) for k in range(4)]
    expected = [
        [f(w * z) for z in (x, y) for f in (np.sin, np.cos) for w in omega]
        for y in range(rows)
        for x in range(columns)
    ]
    ours = vit_layers.sincos_positions(rows, columns, channels)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("pool", ["average", "token"])
@pytest.mark.parametrize("size", [(4, 4), (16, 16), (8, 28)])
def test_any_grid(make, pool, size):
    model = make(models.ViT, pool=pool)
    logits = jax.eval_shape(model, jnp.zeros((2, *size, 3)))
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32
    assert model.positions(2, 3).shape == (6 + (pool == "token"), 64)


def test_images_that_patches_do_not_fill_are_refused(make):
    model = make(models.DiDiViT)
    with pytest.raises(UserError, match="multiples of its patch of 4 pixels, found 16x18: "):
        jax.eval_shape(model.encode, jnp.zeros((2, 16, 18, 3)))


@pytest.mark.parametrize(
    ("name", "width", "channels"),
    [
        ("vit_ti16", 1.0, 192),
        ("didivit_ti8", 0.333, 64),
        ("vit_s4", 0.5, 192),
        ("didivit_b16", 2, 1536),
    ],
)
def test_width_multiplies_the_heads(name, width, channels):
    model = abstract(name, 2, 32, width=width, depth=1)
    assert model.out_channels == channels
    assert model.blocks[0].attn.qkv.kernel.get_value().shape == (channels, 3 * channels)


def test_names_options_and_kinds():
    for size in ("ti16", "s16", "b16", "ti8", "ti4", "s8", "s4", "b8", "b4"):
        assert f"didivit_{size}" in models.score_models()
        assert f"vit_{size}" in models.classifiers()
    assert list(models.options_of("vit_s16")) == ["in_channels", "width", "depth", "pool", "dtype"]
    own = set(models.options_of("didivit_s16")) - set(models.options_of("vit_s16"))
    assert own == {"conditioned_blocks", "parameterization"}


@pytest.mark.parametrize("kind", [models.ViT, models.DiDiViT])
def test_state_without_batch_statistics_splits_and_merges(make, kind):
    model = make(kind, depth=1)
    graphdef, variables = split(model)
    assert variables.stats == {}
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    merged = nnx.merge(graphdef, *variables)
    wanted = (jnp.zeros((1, 4, 4, 3)), jnp.zeros(1, jnp.int32), jnp.zeros(1))
    wanted = wanted if kind is models.DiDiViT else wanted[:1]
    np.testing.assert_array_equal(jax.jit(merged)(*wanted), jax.jit(model)(*wanted))


def test_eight_steps_cost_what_late_conditioning_promises():
    """Floating-point operations of encoding and 8 steps over those of the plain network's pass."""

    def flops(model, method, *inputs):
        graphdef, state = nnx.split(model)
        program = jax.jit(lambda state, *inputs: method(nnx.merge(graphdef, state), *inputs))
        return program.lower(state, *inputs).cost_analysis()["flops"]

    def encode(model, images):
        return model.encode(images)

    def score(model, features, labels, sigma):
        return model.score(features, labels, sigma)

    images, labels, sigma = jnp.zeros((1, 224, 224, 3)), jnp.zeros(1, jnp.int32), jnp.zeros(1)
    single = flops(abstract("vit_s16"), lambda model, *x: model(*x), images)

    def ratio(conditioned):
        model = abstract("didivit_s16", conditioned_blocks=conditioned)
        graphdef, state = nnx.split(model)
        features = jax.eval_shape(lambda state: encode(nnx.merge(graphdef, state), images), state)
        step = flops(model, score, features, labels, sigma)
        return (flops(model, encode, images) + 8 * step) / single

    # 10 blocks once and 2 blocks 8 times, of 12.
    assert 26 / 12 - 0.05 < ratio(2) <= 2.2
    assert 1 <= ratio(0) <= 1.1


def test_gradient_in_bfloat16(make):
    """That of float32, coarser; under strict promotion."""
    images = jnp.ones((1, 8, 4, 3))

    def gradient(dtype):
        graphdef, params = nnx.split(make(models.ViT, depth=1, dtype=dtype), nnx.Param)

        def loss(params):
            return jnp.sum(nnx.merge(graphdef, params)(images) ** 2)

        return jax.jit(jax.grad(loss))(params)["blocks"][0]["attn"]["qkv"]["kernel"].get_value()

    coarse, fine = gradient("bfloat16"), gradient("float32")
    assert coarse.dtype == jnp.float32
    assert 0 < np.linalg.norm(coarse - fine) < 0.1 * np.linalg.norm(fine)


def test_layers_of_tokens_keep_no_activation_in_float32(make):
    """Between the passes of a run in bfloat16, where each would be twice as many bytes."""
    block = make(models.ViT, depth=1, dtype="bfloat16").blocks[0]
    tokens = jnp.ones((2, 80, 64), jnp.bfloat16)  # more of them than channels
    for layer in (block.attn, block.mlp):
        backward = jax.eval_shape(lambda x, layer=layer: jax.vjp(layer, x)[1], tokens)
        wide = [x for x in jax.tree.leaves(backward) if x.dtype == jnp.float32]
        kernels = {(64, 192), (64, 64), (64, 256), (256, 64)}
        assert [x.shape for x in wide if x.size >= tokens.size and x.shape not in kernels] == []


def test_cudnn_is_asked_for_in_programs_for_gpus(make):
    """Compiled for none: whether the program holds the call, and the plain one does not."""
    block = make(models.ViT, depth=1, dtype="bfloat16").blocks[0]
    tokens = jnp.ones((2, 8, 64), jnp.bfloat16)

    def text(attention):
        block.set_attributes(attention=attention)
        traced = jax.jit(jax.grad(lambda x: block.attn(x).astype(jnp.float32).sum())).trace(tokens)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    assert "__cudnn$fmha" not in text("plain")
    try:
        assert "__cudnn$fmhaSoftmaxBackward" in text("cudnn")
    except RuntimeError as error:
        pytest.skip(str(error))  # it asks for the library while it is traced


def test_samplers_take_it(make):
    model = make(models.DiDiViT, conditioned_blocks=1, parameterization="posterior")

    def sample(images):
        features = model.encode(images)
        return diffusion.sample_cp(
            functools.partial(model.score, features),
            diffusion.loglinear(),
            batch_size=2,
            num_classes=5,
            steps=3,
            integrator="exact",
        ).probs

    probs = jax.jit(sample)(jnp.ones((2, 8, 8, 3)))
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
