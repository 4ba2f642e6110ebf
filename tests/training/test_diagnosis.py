"""Finding the operation behind a loss that is not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from didicm_jax import config as configuration
from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.models.variables import split
from didicm_jax.parallel import processes
from didicm_jax.training import objectives, state
from didicm_jax.training.diagnosis import diagnose
from didicm_jax.training.step import make_local_gradients


class Root(nnx.Module):
    """Its value is finite at 0, its derivative is not."""

    def __init__(self):
        self.offset = nnx.Param(jnp.zeros(()))
        self.norm = nnx.BatchNorm(1, axis_name=parallel.AXIS, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.norm(images.reshape(-1, 1))[:, 0] + square_root(self.offset[...])


def square_root(x):
    return jnp.sqrt(x)  # the line that is looked for


def prepared(images, offset):
    """A local step, the state before it and a batch; image 255 becomes a NaN."""
    model = Root()
    model.offset[...] = jnp.asarray(offset)
    graphdef, variables = split(model)
    mesh = parallel.make_mesh()
    current = jax.device_put(
        state.create(variables, optax.sgd(0.1), ema=False), parallel.replicated(mesh)
    )

    def prepare(keys, images, labels, index):
        return jnp.sqrt(200 - images.astype(jnp.float32)), labels

    objective = objectives.Classification(lambda logits, targets: logits)
    local = make_local_gradients(graphdef, objective, prepare, seed=0)
    batch = {
        "image": np.asarray(images, np.uint8).reshape(8, 1),
        "label": np.zeros(8, np.int32),
        "index": np.arange(8, dtype=np.int32),
    }
    return local, current, parallel.shard(batch, mesh)


def test_the_operation_is_in_the_traceback():
    with pytest.raises(FloatingPointError, match="infinity encountered in") as error:
        diagnose(*prepared(range(8), 0.0), step=7)
    assert "in step 7, examples 0 to 1 of the batch" in error.value.__notes__[-1]
    assert any(entry.name == "square_root" for entry in error.traceback)


def test_the_forward_pass_points_at_the_line():
    with pytest.raises(FloatingPointError) as error:
        diagnose(*prepared(range(8), -1.0), step=7)
    assert any(entry.name == "square_root" for entry in error.traceback)


def test_the_examples_are_named():
    images = np.arange(8)
    images[5] = 255
    with pytest.raises(FloatingPointError) as error:
        diagnose(*prepared(images, 1.0), step=7)
    assert "examples 4 to 5" in error.value.__notes__[-1]


def test_where_every_operation_is_finite_it_says_so():
    with pytest.raises(UserError, match="step 7: expected to find what was not finite"):
        diagnose(*prepared(range(8), 1.0), step=7)


class Scores(nnx.Module):
    """The same output for every image."""

    def __init__(self, offset):
        self.offset = nnx.Param(jnp.asarray(offset))

    def __call__(self, images):
        return jnp.broadcast_to(self.offset[...], (len(images), 4))

    def encode(self, images):
        return images

    def score(self, features, labels, sigma):
        return self(labels)

    output = score


def scoring(offset, settings, smoothing):
    """A local step of a loss of scores, the state before it and a batch."""

    def prepare(keys, images, labels, index):
        return images, (1 - smoothing) * jax.nn.one_hot(labels, 4) + smoothing / 4

    _, current, batch = prepared(range(8), 1.0)
    graphdef, variables = split(Scores(offset))
    variables = jax.device_put(variables, parallel.replicated(parallel.make_mesh()))
    config = configuration.default()
    config.update_from_flattened_dict(settings)
    local = make_local_gradients(graphdef, objectives.create(config), prepare, seed=0)
    return local, current._replace(variables=variables), batch


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"diffusion.loss": "cross_entropy"},
        {"method": "cross_entropy"},
        {"method": "cross_entropy", "diffusion.label_noise": 0.2},
        {"method": "binary_cross_entropy"},
    ],
    ids=["score entropy", "denoising", "softmax", "corrected", "binary"],
)
def test_honest_infinities_are_not_accused(settings, smoothing):
    """The logarithm of a hard label is one, and a maximum starts at one, in any finite step."""
    with pytest.raises(UserError, match="found every operation finite"):
        diagnose(*scoring(np.zeros(4, np.float32), settings, smoothing), step=7)


def test_a_score_that_overflows_is_found_where_it_does():
    """Its infinity comes first; the NaN of the gradient is its consequence."""
    offset = np.array([0, 0, 0, 100], np.float32)
    with pytest.raises(FloatingPointError, match="infinity encountered in exp") as error:
        diagnose(*scoring(offset, {}, 0.0), step=7)
    assert any(entry.name == "bregman" for entry in error.traceback)


def test_what_another_process_finds_is_not_said_to_be_nowhere(monkeypatch):
    monkeypatch.setattr(processes, "any_process", lambda found: True)
    with pytest.raises(UserError, match="on the images of this process; see what the process"):
        diagnose(*prepared(range(8), 1.0), step=7)
