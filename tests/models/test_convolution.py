"""The convolution in its two forms, against SciPy's correlation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from didicm_jax.models import convolution, resnet_layers

NUMBERS = ("NHWC", "HWIO", "NHWC")
COMPUTE = resnet_layers.Compute(jnp.dtype("float32"), None)
# Pixels a side, channels, size, stride: a matrix product on a CPU, and not.
CASES = [(1, 2, 3, 1), (2, 5, 3, 1), (3, 9, 3, 2), (4, 16, 3, 1), (5, 2, 1, 2), (7, 3, 3, 2)]
# Enough pixels and channels for a kernel's gradient by tiles; 4 divides the side, and does not.
TILED = [(8, 32, 3, 1), (7, 33, 3, 1)]


def correlated(images, kernel, stride):
    pad = kernel.shape[0] // 2
    padded = np.pad(images.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return np.stack(
        [
            np.stack(
                [
                    sum(
                        signal.correlate2d(image[..., c], kernel[..., c, d], mode="valid")
                        for c in range(kernel.shape[2])
                    )
                    for d in range(kernel.shape[3])
                ],
                axis=-1,
            )[::stride, ::stride]
            for image in padded
        ]
    )


@pytest.mark.parametrize(("side", "channels", "size", "stride"), CASES + TILED)
def test_outputs_and_gradients(side, channels, size, stride):
    features = 34 if (side, channels, size, stride) in TILED else 4
    layer = resnet_layers.conv(channels, features, size, stride, COMPUTE, nnx.Rngs(0))
    kernel = layer.kernel[...]
    random = np.random.default_rng(0)
    images = random.normal(size=(3, side, side, channels)).astype(np.float32)
    graphdef, _ = nnx.split(layer)

    def apply(images, kernel):
        return nnx.merge(graphdef, nnx.State({"kernel": nnx.Param(kernel)}))(images)

    found, pull = jax.vjp(jax.jit(apply), images, kernel)
    np.testing.assert_allclose(found, correlated(images, np.asarray(kernel), stride), atol=1e-5)
    # It is linear in each argument: <y, A x> = <A' y, x>, for any x.
    cotangent = jnp.asarray(random.normal(size=found.shape).astype(np.float32))
    to_images, to_kernel = pull(cotangent)
    for gradient, argument, others in (
        (to_images, images, lambda x: correlated(x, np.asarray(kernel), stride)),
        (to_kernel, np.asarray(kernel), lambda x: correlated(images, x, stride)),
    ):
        direction = random.normal(size=argument.shape).astype(np.float32)
        np.testing.assert_allclose(
            np.vdot(gradient, direction), np.vdot(cotangent, others(direction)), rtol=1e-4
        )


@pytest.mark.parametrize(
    ("side", "channels", "size", "product"), [(4, 16, 3, True), (5, 16, 3, False), (9, 2, 1, True)]
)
def test_matrix_products_are_for_cpus_alone(side, channels, size, product):
    """Exported for two platforms at once: which operation each of them runs."""
    layer = resnet_layers.conv(channels, 4, size, 1, COMPUTE, nnx.Rngs(0))
    images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    for platform, expected in (("cpu", product), ("cuda", False), ("tpu", False)):
        text = jax.export.export(jax.jit(lambda x: layer(x)), platforms=[platform])(
            images
        ).mlir_module()
        assert ("dot_general" in text) == expected
        assert ("stablehlo.convolution" in text) != expected


def test_gradient_by_tiles_composes():
    """Forward mode, a gradient per example, and the Hessian of a norm: that of the plain form."""
    random = np.random.default_rng(0)
    kernel = jnp.asarray(random.normal(size=(3, 3, 32, 32)).astype(np.float32)) / 17
    images = jnp.asarray(random.normal(size=(2, 6, 6, 32)).astype(np.float32))

    def tiled(images, kernel):
        return convolution.convolve(
            images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NUMBERS
        )

    def plain(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NUMBERS
        )

    def measures(form):
        def norm(image, kernel):
            return jnp.sum(form(image[None], kernel) ** 2)

        gradient = jax.grad(norm, argnums=1)
        return (
            jax.jvp(form, (images, kernel), (images, kernel))[1],
            jax.vmap(gradient, (0, None))(images, kernel),
            jax.jvp(lambda kernel: gradient(images[0], kernel), (kernel,), (kernel,))[1],
        )

    chex.assert_trees_all_close(
        jax.jit(measures, static_argnums=0)(tiled),
        jax.jit(measures, static_argnums=0)(plain),
        rtol=1e-4,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"feature_group_count": 2}, "2 groups"),
        ({"kernel_dilation": 2}, r"dilations \(1, 1\) and \(2, 2\)"),
        ({"input_dilation": 2}, r"dilations \(2, 2\) and \(1, 1\)"),
        ({"preferred_element_type": jnp.float32}, "preferred_element_type"),
    ],
)
def test_what_it_cannot_do_is_refused(options, found):
    """Groups and dilations were once dropped, and the result was that of another layer."""
    layer = nnx.Conv(
        4, 4, (3, 3), conv_general_dilated=convolution.convolve, rngs=nnx.Rngs(0), **options
    )
    with pytest.raises((ValueError, TypeError), match=found):
        layer(jnp.zeros((1, 6, 6, 4)))
