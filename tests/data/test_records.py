"""Batches from records: pure functions of (seed, step), and what happens to broken images."""

import gc
import logging
import threading

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from didicm_jax import data
from didicm_jax.data import records
from didicm_jax.data.options import PhotoOptions
from didicm_jax.data.records import RecordSource
from didicm_jax.errors import UserError
from tests.data.making import encode, small


def record(image, label, name):
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(image)
    example.features.feature["label"].int64_list.value.append(label)
    example.features.feature["file_name"].bytes_list.value.append(name.encode())
    return example.SerializeToString()


@pytest.fixture(scope="module")
def views(photos):
    """30 JPEGs of 120x90, all different."""
    return [encode(small(photos[n % 2][7 * n :, 11 * n :], 120, 90)) for n in range(30)]


def source_of(views, broken=(), **options):
    examples = [
        record(view[:200] if n in broken else view, n % 5, f"{n}.jpg")
        for n, view in enumerate(views)
    ]
    options = PhotoOptions(**{"resolution": 32, **options})
    labels = np.arange(len(views)) % 5
    return RecordSource(examples, labels, image_key="image", name="views train", options=options)


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_batches_hold_the_images_they_name(views):
    source = source_of(views, crop_scale=(1, 1), crop_ratio=(4 / 3, 4 / 3))
    batch = data.train_batch(source, step=1, batch_size=10, seed=0)
    assert (batch["image"].shape, batch["image"].dtype) == ((10, 32, 32, 3), np.uint8)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], batch["index"] % 5)
    # The crop is the whole image, so it does not depend on the row's place.
    np.testing.assert_array_equal(
        batch["image"], source.batch(batch["index"], np.arange(10, dtype=np.uint64))["image"]
    )
    assert source.replaced == 0


def test_crops_are_a_function_of_seed_and_position_alone(views):
    """Neither of threads, nor of processes, nor of the step that a run started at."""
    options = {"batch_size": 12, "seed": 5}
    quiet = source_of(views, num_workers=1)
    expected = [data.train_batch(quiet, step=n, **options) for n in range(6)]
    threaded = data.train_batches(source_of(views, num_workers=4), start_step=3, **options)
    for step in (3, 4, 5):
        same(next(threaded), expected[step])
    threaded.close()
    shares = [
        data.train_batch(source_of(views), step=4, process_index=p, process_count=3, **options)
        for p in range(3)
    ]
    same({k: np.concatenate([s[k] for s in shares]) for k in shares[0]}, expected[4])


def test_an_image_is_cropped_anew_each_time_and_with_each_seed(views):
    source = source_of(views)
    seen = [data.train_batch(source, step=n, batch_size=30, seed=0) for n in range(2)]
    seen.append(data.train_batch(source, step=0, batch_size=30, seed=1))
    crops = [b["image"][np.argsort(b["index"])] for b in seen]
    for one, other in ((0, 1), (0, 2)):
        assert np.all(np.any(crops[one] != crops[other], axis=(1, 2, 3)))


