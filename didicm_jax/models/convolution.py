"""The convolution of a ResNet, in the form that the device runs fastest.

XLA's convolution for CPUs is slow where the kernel is 1x1 (its gradients run at a third of the rate
of a matrix product) and very slow on maps of a few pixels: at 2x2 pixels and 128 channels a 3x3
kernel takes 20 times as long as the same sums as one matrix product. On larger maps the gradient of
a 3x3 kernel is what is slow: a third of the forward pass's rate, a tenth for 64 images of 28x28.
GPUs and TPUs need no such help: there this is `jax.lax.conv_general_dilated`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from didicm_jax.models.placement import with_rows_of

_Bilinear = Callable[[chex.Array, chex.Array], chex.Array]

# Fewer channels make matrix products too thin to pay for the transforms around them.
_MIN_CHANNELS = 32
# Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308, section 4.3): a tile of 6x6 pixels,
# a kernel, and back to the 4x4 pixels of the result, along one axis.
_TILE = 4
_FROM_PIXELS = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_FROM_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_TO_PIXELS = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)


def convolve(
    images: chex.Array,
    kernel: chex.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    *,
    dimension_numbers: Any,
    feature_group_count: int = 1,
    precision: Any = None,
    out_sharding: None = None,
) -> chex.Array:
    """What `flax.nnx.Conv` calls in the place of `jax.lax.conv_general_dilated`.

    Args:
      images: `[B, H, W, C]`.
      kernel: `[h, w, C / groups, D]`.
      strides: over height and width.
      padding: pixels before and after, for height and width.
      lhs_dilation: of the images; only 1 is known here.
      rhs_dilation: of the kernel; only 1 is known here.
      dimension_numbers: of NHWC and HWIO.
      feature_group_count: groups; only 1 is known here.
      precision: of the products.
      out_sharding: only None is known here.

    Raises:
      ValueError: a dilation or groups, which no ResNet here has, or a sharding.

    Returns:
      `[B, H', W', D]`.
    """

    dilations = {*(lhs_dilation or ()), *(rhs_dilation or ())}
    if dilations - {1} or feature_group_count != 1 or out_sharding is not None:
        raise ValueError(
            "convolve expects no dilation, one group and no sharding of its result, found dilations"
            f" {lhs_dilation} and {rhs_dilation}, {feature_group_count} groups and {out_sharding}:"
            " use jax.lax.conv_general_dilated"
        )

    def convolution(images: chex.Array, kernel: chex.Array) -> chex.Array:
        return lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            dimension_numbers=dimension_numbers,
            precision=precision,
        )

    def product(images: chex.Array, kernel: chex.Array) -> chex.Array:
        return _as_matrix_product(images, kernel, strides, padding, precision)

    shape = jax.eval_shape(convolution, images, kernel).shape
    # The patches of a larger kernel are that many times the map; where they are more than the
    # channels, writing them costs more than the product saves.
    small = kernel.shape[:2] == (1, 1) or shape[1] * shape[2] <= images.shape[-1]
    if small:
        return lax.platform_dependent(images, kernel, cpu=product, default=convolution)
    same = kernel.shape[:2] == (3, 3) and shape[:3] == images.shape[:3]
    if same and min(kernel.shape[2:]) >= _MIN_CHANNELS and images.dtype == jnp.float32:
        faster = _with_tiled_kernel_gradient(convolution, precision)
        return lax.platform_dependent(images, kernel, cpu=faster, default=convolution)
    return convolution(images, kernel)


def _with_tiled_kernel_gradient(convolution: _Bilinear, precision: Any) -> _Bilinear:
    """A convolution of 3x3 whose derivative along the kernel is written as Winograd's.

    The transpose of that derivative, the gradient of the kernel, becomes 36 matrix products with a
    quarter of the multiplications. The result and the gradient of the images are untouched: there
    XLA is as fast.
    """

    @jax.custom_jvp
    def convolve(images: chex.Array, kernel: chex.Array) -> chex.Array:
        return convolution(images, kernel)

    @convolve.defjvp
    def tangent(primals: Any, tangents: Any) -> Any:
        (images, kernel), (d_images, d_kernel) = primals, tangents
        # Without the checkpoint the tiles, 2.25 times the images, would wait for the backward pass.
        along = jax.checkpoint(lambda images, d_kernel: _tiled(images, d_kernel, precision))
        return convolve(images, kernel), convolution(d_images, kernel) + along(images, d_kernel)

    return convolve


def _tiled(images: chex.Array, kernel: chex.Array, precision: Any) -> chex.Array:
    """Winograd's F(4x4, 3x3): each tile of 6x6 pixels gives 4x4 of the result."""
    batch, height, width, channels = images.shape
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    below, right = rows * _TILE - height + 1, columns * _TILE - width + 1
    images = jnp.pad(images, ((0, 0), (1, below), (1, right), (0, 0)))
    size = len(_FROM_PIXELS)

    def pixel(i: int, j: int) -> chex.Array:
        """Pixel (i, j) of every tile, `[B, rows, columns, C]`."""
        return _every(_every(images, i, size, _TILE, axis=1), j, size, _TILE, axis=2)

    tiles = _both_axes(_FROM_PIXELS, [[pixel(i, j) for j in range(size)] for i in range(size)])
    stacked = jnp.stack([x.reshape(-1, channels) for row in tiles for x in row])
    transformed = jnp.einsum(
        "ai,bj,ijcd->abcd", _FROM_KERNEL, _FROM_KERNEL, kernel, precision=precision
    )
    transformed = transformed.reshape(size**2, *kernel.shape[2:])
    product = jnp.einsum("kcd,ktc->ktd", transformed, stacked, precision=precision)
    # Not indexed: the transpose of a split is one concatenation, of an index a padded array.
    pieces = [
        x.squeeze(0).reshape(batch, rows, columns, -1) for x in lax.split(product, [1] * size**2)
    ]
    parts = _both_axes(_TO_PIXELS, [pieces[i : i + size] for i in range(0, size**2, size)])
    result = jnp.stack([jnp.stack(row, axis=3) for row in parts], axis=2)
    result = jnp.reshape(
        result,
        (batch, rows * _TILE, columns * _TILE, -1),
        out_sharding=with_rows_of(images, 4),
    )
    return result[:, :height, :width]


