"""The order: each epoch once, disjoint processes, any step directly, a padded evaluation."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from didicm_jax import data
from didicm_jax.errors import UserError


def source_of(count):
    labels = np.arange(count) % 3
    return data.ArraySource((np.arange(count) % 256).astype(np.uint8)[:, None, None, None], labels)


def indices_of(count, **options):
    """Which of `count` examples a training batch holds."""
    return data.train_batch(source_of(count), **options)["index"]


def take(batches, count):
    result = [next(batches) for _ in range(count)]
    batches.close()
    return result


shapes = st.integers(1, 50).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(0, 2**40))
)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, epochs=st.integers(1, 3))
def test_each_epoch_holds_every_example_once(shape, epochs):
    size, batch_size, seed = shape
    steps = -(-size * epochs // batch_size)
    order = np.concatenate(
        [indices_of(size, step=n, batch_size=batch_size, seed=seed) for n in range(steps)]
    )
    for epoch in range(epochs):
        assert sorted(order[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(
    share=st.integers(1, 8),
    processes=st.integers(1, 4),
    extra=st.integers(0, 30),
    step=st.integers(0, 10**9),
    seed=st.integers(0, 2**40),
)
def test_the_shares_make_up_the_global_batch_whatever_the_processes(
    share, processes, extra, step, seed
):
    batch_size = share * processes
    size = batch_size + extra
    options = {"step": step, "batch_size": batch_size, "seed": seed}
    shares = [
        indices_of(size, process_index=p, process_count=processes, **options)
        for p in range(processes)
    ]
    assert all(len(part) == share for part in shares)
    np.testing.assert_array_equal(np.concatenate(shares), indices_of(size, **options))


def test_the_order_is_the_documented_one():
    """Against a plain list of shuffled epochs, drawn from NumPy's frozen stream."""
    order = []
    for epoch in range(4):
        bits = np.random.MT19937(np.random.SeedSequence([7, epoch]))
        order.extend(np.random.RandomState(bits).permutation(10))
    for step in range(10):
        indices = indices_of(10, step=step, batch_size=4, seed=7)
        assert indices.tolist() == order[4 * step : 4 * step + 4]
        assert indices.dtype == np.int64


def test_epochs_and_seeds_are_shuffled_anew():
    epochs = [indices_of(100, step=n, batch_size=100, seed=0) for n in range(2)]
    other = indices_of(100, step=0, batch_size=100, seed=1)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], other)
    assert not np.array_equal(epochs[0], np.arange(100))


@pytest.mark.parametrize("num_threads", [0, 2])
def test_batches_from_step_n_are_those_of_a_fresh_run_after_n(num_threads):
    source = source_of(53)
    options = {"batch_size": 8, "seed": 3, "process_index": 1, "process_count": 2}
    whole = take(data.train_batches(source, num_threads=num_threads, **options), 20)
    later = take(data.train_batches(source, start_step=13, **options), 7)
    for step, batch in enumerate(later, start=13):
        direct = data.train_batch(source, step=step, **options)
        for key in ("image", "label", "index"):
            np.testing.assert_array_equal(batch[key], whole[step][key])
            np.testing.assert_array_equal(batch[key], direct[key])


def test_a_batch_holds_the_examples_it_names():
    source = source_of(40)
    batch = data.train_batch(source, step=5, batch_size=16, seed=0)
    assert batch["image"].shape == (16, 1, 1, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["label"], batch["index"] % 3)


def test_batch_n_reads_only_its_own_examples():
    """Starting late costs the same: one call of the source, and no other epoch is drawn."""

    class Counting(data.ArraySource):
        calls = 0

        def batch(self, indices, draws=None):
            Counting.calls += 1
            return super().batch(indices, draws)

    source = Counting(np.zeros((1000, 1, 1, 1), np.uint8), np.zeros(1000, int))
    start = time.perf_counter()
    data.train_batch(source, step=10**12, batch_size=10, seed=0)
    assert Counting.calls == 1
    # A walk over 10^12 batches would take days.
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, "one batch of 11 training images, found 10 images"),
        ({"batch_size": 8, "process_count": 3}, "the 3 processes divide evenly, found 8"),
        ({"batch_size": 0}, "found 0"),
        ({"batch_size": 2, "seed": -1}, "seed of 0 or more, found -1"),
    ],
)
def test_impossible_batches_are_named_at_once(options, message):
    options = {"seed": 0, **options}
    with pytest.raises(UserError, match=message):
        data.train_batches(source_of(10), **options)
    with pytest.raises(UserError, match=message):
        data.train_batch(source_of(10), step=0, **options)


