import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import diffusion


@pytest.mark.parametrize("name", ["loglinear", "geometric"])
def test_golden(golden, x64, name):
    schedule = getattr(diffusion, name)()
    t = golden["schedule/t"]
    np.testing.assert_allclose(schedule.total(t), golden[f"schedule/{name}/sigma"], rtol=1e-5)
    np.testing.assert_allclose(schedule.rate(t), golden[f"schedule/{name}/dsigma"], rtol=1e-5)


@pytest.mark.parametrize(
    "schedule", [diffusion.loglinear(1e-2), diffusion.geometric(1e-2, 5.0)], ids=str
)
def test_the_rate_is_the_derivative_of_the_total(x64, schedule):
    t = jnp.linspace(0.0, 1.0, 33)
    np.testing.assert_allclose(schedule.rate(t), jax.vmap(jax.grad(schedule.total))(t), rtol=1e-12)


def test_loglinear_total_keeps_its_digits_near_zero():
    # -log(1 - 0.999e-6) in float64, by its series.
    x = 0.999e-6
    total = diffusion.loglinear().total(jnp.float32(1e-6))
    np.testing.assert_allclose(total, x + x**2 / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: diffusion.loglinear(0.0), "found 0.0"),
        (lambda: diffusion.loglinear(1.0), "found 1.0"),
        (lambda: diffusion.geometric(0.0, 1.0), "found 0.0 and 1.0"),
        (lambda: diffusion.geometric(2.0, 1.0), "found 2.0 and 1.0"),
    ],
)
def test_bad_arguments_are_named(make, found):
    with pytest.raises(ValueError, match=found):
        make()
