"""What stays float32 on devices that multiply float32 matrices in fewer bits unless told."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from didicm_jax import diffusion, models

DOT = re.compile(
    r"stablehlo\.dot_general [^:]*?(?:precision = \[(\w+), (\w+)\] )?: "
    r"\(tensor<([^>]*)>, tensor<([^>]*)>\)"
)
IMAGES = jnp.zeros((2, 8, 8, 3))
LABELS, SIGMA = jnp.zeros(2, jnp.int32), jnp.ones(2)


def products(function, model, platform):
    """The matrix products of a program: (both operands have no axis but B?, precisions, types)."""
    graphdef, state = nnx.split(model)
    program = jax.jit(lambda state: function(nnx.merge(graphdef, state)))
    text = jax.export.export(program, platforms=[platform])(state).mlir_module()
    dots = DOT.findall(text)
    assert len(dots) == text.count("stablehlo.dot_general")
    found = []
    for *precisions, left, right in dots:
        operands = [operand.split("x") for operand in (left, right)]
        per_image = all(len(operand) == 3 for operand in operands)
        found.append((per_image, set(precisions), {operand[-1] for operand in operands}))
    return found


def answer(model):
    return model(IMAGES, LABELS, SIGMA) if isinstance(model, models.ScoreModel) else model(IMAGES)


def gradient(model):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return jax.value_and_grad(lambda params: answer(nnx.merge(graphdef, params, rest)).sum())(
        params
    )


# Products of conditioning and head: 2 of the embedding of noise, 1 of each conditioned block and
# of a conditioned last norm, 3 of each of the 2 MLPs of a conditioned head, 1 of the classes.
@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (models.ResNet, {}, 1),
        (models.DiDiRN, {}, 2 + 5 + 1),
        (models.DiDiRN, {"conditioned_stages": 0}, 2 + 6 + 1),
        (models.ViT, {}, 1),
        (models.DiDiViT, {}, 2 + 2 + 1 + 1),
        (models.DiDiViT, {"conditioned_blocks": 0}, 2 + 6 + 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_conditioning_and_head_ask_for_exact_products(
    make, kind, options, expected, dtype, platform
):
    """They are the products whose operands have no pixels or tokens: of B images, or weights."""
    model = make(kind, dtype=dtype, **options)
    found = [dot[1:] for dot in products(answer, model, platform) if dot[0]]
    assert found == [({"HIGHEST"}, {"f32"})] * expected


@pytest.mark.parametrize(
    ("kind", "expected"), [(models.DiDiRN, 2 + 5 + 1), (models.DiDiViT, 2 + 2 + 1 + 1)]
)
def test_their_gradients_do_too(make, kind, expected):
    """Of each layer the gradients of kernel and input, but for the noise, which needs none."""
    found = [dot[1:] for dot in products(gradient, make(kind), "tpu") if dot[0]]
    assert found == [({"HIGHEST"}, {"f32"})] * (3 * expected - 1)


def test_the_trunk_is_left_to_the_platform(make):
    """As users of JAX expect of float32; `dtype` of the options says so."""
    found = [dot[1:] for dot in products(answer, make(models.ViT), "tpu") if not dot[0]]
    # Four layers, of which one makes three, and two of attention in each of two blocks.
    assert found == [({""}, {"f32"})] * 16


@pytest.mark.parametrize("integrator", ["euler", "exact", "heun"])
def test_sampling_adds_no_products_of_its_own(make, integrator):
    """With a head alone as the network, every product of the loop is one of its layers."""
    model = make(models.DiDiRN, conditioned_stages=0)

    def sample(model):
        features = model.encode(IMAGES)
        return diffusion.sample_cp(
            lambda labels, sigma: model.score(features, labels, sigma),
            diffusion.loglinear(),
            batch_size=2,
            num_classes=5,
            steps=3,
            integrator=integrator,
        ).probs

    found = products(sample, model, "tpu")
    assert found
    assert all(dot == (True, {"HIGHEST"}, {"f32"}) for dot in found)