def test_eval_needs_a_batch_that_the_processes_divide():
    with pytest.raises(UserError, match="the 2 processes divide evenly, found 7"):
        data.eval_batches(source_of(10), batch_size=7, process_count=2)
    with pytest.raises(ValueError, match="process index"):
        data.eval_batches(source_of(10), batch_size=8, process_count=2, process_index=2)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 60), share=st.integers(1, 20), processes=st.integers(1, 4))
def test_evaluation_sees_every_example_once_and_in_order(size, share, processes):
    source, batch_size = source_of(size), share * processes
    parts = [
        list(
            data.eval_batches(
                source,
                batch_size=batch_size,
                process_index=p,
                process_count=processes,
                num_threads=0,
            )
        )
        for p in range(processes)
    ]
    steps = data.num_eval_batches(size, batch_size)
    assert all(len(part) == steps for part in parts)
    seen = []
    for step in range(steps):
        for part in parts:
            batch = part[step]
            assert all(len(value) == share for value in batch.values())
            assert batch["valid"].dtype == np.bool_
            assert batch["label"].max() < 3  # Padding is an example like any other.
            seen.extend(batch["index"][batch["valid"]])
            np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    assert seen == list(range(size))


def test_evaluation_of_some_examples_alone():
    """In the order they are asked for, by their places among all."""
    only, shares = np.array([7, 2, 9]), []
    for process in range(2):
        batches = data.eval_batches(
            source_of(10), batch_size=2, process_index=process, process_count=2, only=only
        )
        shares.append(take(batches, 2))
    rows = [share[step] for step in range(2) for share in shares]
    assert [int(row["index"][0]) for row in rows] == [7, 2, 9, 9]
    assert [bool(row["valid"][0]) for row in rows] == [True, True, True, False]


def test_threaded_evaluation_is_the_same():
    source = source_of(50)
    quiet = list(data.eval_batches(source, batch_size=8, num_threads=0))
    threaded = list(data.eval_batches(source, batch_size=8, num_threads=3))
    assert len(quiet) == len(threaded) == 7
    for one, other in zip(quiet, threaded, strict=True):
        np.testing.assert_array_equal(one["index"], other["index"])


def prefetching():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def test_closing_ends_the_threads():
    before = set(prefetching())
    batches = data.train_batches(source_of(20), batch_size=4, seed=0)
    next(batches)
    started = set(prefetching()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_an_error_of_the_source_arrives_as_it_is():
    class Broken(data.ArraySource):
        def batch(self, indices, draws=None):
            raise UserError("expected a picture, found none: look for it")

    source = Broken(np.zeros((9, 1, 1, 1), np.uint8), np.zeros(9, int))
    with pytest.raises(UserError, match="expected a picture"):
        take(data.train_batches(source, batch_size=3, seed=0), 1)


def test_an_abandoned_iterator_does_not_keep_the_interpreter():
    program = (
        "import numpy as np; from didicm_jax import data\n"
        "source = data.ArraySource(np.zeros((64, 8, 8, 1), np.uint8), np.zeros(64, int))\n"
        "batches = data.train_batches(source, batch_size=8, seed=0)\n"
        "next(batches); print('done')"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "done\n"
    assert result.stderr == ""


def test_ordering_and_batching_cost_little_per_image():
    """The target of the project is 20,000 images/s; this takes about 2,000,000 on one core."""
    source = data.ArraySource(np.zeros((20_000, 8, 8, 1), np.uint8), np.zeros(20_000, int))
    batches = data.train_batches(source, batch_size=256, seed=0, num_threads=0)
    next(batches)
    start = time.perf_counter()
    take(batches, 100)
    assert 25_600 / (time.perf_counter() - start) > 20_000
