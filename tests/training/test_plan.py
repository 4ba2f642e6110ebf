"""What processes must have in common before the first of them waits for another."""

import contextlib
from dataclasses import replace

import digits as digits_config
import numpy as np
import pytest
from flax import nnx

from didicm_jax import data, models
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.parallel import processes
from didicm_jax.training import plan


@pytest.fixture
def config():
    config = digits_config.get_config()
    config.data.train_examples = 200
    config.train.batch_size = 16
    return config


@pytest.fixture
def beside(monkeypatch):
    """Makes a plan beside a process that has made one by another config."""
    alone, rows = processes.gather, []

    def kept(values):
        if values.dtype == np.uint64:
            rows.append(values)
        return alone(values)

    def both(values):
        return np.concatenate([values, rows[0]]) if values.dtype == np.uint64 else alone(values)

    def make(config, other):
        monkeypatch.setattr(processes, "gather", kept)
        with contextlib.suppress(UserError):  # of what it starts from
            plan.make_plan(other)
        monkeypatch.setattr(processes, "gather", both)
        return plan.make_plan(config)

    return make


def test_a_batch_of_more_images_than_there_may_be_is_advised_on_that_condition(config):
    """With many micro-batches it would be refused for the 200 images of these data."""
    config.train.accumulate = 250
    with pytest.raises(UserError) as error:
        plan.check(config, 4)
    assert str(error.value).endswith(
        "config.train.batch_size=2000 where there are as many training images"
    )
    config.train.batch_size = 2000
    plan.check(config, 4)
    with pytest.raises(UserError, match="expected at most the 200 training images, found 2000"):
        plan.make_plan(config)


def test_processes_of_other_settings_do_not_train_one_run(config, beside):
    """Each trained a network of its own, and process 0 alone wrote what it had been told."""
    other = config.copy_and_resolve_references()
    other.seed, other.optimizer.learning_rate = 1, 0.5
    names = r"config.optimizer.learning_rate, config.seed, the training images; start all of them"
    with pytest.raises(UserError, match=names):
        beside(config, other)


def test_a_process_without_weights_to_start_from_does_not_leave_those_with_them_waiting(
    config, beside
):
    other = config.copy_and_resolve_references()
    other.model.init_from = "/nowhere"
    with pytest.raises(UserError, match="differ in whether"):
        beside(config, other)


def test_processes_of_other_images_do_not_train_one_run(config, beside, monkeypatch):
    """Of the same classes, in a folder of the same name on each host."""
    opened, versions = build.dataset, iter([200, 190])

    def dataset(config):
        config = config.copy_and_resolve_references()
        config.data.train_examples = next(versions)
        return opened(config)

    monkeypatch.setattr(build, "dataset", dataset)
    with pytest.raises(UserError, match="they differ in the training images; start"):
        beside(config, config)


def test_a_file_that_one_process_lacks_does_not_leave_the_others_waiting(config, told, monkeypatch):
    """A shard of stored images is missed when their digest is taken."""

    def digest(self, indices=None):
        raise FileNotFoundError(2, "No such file or directory", "train-00007-of-00008")

    monkeypatch.setattr(data.ArraySource, "digest", digest)
    with pytest.raises(FileNotFoundError):
        plan.make_plan(config)
    assert told == [True]


def test_a_network_without_blocks_has_none_to_compute_again(config, monkeypatch):
    """Flax said so itself, in no line, when the run had begun."""

    def linear(options, *, num_classes, image_size, rngs):
        return nnx.Linear(image_size[0], num_classes, rngs=rngs)

    entry = models.MODELS["resnet18"]._replace(build=linear)
    monkeypatch.setitem(models.MODELS, "resnet18", entry)
    config.method, config.model.name = "cross_entropy", "resnet18"
    plan.make_plan(config)
    config.train.remat = "blocks"
    with pytest.raises(UserError, match=r"config.train.remat: expected none, .* found 'blocks'"):
        plan.make_plan(config)


def test_the_folders_of_the_data_are_each_hosts_own(config):
    other = config.copy_and_resolve_references()
    other.data.update(data_dir="/elsewhere", num_workers=7, cache_gib=2.0)
    made = plan.make_plan(config)
    assert plan._facts(replace(made, config=other)) == plan._facts(made)


def test_the_learning_rate_warms_up_then_follows_a_cosine_to_zero(config):
    config.train.duration = "110 steps"
    config.optimizer.update(learning_rate=1.0, warmup="10 steps", warmup_learning_rate=0.1)
    rate = plan.make_plan(config).learning_rate
    middle = 0.5 * (1 + np.cos(np.pi / 4))
    found = [rate(step) for step in (0, 5, 10, 35, 110)]
    np.testing.assert_allclose(found, [0.1, 0.55, 1.0, middle, 0.0], rtol=1e-5, atol=1e-7)
    config.train.duration = "100 steps"
    config.optimizer.update(warmup="0 steps", warmup_learning_rate=1e-5)  # which nothing reads
    rate = plan.make_plan(config).learning_rate
    found = [rate(step) for step in (0, 25, 100)]
    np.testing.assert_allclose(found, [1.0, middle, 0.0], rtol=1e-5, atol=1e-7)
