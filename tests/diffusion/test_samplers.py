import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didicm_jax import diffusion

SCHEDULE = diffusion.loglinear()
KEY = jax.random.key(0)


def golden_score_fn(golden, group, k):
    """The score model that the golden trajectories were made with (golden/README.md)."""
    q0 = jax.nn.softmax(jnp.asarray(golden[f"cp/{k}/logits"]))
    wobble = 0.2 * jnp.asarray(golden[f"cp/{k}/w"])

    def score_fn(labels, sigma):
        keep = jnp.exp(-sigma)[:, None]
        m = jnp.log(keep * q0 + (1 - keep) / k) + wobble[None] * jnp.cos(sigma)[:, None]
        return m - jnp.take_along_axis(m, labels[:, None], axis=-1)

    return score_fn


@pytest.mark.parametrize("k", [4, 10, 250])
@pytest.mark.parametrize("query", ["min", "max"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_golden_cp(golden, x64, k, query, steps):
    sample = diffusion.sample_cp(
        golden_score_fn(golden, "cp", k),
        SCHEDULE,
        batch_size=5,
        num_classes=k,
        steps=steps,
        query=query,
        return_trajectory=True,
    )
    np.testing.assert_allclose(sample.trajectory, golden[f"cp/{k}/{query}/{steps}"], rtol=1e-5)
    np.testing.assert_array_equal(sample.trajectory[:, -1], sample.probs)


@pytest.mark.parametrize("k", [4, 10, 250])
def test_golden_cl(golden, x64, k):
    t, labels, step, u = (
        jnp.asarray(golden[f"cl/{k}/{name}"]) for name in ("t", "labels", "step", "u")
    )
    log_score = golden_score_fn(golden, "cl", k)(labels, SCHEDULE.total(t))
    row = diffusion.euler_cl_transition(labels, log_score, step * SCHEDULE.rate(t))
    np.testing.assert_allclose(row, golden[f"cl/{k}/transition"], rtol=1e-5)
    drawn = jnp.argmax(row / (1e-10 - jnp.log(u + 1e-10)), axis=-1)
    np.testing.assert_array_equal(drawn, golden[f"cl/{k}/next"])


def test_the_euler_step_is_the_full_reverse_rate_matrix(x64, posteriors, exact_score):
    """Against the K x K product that the original forms."""
    sigma = jnp.linspace(0.1, 3.0, 8)
    score_fn = exact_score(posteriors)
    p = jax.nn.softmax(jax.random.normal(jax.random.key(1), (8, 10)))
    matrix = np.zeros((8, 10, 10))
    reverse_rate = jax.jit(diffusion.reverse_rate)
    for j in range(10):
        labels = jnp.full(8, j)
        matrix[:, j] = reverse_rate(labels, jnp.exp(score_fn(labels, sigma)))
    step = np.linspace(0.01, 1.0, 8)
    expected = p + step[:, None] * np.einsum("bj,bji->bi", p, matrix)
    found = diffusion.euler_cp_step(p, score_fn(jnp.zeros(8, int), sigma), step)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([2, 3, 20]),
    st.floats(0.0, 1.0),
    st.floats(1e-4, 7.0),
    st.integers(0, 2**31 - 1),
)
def test_the_exact_step_lands_on_the_exact_marginal(k, share, sigma, seed):
    """For any step size; the sharpest q_0 included (alpha 0.05 has entries below 1e-30)."""
    with jax.enable_x64(True):
        q0 = jnp.asarray(np.random.default_rng(seed).dirichlet(np.full(k, 0.05), size=3))
        now, later = jnp.full(3, sigma), jnp.full(3, sigma * share)
        q = diffusion.marginal(q0, now)
        log_score = jnp.log(q) - jnp.log(q[:, :1])
        found = jax.jit(diffusion.exact_cp_step)(q, log_score, now, later)
        np.testing.assert_allclose(found, diffusion.marginal(q0, later), rtol=1e-7, atol=1e-12)


def test_the_exact_step_is_bayes_rule_for_any_p(x64, posteriors, exact_score):
    """P(c' = i | c = j) = q'_i T(i -> j) / q_j, enumerated, and averaged over p."""
    now, later = jnp.full(8, 2.0), jnp.full(8, 0.3)
    p = jax.nn.softmax(2 * jax.random.normal(jax.random.key(1), (8, 10)))
    q, q_next = (np.asarray(diffusion.marginal(posteriors, s)) for s in (now, later))
    forward = np.asarray(diffusion.transition(jnp.arange(10), jnp.full(10, 1.7), 10))
    bayes = q_next[:, None, :] * forward.T[None] / q[:, :, None]  # [B, j, i]
    np.testing.assert_allclose(bayes.sum(-1), 1.0, rtol=1e-10)
    found = diffusion.exact_cp_step(p, exact_score(posteriors)(jnp.zeros(8, int), now), now, later)
    np.testing.assert_allclose(found, np.einsum("bj,bji->bi", p, bayes), rtol=1e-8)


def test_cl_agrees_with_the_exact_posterior(posteriors, exact_score):
    chains = 1500
    sample = jax.jit(
        lambda key: diffusion.sample_cl(
            key,
            exact_score(posteriors),
            diffusion.loglinear(1e-4),
            batch_size=8,
            num_classes=10,
            steps=256,
            chains=chains,
        )
    )(jax.random.key(0))
    cp = diffusion.sample_cp(
        exact_score(posteriors), diffusion.loglinear(1e-4), batch_size=8, num_classes=10, steps=256
    )
    assert sample.labels.shape == (8, chains)
    counts = np.stack([np.bincount(row, minlength=10) for row in np.asarray(sample.labels)])
    np.testing.assert_allclose(sample.probs, counts / chains, atol=1e-6)
    # Five standard deviations of a frequency, and the discretisation that CP shares.
    tolerance = 5 * np.sqrt(np.asarray(posteriors) / chains) + 0.01
    assert (np.abs(sample.probs - posteriors) < tolerance).all()
    assert (np.abs(sample.probs - cp.probs) < tolerance).all()


def test_cl_chains_are_one_batch_over_shared_features():
    """The score function is traced for [B] labels and called for all chains at once."""
    shapes = []

    def score_fn(labels, sigma):
        shapes.append(labels.shape)
        return jnp.zeros((3, 5))

    diffusion.sample_cl(
        jax.random.key(0), score_fn, SCHEDULE, batch_size=3, num_classes=5, steps=6, chains=7
    )
    assert set(shapes) == {(3,)}
    assert len(shapes) <= 2  # eval_shape and the scan's body, not one call a chain or a step


@pytest.mark.parametrize("time", [1e-4, 0.1, 0.6, 1.0])
def test_one_shot_is_exact_for_an_exact_score(x64, posteriors, exact_score, time):
    probs = diffusion.one_shot(
        exact_score(posteriors), SCHEDULE, batch_size=8, num_classes=10, time=time
    )
    np.testing.assert_allclose(probs, posteriors, rtol=1e-5)


def test_random_queries_follow_p():
    """A coarse Euler step puts all mass on one class; every later query is that class."""
    asked = []
    table = 60.0 * jnp.eye(10)[:4]

    def score_fn(labels, sigma):
        jax.debug.callback(lambda x: asked.append(np.asarray(x)), labels, ordered=True)
        return table - jnp.take_along_axis(table, labels[:, None], axis=-1)

    diffusion.sample_cp(
        score_fn,
        SCHEDULE,
        batch_size=4,
        num_classes=10,
        steps=3,
        query="random",
        key=jax.random.key(0),
    )
    jax.effects_barrier()
    assert (asked[0] != np.arange(4)).any()
    np.testing.assert_array_equal(np.stack(asked[1:]), np.tile(np.arange(4), (2, 1)))


@pytest.mark.parametrize("query", ["min", "max"])
def test_queries_ask_about_the_extreme_class(posteriors, exact_score, query):
    trace = []
    path = diffusion.sample_cp(
        lambda c, s: (
            jax.debug.callback(lambda x: trace.append(np.asarray(x)), c, ordered=True),
            exact_score(posteriors)(c, s),
        )[1],
        SCHEDULE,
        batch_size=8,
        num_classes=10,
        steps=4,
        query=query,
        return_trajectory=True,
    ).trajectory
    jax.effects_barrier()
    extreme = {"min": np.argmin, "max": np.argmax}[query]
    np.testing.assert_array_equal(np.stack(trace, 1), extreme(path[:, :-1], axis=-1))


@pytest.mark.parametrize("k", [2, 100_000])
@pytest.mark.parametrize("kind", ["one_hot", "uniform"])
@pytest.mark.parametrize("spread", [0.0, 80.0])
def test_extremes_are_finite(k, kind, spread):
    """Log-scores of +-80, sharp and flat p, the smallest noise: finite values and gradients."""
    p = jnp.eye(1, k) if kind == "one_hot" else jnp.full((1, k), 1 / k)
    log_score = jnp.where(jnp.arange(k)[None] % 2 == 0, spread, -spread).astype(jnp.float32)
    for sigma in (1e-6, 6.9):
        now = jnp.full(1, sigma)

        @jax.jit
        def total(x, now=now):
            euler = diffusion.euler_cp_step(p, x, 1e3)
            exact = diffusion.exact_cp_step(p, x, now, now / 2)
            clean = diffusion.denoise(x, now)
            row = diffusion.euler_cl_transition(jnp.zeros(1, int), x, 1e3)
            weight = jnp.cos(jnp.arange(k, dtype=jnp.float32))[None] / k
            return jnp.stack([(weight * y).sum() for y in (euler, exact, clean, row)])

        values, grads = total(log_score), jax.jit(jax.jacrev(total))(log_score)
        assert np.isfinite(values).all()
        assert np.isfinite(grads).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, found 0"),
        ({"min_time": 1.0}, "min_time: expected 0 <= min_time < 1, found 1.0"),
        ({"query": "median"}, "query: expected 'min', 'max' or 'random', found 'median'"),
        ({"query": "random"}, "expected a key, found None"),
        ({"integrator": "heunn"}, "integrator: expected"),
        ({"grid": "cosine"}, "grid: expected one of .* found 'cosine'"),
        (
            {"integrator": "exact", "grid": "original"},
            "grid: expected one of .'linear'. with integrator='exact', found 'original'; leave it",
        ),
        ({"integrator": "heun", "grid": "original"}, "with integrator='heun', found 'original'"),
    ],
)
def test_bad_arguments_are_named(change, message, posteriors, exact_score):
    arguments = {"batch_size": 8, "num_classes": 10, "steps": 2} | change
    with pytest.raises(ValueError, match=message):
        diffusion.sample_cp(exact_score(posteriors), SCHEDULE, **arguments)


