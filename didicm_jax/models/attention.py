"""Softmax attention whose gradient needs no float32 array of the size of its probabilities.

Shape symbols: `B` images, `N` tokens, `T` heads, `D` their width.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from didicm_jax.models.float32_layers import widened


@jax.custom_vjp
def attend(queries: chex.Array, keys: chex.Array, values: chex.Array) -> chex.Array:
    """`softmax(queries keys^T / sqrt(D)) values`, the softmax in float32.

    Between the passes it keeps what it was given and the exponentials, in their own type: in
    bfloat16 half of what the derivative of `jax.nn.dot_product_attention` keeps, and so written
    that XLA makes each product and the softmax behind it one kernel on TPUs.

    Args:
      queries: `[B, N, T, D]`; keys and values are of this shape too.

    Returns:
      `[B, N, T, D]`, in their type.
    """
    return _attend(queries, keys, values)[0]


def _attend(queries: chex.Array, keys: chex.Array, values: chex.Array) -> tuple[chex.Array, Any]:
    # With heads of 64 channels the scale is a power of 2: nothing is rounded here.
    queries = queries * queries.shape[-1] ** -0.5
    scores = _product("bqtd,bktd->btqk", queries, keys)
    shifted = jnp.exp(scores - scores.max(-1, keepdims=True)).astype(values.dtype)
    # Of the rounded exponentials, so that the weights of the values sum to 1.
    total = widened(shifted).sum(-1)
    mixed = _product("btqk,bktd->bqtd", shifted, values) / _by_query(total)
    return mixed.astype(values.dtype), (queries, keys, values, shifted, total)


def _gradient(kept: Any, cotangent: chex.Array) -> tuple[chex.Array, ...]:
    queries, keys, values, shifted, total = kept
    dtype = values.dtype
    cotangent = (widened(cotangent) / _by_query(total)).astype(dtype)
    d_values = jnp.einsum("btqk,bqtd->bktd", shifted, cotangent)
    # Not from the result, as in FlashAttention: XLA then lays the products out with a copy of each.
    d_weights = widened(jnp.einsum("bqtd,bktd->btqk", cotangent, values))
    mean = (widened(shifted) * d_weights).sum(-1) / total
    d_scores = (widened(shifted) * (d_weights - mean[..., None])).astype(dtype)
    d_queries = jnp.einsum("btqk,bktd->bqtd", d_scores, keys) * queries.shape[-1] ** -0.5
    d_keys = jnp.einsum("btqk,bqtd->bktd", d_scores, queries)
    return d_queries, d_keys, d_values


attend.defvjp(_attend, _gradient)


def _product(subscripts: str, left: chex.Array, right: chex.Array) -> chex.Array:
    """The product as it is summed: in float32 at least."""
    wide = jnp.float32 if left.dtype.itemsize < 4 else left.dtype
    return jnp.einsum(subscripts, left, right, preferred_element_type=wide)


def _by_query(x: chex.Array) -> chex.Array:
    """`[B, T, N]` to what can be multiplied with `[B, N, T, D]`."""
    return x.swapaxes(1, 2)[..., None]


def attend_by_cudnn(queries: chex.Array, keys: chex.Array, values: chex.Array) -> chex.Array:
    """`attend` in one kernel of cuDNN, which writes no probabilities: bfloat16, on NVIDIA's GPUs.

    A program with it runs nowhere else, and `jax.export` refuses it.
    """
    attended: chex.Array = jax.nn.dot_product_attention(
        queries, keys, values, implementation="cudnn"
    )
    return attended