def _both_axes(matrix: np.ndarray, grid: list[list[chex.Array]]) -> list[list[chex.Array]]:
    """`M X M^T` for a grid X of arrays; sums over the few entries of M that are not 0."""
    columns = [_along(matrix, list(column)) for column in zip(*grid, strict=True)]
    return [_along(matrix, list(row)) for row in zip(*columns, strict=True)]


def _along(matrix: np.ndarray, xs: list[chex.Array]) -> list[chex.Array]:
    return [
        sum(float(factor) * x for factor, x in zip(row, xs, strict=True) if factor)
        for row in matrix
    ]


def _as_matrix_product(
    images: chex.Array,
    kernel: chex.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    precision: Any,
) -> chex.Array:
    """Patches `[B H' W', h w C]` times the kernel `[h w C, D]`."""
    height, width, _, features = kernel.shape
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    shifted = [
        _every(_every(images, top, height, strides[0], axis=1), left, width, strides[1], axis=2)
        for top in range(height)
        for left in range(width)
    ]
    patches = jnp.concatenate(shifted, axis=-1)
    product = lax.dot(
        patches.reshape(-1, patches.shape[-1]),
        kernel.reshape(-1, features),
        precision=precision,
    )
    return product.reshape(*patches.shape[:3], features)


def _every(x: chex.Array, first: int, size: int, stride: int, *, axis: int) -> chex.Array:
    """The pixels along an axis that element `first` of a kernel of `size` elements multiplies."""
    count = (x.shape[axis] - size) // stride + 1
    return lax.slice_in_dim(x, first, first + (count - 1) * stride + 1, stride, axis)
