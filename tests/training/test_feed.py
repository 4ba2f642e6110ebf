import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import data, parallel
from didicm_jax.training.feed import Feed


class Slow(data.ArraySource):
    """A source whose batches take as long as it is told."""

    seconds = 0.0

    def batch(self, indices, draws=None):
        time.sleep(self.seconds)
        return super().batch(indices)


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    return Slow(rng.integers(0, 255, (64, 2, 2, 1)).astype(np.uint8), np.arange(64) % 5)


def feed_of(source, **options):
    settings = {"batch_size": 8, "seed": 1, "repeats": 1, "step": 0} | options
    return Feed(source, parallel.make_mesh(), **settings)


def test_batches_are_those_of_the_steps_sharded_over_the_devices(source):
    feed = feed_of(source, step=3, repeats=2)
    for step in (3, 4):
        found = feed.take()
        expected = data.train_batch(source, step=step, batch_size=8, seed=1, repeats=2)
        np.testing.assert_array_equal(found["image"], expected["image"])
        np.testing.assert_array_equal(found["label"], expected["label"])
        np.testing.assert_array_equal(found["index"], expected["index"])
        assert len(found["image"].addressable_shards) == jax.device_count()
        assert found["image"].addressable_shards[0].data.shape == (2, 2, 2, 1)
    feed.close()


def test_waiting_counts_only_while_the_devices_are_idle(source):
    feed = feed_of(source)
    done = jax.block_until_ready(jnp.zeros(3))
    feed.take()
    assert feed.waited == 0.0, "nothing was running: nothing waited"
    # Enough slow batches that those made ahead are used up.
    source.seconds = 0.05
    for _ in range(12):
        feed.take(running=done)
    assert feed.waited > 0.1
    before = feed.waited

    class Busy:
        def is_ready(self):
            return False

    for _ in range(4):
        feed.take(running=[Busy()])
    assert feed.waited == before
    feed.close()


def test_closing_ends_the_threads(source):
    before = threading.active_count()
    feed = feed_of(source)
    feed.take()
    feed.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
