from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from didicm_jax.training import optimizers


@pytest.fixture(autouse=True)
def standard_promotion():
    """optax itself mixes integers and floats in its bias correction."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def timm():
    """Eight steps of timm's LAMB (golden/README.md)."""
    with np.load(Path(__file__).parents[1] / "golden" / "lamb.npz") as file:
        return dict(file)


def run(optimizer, params, grads):
    @jax.jit
    def step(params, state, grad):
        updates, state = optimizer.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    path = []
    for grad in grads:
        params, state = step(params, state, grad)
        path.append(params)
    return path


def test_lamb_is_timms(timm, x64):
    names = ("kernel", "conv", "bias", "scale")
    rates = jnp.asarray(timm["lr"])
    path = run(
        optimizers.lamb(lambda step: rates[step], weight_decay=0.01, clip_norm=1.0),
        {name: jnp.asarray(timm[f"init/{name}"]) for name in names},
        [{name: jnp.asarray(timm[f"grad/{step}/{name}"]) for name in names} for step in range(8)],
    )
    for step, params in enumerate(path):
        for name in names:
            np.testing.assert_allclose(
                params[name], timm[f"after/{step}/{name}"], rtol=1e-9, err_msg=name
            )


def test_lamb_without_decay_adapts_nothing(x64):
    """As timm with `always_adapt=False`: it is Adam then."""
    params = {"w": jnp.full((2, 2), 3.0), "b": jnp.ones(2)}
    grads = [{"w": jnp.full((2, 2), 0.1), "b": jnp.full(2, -0.1)}] * 2
    found = run(optimizers.lamb(0.1, weight_decay=0.0, clip_norm=0.0), params, grads)
    expected = run(optax.adam(0.1, eps=1e-6), params, grads)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_adamw_written_out(x64):
    """Loshchilov & Hutter, algorithm 2, with decay on the matrix alone."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(3, 2)), rng.normal(size=2)
    grads = [{"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(4)]
    path = run(
        optimizers.adamw(0.01, weight_decay=0.1, clip_norm=0.0),
        {"w": jnp.asarray(w), "b": jnp.asarray(b)},
        grads,
    )
    for name, value, decay in (("w", w, 0.1), ("b", b, 0.0)):
        m = v = 0.0
        for t, grad in enumerate(grads, 1):
            m, v = 0.9 * m + 0.1 * grad[name], 0.999 * v + 0.001 * grad[name] ** 2
            direction = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            value = value - 0.01 * (direction + decay * value)
            np.testing.assert_allclose(path[t - 1][name], value, rtol=1e-9)


def test_sgd_written_out(x64):
    """PyTorch's SGD with momentum 0.9, nesterov, coupled weight decay on the matrix alone."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(3, 2)), rng.normal(size=2)
    grads = [{"w": rng.normal(size=(3, 2)), "b": rng.normal(size=2)} for _ in range(4)]
    path = run(
        optimizers.sgd(0.1, weight_decay=0.05, clip_norm=0.0),
        {"w": jnp.asarray(w), "b": jnp.asarray(b)},
        grads,
    )
    for name, value, decay in (("w", w, 0.05), ("b", b, 0.0)):
        momentum = 0.0
        for t, grad in enumerate(grads):
            total = grad[name] + decay * value
            momentum = 0.9 * momentum + total
            value = value - 0.1 * (total + 0.9 * momentum)
            np.testing.assert_allclose(path[t][name], value, rtol=1e-12)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_the_global_norm_is_clipped(name, x64):
    """Gradients of norm 5 and of norm 50 in the same direction give the same steps."""
    params = {"w": jnp.ones((2, 1)), "b": jnp.ones(1)}
    small = {"w": jnp.asarray([[3.0], [0.0]]), "b": jnp.asarray([4.0])}
    large = jax.tree.map(lambda g: 10 * g, small)
    optimizer = optimizers.OPTIMIZERS[name](0.1, weight_decay=0.01, clip_norm=1.0)
    # Alternating, so that Adam's own invariance to scale does not do it.
    plain = run(optimizer, params, [small, jax.tree.map(jnp.negative, small)])
    mixed = run(optimizer, params, [small, jax.tree.map(jnp.negative, large)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), plain, mixed)
