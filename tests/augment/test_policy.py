"""Whole recipes: what they are made of, what they refuse, and what they cost when off."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from didicm_jax import augment
from didicm_jax.augment import Policy
from didicm_jax.errors import UserError

B, H, W, K = 64, 12, 10, 5
MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.4, 0.25)
IMAGES = np.random.RandomState(0).randint(0, 256, (B, H, W, 3)).astype(np.uint8)
LABELS = np.random.RandomState(1).randint(0, K, B).astype(np.int32)
STRONG = Policy(
    MEAN,
    STD,
    flip=True,
    shift=2,
    color_jitter=0.4,
    rand_augment="rand-m7-mstd0.5-inc1",
    mixup=0.2,
    cutmix=1.0,
    label_smoothing=0.1,
)


def normalized(images):
    return (np.asarray(images, np.float64) / 255 - MEAN) / STD


def test_normalize_is_per_channel():
    for images in (IMAGES, IMAGES[0], IMAGES.astype(np.float32)):
        result = np.asarray(augment.normalize(images, MEAN, STD))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, normalized(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="3 means"):
        augment.normalize(IMAGES, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="positive"):
        augment.normalize(IMAGES, (0.5,) * 3, (0.5, 0.0, 0.5))
    with pytest.raises(ValueError, match="u8 or f32"):
        augment.normalize(IMAGES.astype(np.int32), MEAN, STD)


def test_off_means_normalised_images_and_hard_labels_and_no_random_numbers(keys_of):
    policy = Policy(MEAN, STD)
    run = jax.jit(policy.train, static_argnums=3)
    result = run(keys_of(0, B), IMAGES, LABELS, K)
    np.testing.assert_allclose(result.images, normalized(IMAGES), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.targets, np.eye(K)[LABELS])
    np.testing.assert_allclose(jax.jit(policy.eval)(IMAGES), result.images, atol=1e-6)
    compiled = run.lower(keys_of(0, B), IMAGES, LABELS, K).compile()
    # Three operations a level: anything random would add at least a hash of the keys.
    assert compiled.cost_analysis()["flops"] < 4 * IMAGES.size + 10 * B * K


def test_views_are_the_image_and_what_training_would_show_of_it(keys_of):
    keys, shifted = keys_of(0, B), Policy(MEAN, STD, flip=True, shift=2)
    views = jax.jit(lambda policy, count: policy.views(keys, IMAGES, count), static_argnums=(0, 1))
    image, mirrored = normalized(IMAGES), normalized(IMAGES[:, :, ::-1])
    (alone,) = views(shifted, 1)
    np.testing.assert_allclose(alone, image, rtol=1e-5, atol=1e-5)
    for found in (views(Policy(MEAN, STD, flip=True), 2), views(shifted, 5)[:1]):
        for view, expected in zip(found, (image, mirrored), strict=False):
            np.testing.assert_allclose(view, expected, rtol=1e-5, atol=1e-5)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    offsets = []
    for number, view in enumerate(views(shifted, 5)[1:], 1):
        for row, found in enumerate(np.asarray(view)):
            shown = found[:, ::-1] if number % 2 else found
            fits = [
                (y, x)
                for y in range(5)
                for x in range(5)
                if np.allclose(shown, normalized(padded[row, y : y + H, x : x + W]), atol=1e-4)
            ]
            assert len(fits) == 1
            offsets += fits
    assert len(set(offsets)) == 25  # each of the moves comes up among 256
    rows = shifted.views(keys[:3], IMAGES[:3], 5)
    np.testing.assert_allclose(rows, views(shifted, 5)[:, :3], atol=1e-6)


def test_the_strong_recipe_does_all_of_it(keys_of):
    """Compiles once, uses no key twice, and passes every part the right settings."""
    traced = []

    @jax.jit
    def run(keys, images, labels):
        traced.append(1)
        return STRONG.train(keys, images, labels, K)

    with jax.debug_key_reuse(True):
        first, second, again = (run(keys_of(seed, B), IMAGES, LABELS) for seed in (0, 1, 0))
    assert len(traced) == 1
    assert first.images.shape == IMAGES.shape
    assert first.images.dtype == first.targets.dtype == np.float32
    np.testing.assert_array_equal(first.images, again.images)
    assert np.abs(np.asarray(first.images) - second.images).mean() > 0.3
    levels = (np.asarray(first.images, np.float64) * STD + MEAN) * 255
    assert levels.min() > -1e-3
    assert levels.max() < 255 + 1e-3
    np.testing.assert_allclose(np.sum(first.targets, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.min(first.targets, axis=1), 0.1 / K, atol=1e-6)


def test_parts_do_not_share_draws_and_switch_independently(keys_of):
    """The same keys give the same flips whatever else is on: each part has its own."""
    count = 400
    images = np.tile(IMAGES[:1], (count, 1, 1, 1))
    labels, keys = np.zeros(count, np.int32), keys_of(0, count)
    plain, moved, mixed = (
        np.asarray(
            jax.jit(Policy(MEAN, STD, flip=True, **more).train, static_argnums=3)(
                keys, images, labels, K
            ).images
        )
        for more in ({}, {"shift": 1}, {"label_smoothing": 0.2})
    )
    np.testing.assert_array_equal(plain, mixed)
    mirrored = np.abs(plain - normalized(images)).max((1, 2, 3)) > 1e-3
    assert abs(mirrored.mean() - 0.5) < 0.13
    np.testing.assert_allclose(plain[mirrored], normalized(images[mirrored, :, ::-1]), atol=1e-5)
    # Unshifted in the middle of nine: compare with each possible crop of the flipped image.
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    table = np.zeros((2, 3, 3))
    for top in range(3):
        for left in range(3):
            crop = padded[:, top : top + H, left : left + W]
            crop = normalized(np.where(mirrored[:, None, None, None], crop[:, :, ::-1], crop))
            equal = np.abs(moved - crop).max((1, 2, 3)) < 1e-4
            table[:, top, left] = equal[mirrored].sum(), equal[~mirrored].sum()
    assert table.sum() == count
    # 18 cells of 22 on average: the shift says nothing about the flip.
    assert table.min() > 4


def test_devices_see_the_same_batch(keys_of, mesh):
    policy = Policy(MEAN, STD, flip=True, mixup=0.2, cutmix=1.0, label_smoothing=0.1)

    def run(keys, images, labels):
        return policy.train(keys, images, labels, K)

    keys = keys_of(2, B)
    whole = jax.jit(run)(keys, IMAGES, LABELS)
    spread = jax.shard_map(run, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    parts = jax.jit(spread)(keys, IMAGES, LABELS)
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-5)
    np.testing.assert_allclose(parts.targets, whole.targets, atol=1e-6)


def test_channels_that_do_not_fit_are_refused(keys_of):
    keys = keys_of(0, B)
    with pytest.raises(UserError, match=r"config.data.mean: expected 1 numbers.*found \(0.1"):
        STRONG.train(keys, IMAGES[..., :1], LABELS, K)
    with pytest.raises(UserError, match=r"config.data.mean: expected 1 numbers"):
        STRONG.eval(IMAGES[..., :1])
    with pytest.raises(UserError, match="1 or 3"):
        Policy(MEAN[:2], STD[:2], color_jitter=0.4).train(keys, IMAGES[..., :2], LABELS, K)


def test_policies_are_values():
    """Equal ones are the same static argument, lists or tuples, whatever made them."""
    assert Policy(list(MEAN), list(STD)) == Policy(MEAN, STD)
    assert len({Policy(list(MEAN), STD, mixup=0.2), Policy(MEAN, STD, mixup=0.2)}) == 1


@pytest.mark.parametrize("gathers", [True, False])
def test_a_recipe_runs_where_jax_has_64_bits(gathers, keys_of):
    """Tracing finds the index or the loop whose types would then differ."""
    policy = dataclasses.replace(STRONG, gathers=gathers)
    keys = keys_of(0, B)
    with jax.enable_x64(True):
        mixed = jax.eval_shape(lambda: policy.train(keys, IMAGES, LABELS, K))
        views = jax.eval_shape(lambda: policy.views(keys, IMAGES, 3))
    assert {x.dtype for x in (*mixed, views)} == {np.dtype("float32")}


@pytest.mark.parametrize("gathers", [True, False])
def test_on_a_mesh_of_explicit_axes_each_device_does_its_own_images(gathers, keys_of):
    """What `jax.make_mesh` makes unless it is told otherwise: nothing is moved in silence."""
    policy = dataclasses.replace(STRONG, gathers=gathers)

    def run(policy, keys, images, labels):
        return policy.train(keys, images, labels, K, labels), policy.views(keys, images, 3)

    given = (keys_of(0, B), IMAGES, LABELS)
    # Of the whole recipe the types, which say where a result is; one that compiles soon is run.
    quick = jax.jit(partial(run, dataclasses.replace(policy, rand_augment="")))
    with jax.set_mesh(jax.make_mesh((4,), ("data",))):
        spread = jax.device_put(given, jax.P("data"))
        whole, found = jax.eval_shape(partial(run, policy), *spread), quick(*spread)
    for mixed, views in (whole, found):
        assert mixed.images.sharding.spec[0] == mixed.targets.sharding.spec[0] == "data"
        assert views.sharding.spec[:2] == (None, "data")
    for one, other in zip(*map(jax.tree.leaves, (found, quick(*given))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gathers", [True, False])
def test_so_does_each_operation_by_itself(gathers, keys_of):
    turned = np.tile(np.float32([0.9, 0.1, 1, -0.1, 0.9, 2]), (B, 1))
    alone = {
        "flip": lambda keys, images: augment.random_flip(keys, images),
        "shift": lambda keys, images: augment.shift_crop(keys, images, 2, gathers=gathers),
        "warp": lambda keys, images: augment.warp(
            images, turned, LABELS > 2, (1, 2, 3), gathers=gathers
        ),
        "jitter": lambda keys, images: augment.color_jitter(keys, images, 0.4),
        "rand": lambda keys, images: augment.rand_augment(
            keys, images, "rand-m7-mstd0.5-inc1", (1, 2, 3), gathers=gathers
        ),
        "mix": lambda keys, images: augment.mix(keys, images, LABELS, K, mixup=0.2, cutmix=1.0),
    }
    # Rows over one of two axes, or over both; their keys, made of one, are often on every device.
    for rows in ("data", ("data", "model")):
        with jax.set_mesh(jax.make_mesh((2, 2), ("data", "model"))):
            images = jax.device_put(IMAGES, jax.P(rows))
            for name, operation in alone.items():
                for result in jax.tree.leaves(jax.eval_shape(operation, keys_of(0, B), images)):
                    assert result.sharding.spec[0] == rows, name
