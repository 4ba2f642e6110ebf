"""The kernels under every transformation that other JAX code may put them in."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from didicm_jax import diffusion
from tests.diffusion.conftest import WALKS

SCHEDULE = diffusion.loglinear()
TIME = np.linspace(0.05, 1.0, 8)


def times(x):
    """A time, or a noise, per example of x [B, K]."""
    return jnp.asarray(TIME[: len(x)], x.dtype)


def score_with(theta):
    """A score function closed over per-example parameters theta [B, K]."""

    def score_fn(labels, sigma):
        level = theta * jnp.exp(-sigma)[..., None]
        return level - jnp.take_along_axis(level, labels[..., None], axis=-1)

    return score_fn


def run_cp(theta, **options):
    batch, k = theta.shape
    return diffusion.sample_cp(
        score_with(theta), SCHEDULE, batch_size=batch, num_classes=k, steps=3, **options
    ).probs


# Every kernel as a function of one batched array, theta [B, K], deterministic given it.
KERNELS = {
    "marginal": lambda x: diffusion.marginal(jax.nn.softmax(x), times(x)),
    "transition": lambda x: diffusion.transition(jnp.argmax(x, -1), times(x), 10),
    "reverse_rate": lambda x: diffusion.reverse_rate(jnp.argmax(x, -1), jnp.exp(x)),
    "loss": lambda x: diffusion.weighted_score_entropy(
        x, jax.nn.softmax(x), jnp.argmax(x, -1), times(x), SCHEDULE
    ),
    "euler_cp_step": lambda x: diffusion.euler_cp_step(jax.nn.softmax(-x), x, 0.1),
    "exact_cp_step": lambda x: diffusion.exact_cp_step(
        jax.nn.softmax(-x), x, times(x), times(x) / 2
    ),
    **{
        f"sample_cp_{name}_{grid}": partial(run_cp, integrator=name, grid=grid)
        for name, grid in WALKS
    },
    "one_shot": lambda x: diffusion.one_shot(
        score_with(x), SCHEDULE, batch_size=len(x), num_classes=10, time=0.5
    ),
}


@pytest.fixture
def theta():
    return jax.random.normal(jax.random.key(0), (8, 10))


class TestVariants(chex.TestCase):
    @chex.all_variants
    def test_every_variant_agrees_with_eager(self):
        theta = jax.random.normal(jax.random.key(0), (8, 10))
        for name, kernel in KERNELS.items():
            with self.subTest(name):
                found = self.variant(kernel)(theta)
                np.testing.assert_allclose(found, kernel(theta), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_vmap(name, theta):
    kernel = KERNELS[name]
    stacked = jnp.stack([theta, theta[::-1] * 2])
    found = jax.vmap(kernel)(stacked)
    for i in range(2):
        np.testing.assert_allclose(found[i], kernel(stacked[i]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_scan(name, theta):
    kernel = KERNELS[name]
    _, found = jax.lax.scan(lambda c, x: (c, kernel(x)), None, jnp.stack([theta, -theta]))
    np.testing.assert_allclose(found[1], kernel(-theta), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in KERNELS if n not in ("transition", "reverse_rate")])
def test_gradients_agree_with_finite_differences(name, theta, x64):
    kernel = KERNELS[name]
    theta = 0.3 * theta.astype(jnp.float64)
    weight = jnp.cos(jnp.arange(kernel(theta).size, dtype=jnp.float64)).reshape(kernel(theta).shape)
    jax.test_util.check_grads(
        jax.jit(lambda x: (weight * kernel(x)).sum()), (theta,), order=1, modes=["rev"], rtol=1e-3
    )


def mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize("name", [n for n in KERNELS if "sample" in n or n == "one_shot"])
def test_shard_map_over_four_devices(name, theta):
    """Each device diffuses its own images; no axis check is switched off."""
    spec = PartitionSpec("data")
    mapped = jax.shard_map(KERNELS[name], mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(mapped)(theta), KERNELS[name](theta), rtol=1e-5, atol=1e-6)


def on_features(kernel, **options):
    """A kernel of a key and of features that lie on several devices, as a function of the two."""

    def run(key, x):
        options["batch_size"], options["num_classes"] = x.shape
        return kernel(key, score_with(x), SCHEDULE, **options)

    return run


def cp(key, score_fn, schedule, **options):
    return diffusion.sample_cp(score_fn, schedule, key=key, return_trajectory=True, **options)


def loss(key, x, draws=1):
    repeated = jnp.broadcast_to(x[:, None], (len(x), draws, x.shape[1])).reshape(-1, x.shape[1])
    return diffusion.didicm_loss(
        key, score_with(repeated), jax.nn.softmax(x), SCHEDULE, draws_per_image=draws
    )


EXPLICIT = {
    "loss": loss,
    "loss of three draws": partial(loss, draws=3),
    "its gradient": jax.grad(lambda x, key: loss(key, x).sum()),
    "cl": on_features(diffusion.sample_cl, steps=2, chains=3),
    "cp, random": on_features(cp, steps=3, query="random", integrator="heun"),
    "cp, exact": on_features(cp, steps=3, integrator="exact"),
    "cp, until still": on_features(cp, steps=3, tolerance=0.2),
}


@pytest.mark.parametrize("name", EXPLICIT)
def test_on_a_mesh_of_explicit_axes_results_lie_where_the_features_do(name, theta):
    """What `jax.make_mesh` makes unless it is told otherwise: nothing is moved in silence."""
    arguments = (theta, jax.random.key(0)) if "gradient" in name else (jax.random.key(0), theta)
    expected = jax.tree.leaves(jax.jit(EXPLICIT[name])(*arguments))
    with jax.set_mesh(jax.make_mesh((4,), ("data",))):
        spread = [jax.device_put(x, PartitionSpec("data")) if x is theta else x for x in arguments]
        found = jax.tree.leaves(jax.jit(EXPLICIT[name])(*spread))
    for one, other in zip(found, expected, strict=True):
        assert one.sharding.spec[0] == "data"
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_stochastic_kernels_under_pmap_and_shard_map(theta):
    def cl(key, x):
        return diffusion.sample_cl(
            key, score_with(x), SCHEDULE, batch_size=2, num_classes=10, steps=2, chains=3
        ).probs

    def loss(key, x):
        return diffusion.didicm_loss(key, score_with(x), jax.nn.softmax(x), SCHEDULE)

    keys = jax.random.split(jax.random.key(0), 4)
    shards = theta.reshape(4, 2, 10)
    for kernel in (cl, loss):
        alone = jax.jit(kernel)
        expected = jnp.stack([alone(keys[i], shards[i]) for i in range(4)])
        found = jax.pmap(kernel)(keys, shards)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        spec = PartitionSpec("data")
        mapped = jax.shard_map(
            lambda k, x, kernel=kernel: kernel(k[0], x[0])[None],
            mesh=mesh(),
            in_specs=spec,
            out_specs=spec,
        )
        np.testing.assert_allclose(jax.jit(mapped)(keys, shards), expected, rtol=1e-5)


def test_stochastic_kernels_where_jax_has_64_bits(theta, x64):
    """Single and double precision alike, without a promotion between them: tracing finds one."""
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(0), 8)
    for dtype in (jnp.float32, jnp.float64):
        x = theta.astype(dtype)
        probs = jax.nn.softmax(x)
        labels = jax.eval_shape(diffusion.sample_marginal, key, probs, times(x))
        assert labels.dtype == jnp.int32

        def score_fn(labels, sigma, x=x, dtype=dtype):
            return score_with(x)(labels, sigma.astype(dtype))

        for loss in ("score_entropy", "cross_entropy"):

            def at_times(keys, probs, time, score_fn=score_fn, loss=loss):
                return diffusion.loss_at_times(keys, score_fn, probs, time, SCHEDULE, loss)

            found = jax.eval_shape(at_times, keys, probs, times(x)[:, None])
            assert found.dtype == dtype, loss
        for draws in (1, 3):

            def drawn(key, probs, x=x, draws=draws):
                score_fn = score_with(jnp.repeat(x, draws, axis=0))
                return diffusion.didicm_loss(key, score_fn, probs, SCHEDULE, draws_per_image=draws)

            assert jax.eval_shape(drawn, key, probs).dtype == dtype
    found = diffusion.sample_cp(
        score_with(theta.astype(jnp.float64)),
        SCHEDULE,
        batch_size=8,
        num_classes=10,
        steps=3,
        tolerance=0.1,
        return_trajectory=True,
    )
    assert np.isfinite(found.trajectory).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_targets_and_noise_lose_no_digits(theta, dtype):
    """As the same numbers in float32."""
    labels = jnp.argmax(theta, -1)
    narrow = jax.nn.softmax(-theta).astype(dtype), jnp.full(8, 0.5, dtype)
    wide = tuple(each.astype(jnp.float32) for each in narrow)
    kernels = (
        lambda probs, sigma: diffusion.log_ratio(probs, sigma, labels),
        lambda probs, sigma: diffusion.denoising_cross_entropy(theta, probs, labels, sigma),
        lambda probs, sigma: diffusion.sample_marginal(jax.random.key(0), probs, sigma),
    )
    for kernel in kernels:
        np.testing.assert_array_equal(kernel(*narrow), kernel(*wide))


def test_labels_of_any_integer_type_are_found_among_many_classes():
    """In uint8 a count of 300 classes began again at 256: label 3 was 259 too."""
    found = diffusion.transition(jnp.array([3], jnp.uint8), jnp.zeros(1), 300)
    np.testing.assert_array_equal(found[0], np.eye(300)[3])


def test_the_loss_differentiates_through_a_network_under_jit():
    def total(w, key):
        score_fn = lambda c, s: jnp.tanh(jnp.ones((8, 4)) @ w) * s[:, None]  # noqa: E731
        return diffusion.didicm_loss(key, score_fn, jnp.eye(10)[:8], SCHEDULE).mean()

    grad = jax.jit(jax.grad(total))(jnp.full((4, 10), 0.01), jax.random.key(0))
    assert np.isfinite(grad).all()
    assert (grad != 0).all()


def test_samplers_compile_once():
    traces = []

    @jax.jit
    def run(x):
        traces.append(1)
        return run_cp(x)

    for i in range(3):
        run(jnp.full((8, 10), float(i)))
    assert len(traces) == 1


def test_no_matrix_over_pairs_of_classes_is_formed():
    """O(K) memory: the compiled sampler holds a few [B, K] arrays, nowhere near [B, K, K]."""
    batch, k = 4, 5000
    compiled = jax.jit(run_cp).lower(jnp.zeros((batch, k))).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * batch * k * 4
