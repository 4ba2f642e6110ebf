"""What the programs of a run make of its settings."""

from dataclasses import replace
from types import SimpleNamespace

import digits as digits_config
import numpy as np
import pytest

from didicm_jax.errors import UserError
from didicm_jax.training import plan, programs


@pytest.fixture
def config():
    config = digits_config.get_config()
    config.method = "cross_entropy"
    config.model.update(name="vit_ti4", width=0.3333, depth=2, stem="didirn")
    return config


def text(config):
    """The step on four devices, before XLA has seen it."""
    run = plan.make_plan(config)
    made = programs.make_step(run)
    return made.lower(run.abstract_state(), programs.abstract_batch(run)).as_text()


def test_remat_reaches_the_blocks(config):
    """What is computed again stands behind a barrier, of each block one more."""
    config.train.accumulate = 2
    plain = text(config).count("optimization_barrier")
    config.train.remat = "blocks"
    assert text(config).count("optimization_barrier") >= plain + 2


@pytest.mark.parametrize(
    ("platform", "dtype", "modes"),
    [
        ("cuda", "bfloat16", {"attention": "cudnn"}),
        ("cuda", "float32", {}),
        ("tpu", "bfloat16", {}),
    ],
)
def test_cudnn_is_for_gpus_and_bfloat16_alone(config, platform, dtype, modes):
    """A run may move to other devices, and the setting stay."""
    run = plan.make_plan(config)
    config.model.update(dtype=dtype, attention="cudnn")
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    assert programs._modes(replace(run, mesh=mesh)) == modes


def test_a_run_may_have_one_step_and_no_warm_up(config):
    config.train.duration, config.optimizer.warmup = "1 step", "0 steps"
    run = plan.make_plan(config)
    assert (run.durations.total, run.durations.warmup) == (1, 0)
    np.testing.assert_allclose(run.learning_rate(0), config.optimizer.learning_rate)


def test_one_image_on_a_device_is_enough_without_a_variance_over_images(config):
    """On four devices: a ViT has no BatchNorm, and a shared one has the images of all of them."""
    config.train.batch_size = 4
    plan.make_plan(config)
    config.model = digits_config.get_config().model
    config.model.name = "resnet18"
    with pytest.raises(UserError, match="at least 2 images per device"):
        plan.make_plan(config)
    config.model.sync_batch_norm = True
    plan.make_plan(config)