def test_evaluation_shows_the_centre_and_nothing_random(views):
    source = source_of(views)
    first, second = (list(data.eval_batches(source, batch_size=8)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        same(one, other)
    larger = source_of(views, eval_crop=0.5).batch(np.arange(1))["image"]
    assert np.any(larger != first[0]["image"][:1])


@pytest.mark.parametrize(("batch_size", "processes"), [(12, 2), (8, 1), (10, 2)])
def test_repeats_show_each_image_three_times_differently(views, batch_size, processes):
    """As timm's RepeatAugSampler: an epoch has N rows of N / 3 images."""
    source = source_of(views)
    options = {"batch_size": batch_size, "seed": 2, "repeats": 3}
    rows = {}
    for step in range(30 // batch_size):
        parts = [
            data.train_batch(source, step=step, process_index=p, process_count=processes, **options)
            for p in range(processes)
        ]
        for part in parts:
            for index, image in zip(part["index"], part["image"], strict=True):
                rows.setdefault(int(index), []).append(image)
        indices = np.concatenate([p["index"] for p in parts])
        # Neighbours and mirrored rows never show the same image, so mixing them mixes.
        assert np.all(indices[1:] != indices[:-1])
    counts = [len(images) for images in rows.values()]
    assert max(counts) == 3
    assert sum(counts) == 30 // batch_size * batch_size
    if 30 % batch_size == 0:
        assert len(rows) == 10
    for images in rows.values():
        assert len({image.tobytes() for image in images}) == len(images)


@pytest.fixture
def decoded(monkeypatch):
    """How many images have been decoded, in a list of one number."""
    count, decode_crop = [0], records.decode_crop

    def decode(*args, **options):
        count[0] += 1
        return decode_crop(*args, **options)

    monkeypatch.setattr(records, "decode_crop", decode)
    return count


WHOLE = {"crop_scale": (1, 1), "crop_ratio": (4 / 3, 4 / 3)}
ROOM = 30 * 32 * 32 * 3 / 2**30  # GiB


def epochs(source, count):
    draws = np.arange(30, dtype=np.uint64)
    for epoch in range(count):
        order = np.random.default_rng(epoch).permutation(30)
        yield order, source.batch(order, draws + np.uint64(epoch))


@pytest.mark.parametrize(
    ("options", "times"),
    [
        (WHOLE, 1),
        (WHOLE | {"cache_gib": ROOM}, 1),
        (WHOLE | {"cache_gib": 0.99 * ROOM}, 3),
        ({}, 3),
    ],
)
def test_what_looks_the_same_each_time_is_decoded_once_where_there_is_room(
    views, decoded, options, times
):
    never = source_of(views, **options | {"cache_gib": 0.0})
    expected = [batch for _, batch in epochs(never, 3)]
    decoded[0] = 0
    for (_, batch), wanted in zip(epochs(source_of(views, **options), 3), expected, strict=True):
        same(batch, wanted)
    assert decoded[0] == 30 * times


def test_a_nearly_square_image_looks_the_same_each_time(photos):
    """Of 41x40 pixels a square of 40 was shown, here or there, unless it was kept in memory."""
    views = [encode(small(photos[n % 2][7 * n :, 11 * n :], 41, 40)) for n in range(30)]
    options = {"crop_scale": (1, 1), "crop_ratio": (1, 1)}
    kept, never = source_of(views, **options), source_of(views, **options, cache_gib=0.0)
    first = kept.batch(np.arange(30), np.arange(30, dtype=np.uint64))
    for source in (kept, never):
        for order, batch in epochs(source, 3):
            same(batch, {key: column[order] for key, column in first.items()})


def test_training_and_evaluation_do_not_show_one_another_s_crops(views, decoded):
    source, plain = source_of(views, **WHOLE), source_of(views, **WHOLE, cache_gib=0.0)
    rows, draws = np.array([3, 4, 3]), np.arange(3, dtype=np.uint64)
    for _ in range(2):
        same(source.batch(rows, draws), plain.batch(rows, draws))
        same(source.batch(rows), plain.batch(rows))
    assert decoded[0] == 2 * 2 + 4 * 3


def test_other_labels_and_parts_remember_for_themselves(views):
    source = source_of(views, **WHOLE, broken=(7,), max_broken_share=0.6)
    source.batch(np.arange(30))
    part, others = source.take(np.array([7, 20])), source.with_labels(np.full(30, 4))
    sound = source_of(views)
    np.testing.assert_array_equal(
        part.batch(np.array([0]))["image"], sound.batch(np.array([20]))["image"]
    )
    assert others.batch(np.array([3]))["label"] == [4]
    assert (source.replaced, part.replaced, others.replaced) == (1, 1, 0)


def test_repeats_in_a_batch_that_they_divide_are_complete():
    source = data.ArraySource(np.zeros((100, 1, 1, 1), np.uint8), np.zeros(100, int))
    for step in range(20):
        indices = data.train_batch(source, step=step, batch_size=12, seed=0, repeats=3)["index"]
        assert set(np.unique(indices, return_counts=True)[1]) == {3}, step


def test_a_broken_image_is_replaced_counted_and_named_once(views, caplog):
    source = source_of(views, broken=(7, 8, 29), max_broken_share=0.2, num_workers=2)
    sound = source_of(views)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            batch = source.batch(np.array([6, 7, 29, 8]))
    # 7 and 8 give way to 9, and the last one to the first.
    np.testing.assert_array_equal(batch["image"], sound.batch(np.array([6, 9, 0, 9]))["image"])
    assert batch["label"].tolist() == [1, 4, 0, 4]
    assert source.replaced == 3  # However often they were asked for.
    assert source.broken().tolist() == [7, 8, 29]
    messages = [r.getMessage() for r in caplog.records]
    assert len(messages) == 3
    assert sum("views train[7] (7.jpg) cannot be decoded" in m for m in messages) == 1


def test_an_image_of_too_many_pixels_is_broken_like_any_other(views, photos, caplog):
    large = [*views[:3], encode(small(photos[0], 150, 100)), *views[4:]]
    source = source_of(large, max_pixels=120 * 90, max_broken_share=0.2)
    with caplog.at_level(logging.WARNING):
        batch = source.batch(np.arange(2, 5))
    assert batch["label"].tolist() == [2, 4, 4]
    assert source.broken().tolist() == [3]
    (line,) = [r.getMessage() for r in caplog.records]
    assert "views train[3] (3.jpg)" in line
    assert "150x100 pixels, more than config.data.max_pixels=10800 allows" in line


def test_an_evaluation_counts_each_broken_image_once_and_no_padding(views):
    """The rows that fill up the last batch repeat the last image."""
    source = source_of(views, broken=(4, 29), max_broken_share=0.2)
    for _ in range(2):
        batches = [
            batch
            for process in range(2)
            for batch in data.eval_batches(
                source, batch_size=44, process_index=process, process_count=2
            )
        ]
        assert sum(int(batch["replaced"].sum()) for batch in batches) == 2
        for batch in batches:
            assert set(batch["index"][batch["replaced"]]) <= {4, 29}
    assert source.replaced == 2


def test_a_digest_of_bare_records_is_of_what_they_hold(views):
    one, other = source_of(views), source_of(views, resolution=8, eval_crop=0.5)
    assert one.digest() == other.digest() != source_of(views, broken=(3,)).digest()
    assert one.take(np.arange(5)).digest() == one.digest(np.arange(5)) != one.digest()


def test_replacements_come_from_the_part_that_was_chosen(views):
    source = source_of(views, broken=(8,), max_broken_share=0.5)
    part = source.take(np.array([4, 8, 20]))
    sound = source_of(views)
    np.testing.assert_array_equal(
        part.batch(np.array([1]))["image"], sound.batch(np.array([20]))["image"]
    )
    assert (part.replaced, source.replaced) == (1, 0)
    chosen = data.subset(source, ratio=0.5, seed=0)
    assert isinstance(chosen, RecordSource)
    assert chosen.batch(np.arange(15))["label"].tolist() == chosen.labels.tolist()


def test_too_many_broken_images_stop_the_run(views):
    source = source_of(views, broken=range(30), max_broken_share=0.1)
    message = (
        r"at most 10.000% of the 30 images of views train to be broken, found \d, .*max_broken"
    )
    with pytest.raises(UserError, match=message):
        next(data.train_batches(source, batch_size=4, seed=0))


def test_data_ratio_keeps_the_share_of_each_class_and_is_nested(views):
    source = source_of(views)
    half, fifth = (data.subset(source, ratio=r, seed=1) for r in (0.5, 0.2))
    assert np.bincount(half.labels).tolist() == [3] * 5
    images = [
        {i.tobytes() for i in part.batch(np.arange(len(part)))["image"]} for part in (fifth, half)
    ]
    assert images[0] < images[1]


def test_closing_leaves_no_thread_waiting(views):
    others = set(threading.enumerate())  # of sources that other tests still hold
    source = source_of(views, num_workers=3)
    batches = data.train_batches(source, batch_size=8, seed=0)
    next(batches)
    batches.close()
    waiting = [t for t in threading.enumerate() if t.name.startswith("decode") and t not in others]
    assert waiting
    # The pool's threads wait for the source's next batch; they end with it.
    del source, batches
    gc.collect()
    for thread in waiting:
        thread.join(timeout=60)
    assert not any(t.is_alive() for t in waiting)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"resolution": 0}, "resolution to be 1 pixel or more, found 0"),
        ({"crop_scale": (0.5, 0.1)}, "crop_scale"),
        ({"crop_scale": (0.1, 1.5)}, "crop_scale"),
        ({"crop_ratio": (0, 1)}, "crop_ratio"),
        ({"eval_crop": 0}, "eval_crop"),
        ({"max_broken_share": 1}, "max_broken_share"),
        ({"max_pixels": 0}, "max_pixels"),
        ({"num_workers": -1}, "num_workers"),
        ({"cache_gib": -1}, "cache_gib"),
        ({"train_split": ""}, "train_split"),
    ],
)
def test_options_out_of_range_are_named(option, message):
    with pytest.raises(UserError, match=rf"^expected config.data.[^\n]*{message}[^\n]*$|{message}"):
        PhotoOptions(**option)