def test_a_score_of_the_wrong_shape_is_refused():
    with pytest.raises(AssertionError, match="shape"):
        diffusion.sample_cp(
            lambda c, s: jnp.zeros((4, 9)), SCHEDULE, batch_size=4, num_classes=10, steps=2
        )


def test_bad_cl_and_one_shot_arguments_are_named(posteriors, exact_score):
    score_fn = exact_score(posteriors)
    with pytest.raises(ValueError, match="chains: expected at least 1, found 0"):
        diffusion.sample_cl(
            jax.random.key(0), score_fn, SCHEDULE, batch_size=8, num_classes=10, steps=1, chains=0
        )
    with pytest.raises(ValueError, match="time: expected 0 < time <= 1, found 0"):
        diffusion.one_shot(score_fn, SCHEDULE, batch_size=8, num_classes=10, time=0)


@pytest.mark.parametrize("tolerance", [0.0, 1e-6], ids=["all steps", "until still"])
def test_cp_asks_about_the_views_by_turns(posteriors, exact_score, tolerance):
    """What the score function is told at each of seven steps, three views going round."""
    told = []

    def score_fn(labels, sigma, view):
        jax.debug.callback(lambda *x: told.append([float(each) for each in x]), sigma[0], view)
        return exact_score(posteriors)(labels, sigma)

    diffusion.sample_cp(
        score_fn,
        SCHEDULE,
        batch_size=8,
        num_classes=10,
        steps=7,
        integrator="exact",
        views=3,
        tolerance=tolerance,
    )
    jax.effects_barrier()
    by_noise = [view for _, view in sorted(told, reverse=True)]
    assert by_noise == [0, 1, 2, 0, 1, 2, 0][: len(by_noise)]
    assert len(by_noise) >= 2


@pytest.mark.parametrize("views", [0, 5])
def test_views_are_one_to_as_many_as_steps(views, posteriors, exact_score):
    size = {"batch_size": 8, "num_classes": 10, "steps": 4, "views": views}
    score_fn = exact_score(posteriors)
    for sample in (diffusion.sample_cp, lambda *args, **kw: diffusion.sample_cl(KEY, *args, **kw)):
        with pytest.raises(ValueError, match=f"views: expected 1 to 4, .*, found {views}"):
            sample(score_fn, SCHEDULE, **size)
