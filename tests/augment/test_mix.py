"""Mixup, cutmix and soft labels, told apart by images in which every pixel names its example."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from didicm_jax import augment, data
from didicm_jax.augment.mix import partners
from didicm_jax.errors import UserError

B, H, W, K = 512, 12, 16, 7
PARTNER = np.arange(B) ^ 8
SMOOTHING = 0.1


@pytest.fixture(scope="module")
def compiled():
    return lambda **settings: jax.jit(functools.partial(augment.mix, num_classes=K, **settings))


@pytest.fixture(scope="module")
def batch():
    """Plain images, as no two neighbours in a group have the same level, and labels."""
    levels = np.arange(B) % 16 * 17
    labels = np.random.RandomState(0).randint(0, K, B).astype(np.int32)
    return np.broadcast_to(levels[:, None, None, None], (B, H, W, 3)).astype(np.uint8), labels


@pytest.fixture(scope="module")
def mixed(compiled, batch, keys_of):
    """The paper's setting: images f64[B,H,W,3] and targets f64[B,K]."""
    run = compiled(mixup=0.2, cutmix=1.0, label_smoothing=SMOOTHING)
    images, targets = run(keys_of(0, B), *batch)
    assert images.dtype == targets.dtype == np.float32
    return np.asarray(images, np.float64), np.asarray(targets, np.float64)


def share_of(images, batch):
    """Which share of its own level each pixel has, f64[B,H,W]."""
    own = batch[0].astype(np.float64)
    assert np.all(own != own[PARTNER])
    share = (images - own[PARTNER]) / (own - own[PARTNER])
    np.testing.assert_allclose(share, share[..., :1] + 0 * share, atol=1e-5)
    return share[..., 0]


def smoothed(labels):
    """timm's: s/K off the label, 1 - s + s/K on it."""
    targets = np.full((len(labels), K), SMOOTHING / K)
    targets[np.arange(len(labels)), labels] = 1 - SMOOTHING + SMOOTHING / K
    return targets


def test_targets_hold_the_share_of_pixels_that_the_image_kept(batch, mixed):
    images, targets = mixed
    lam = share_of(images, batch).mean((1, 2))[:, None]
    assert lam.min() >= -1e-6
    assert lam.max() <= 1 + 1e-6
    own = smoothed(batch[1])
    np.testing.assert_allclose(targets, lam * own + (1 - lam) * own[PARTNER], atol=1e-5)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    assert 0.3 < lam.mean() < 0.8
    assert np.unique(lam.round(4)).size > B / 4  # drawn for each example


def boxes_of(share):
    """For images that are cut: rows and columns of the box, each as (first, last + 1)."""
    inside = share < 0.5
    rows, columns = inside.any(1), inside.any(0)
    np.testing.assert_array_equal(inside, rows[:, None] & columns[None, :])
    return [(axis.argmax(), len(axis) - axis[::-1].argmax()) for axis in (rows, columns)]


def test_half_is_cut_and_half_is_blended(batch, mixed):
    share = share_of(mixed[0], batch)
    spread = share.reshape(B, -1).max(1) - share.reshape(B, -1).min(1)
    blended, cut = spread < 1e-4, spread > 1 - 1e-4
    assert np.all(blended | cut)
    # Cutmix with an empty or full box looks like mixup: that is rare (cut sides below 2 pixels).
    assert abs(cut.mean() - 0.5) < 0.13
    for image in share[cut]:
        (top, bottom), (left, right) = boxes_of(image)
        # Inner boxes have even sides, as half the side is rounded down.
        assert top == 0 or bottom == H or (bottom - top) % 2 == 0
        assert left == 0 or right == W or (right - left) % 2 == 0


def test_mixup_alone_follows_its_beta_distribution(compiled, batch, keys_of):
    images = np.asarray(compiled(mixup=0.2)(keys_of(1, B), *batch).images, np.float64)
    lam = share_of(images, batch)
    np.testing.assert_allclose(lam, lam[:, :1, :1] + 0 * lam, atol=1e-5)
    lam = lam[:, 0, 0]
    # Beta(a, a): mean 1/2, variance 1/(4 (2 a + 1)) = 0.179; most of it lies at both ends.
    assert abs(lam.mean() - 0.5) < 0.1
    assert abs(lam.var() - 0.179) < 0.03
    assert 0.4 < np.mean((lam < 0.05) | (lam > 0.95)) < 0.7  # scipy: 0.55


def test_cutmix_alone_has_boxes_of_the_drawn_size_anywhere(compiled, batch, keys_of):
    images, targets = compiled(cutmix=1.0)(keys_of(2, B), *batch)
    share = share_of(np.asarray(images, np.float64), batch)
    np.testing.assert_allclose(share, share.round(), atol=1e-5)
    # lambda is uniform: by numerical integration of timm's box over its draws the mean share of
    # the image that is kept is 0.68, more than 1/2 as boxes are cut at the border.
    reference = np.random.RandomState(0)
    kept = []
    for _ in range(20000):
        ratio = np.sqrt(1 - reference.rand())
        area = 1
        for size in (H, W):
            half, centre = int(size * ratio) // 2, reference.randint(size)
            area *= min(centre + half, size) - max(centre - half, 0)
        kept.append(1 - area / (H * W))
    found = share.mean((1, 2))
    assert abs(found.mean() - np.mean(kept)) < 0.06
    assert abs(found.std() - np.std(kept)) < 0.04
    pasted = 1 - share.mean(0)
    assert pasted.min() > 0.05  # everywhere,
    assert pasted[H // 2, W // 2] > 1.5 * pasted[0, 0]  # and more so in the middle
    own = np.eye(K)[batch[1]]
    expected = found[:, None] * own + (1 - found[:, None]) * own[PARTNER]
    np.testing.assert_allclose(targets, expected, atol=1e-5)


def test_without_mixing_only_labels_are_smoothed(batch, keys_of):
    images, targets = jax.jit(lambda k, i, y: augment.mix(k, i, y, K, label_smoothing=SMOOTHING))(
        keys_of(3, B), *batch
    )
    np.testing.assert_array_equal(images, batch[0])
    np.testing.assert_allclose(targets, smoothed(batch[1]), atol=1e-6)
    np.testing.assert_array_equal(augment.soft_targets(batch[1], K), np.eye(K)[batch[1]])


def test_groups_of_sixteen_are_mixed_alike_wherever_they_are(batch, mixed, keys_of, mesh):
    """The documented independence of layout: whole groups may go to any device, in any order."""
    keys, (images, labels) = keys_of(0, B), batch
    run = functools.partial(
        augment.mix, num_classes=K, mixup=0.2, cutmix=1.0, label_smoothing=SMOOTHING
    )
    order = np.random.RandomState(0).permutation(B // 16)
    order = (16 * order[:, None] + np.arange(16)).ravel()
    spread = jax.shard_map(run, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    result = jax.jit(spread)(keys[order], images[order], labels[order])
    np.testing.assert_allclose(result.images, mixed[0][order], atol=1e-3)
    np.testing.assert_allclose(result.targets, mixed[1][order], atol=1e-5)


@pytest.mark.parametrize(("batch_size", "distance"), [(2, 1), (6, 1), (12, 2), (8, 4), (48, 8)])
def test_partners_are_mutual_and_as_far_as_the_batch_allows(batch_size, distance):
    partner = np.asarray(partners(np.arange(batch_size)))
    np.testing.assert_array_equal(partner[partner], np.arange(batch_size))
    np.testing.assert_array_equal(np.abs(partner - np.arange(batch_size)), distance)


def examples_of(batch_size, repeats, step=0):
    """Which example each row of a batch shows; with so few images an epoch often ends within it."""
    source = data.ArraySource(np.zeros((130, 1, 1, 1), np.uint8), np.zeros(130, np.int32))
    batch = data.train_batch(source, step=step, batch_size=batch_size, seed=3, repeats=repeats)
    return batch["index"].astype(np.int32)


def test_partners_show_other_examples_whatever_batch_repeats_and_devices():
    """But for what no pairing could avoid: an example that fills more than half of a group.

    Micro-batches are cut from what was mixed, so their number changes nothing here.
    """
    run = jax.jit(partners)
    for batch_size in range(2, 66, 2):
        for repeats, step in itertools.product((*range(1, 9), 16, batch_size), range(3)):
            examples = examples_of(batch_size, repeats, step)
            for devices in (d for d in (1, 2, 4) if batch_size % (2 * d) == 0):
                for share in examples.reshape(devices, -1):
                    rows = np.arange(len(share))
                    partner = np.asarray(run(share))
                    np.testing.assert_array_equal(partner[partner], rows)
                    group = math.gcd(len(share), 16)
                    np.testing.assert_array_equal(partner // group, rows // group)
                    for mine, theirs in zip(
                        share.reshape(-1, group), share[partner].reshape(-1, group), strict=True
                    ):
                        most = np.unique(mine, return_counts=True)[1].max()
                        assert (mine == theirs).sum() == max(0, 2 * most - group)


@pytest.mark.parametrize(
    ("batch_size", "repeats"),
    [(16, 2), (32, 4), (64, 8), (128, 16), (48, 6), (8, 2), (12, 6), (8, 8), (6, 4)],
)
def test_an_image_is_not_mixed_with_its_copy(batch_size, repeats, keys_of):
    """Here each example is a class, and each row, copies too, a level."""
    examples = examples_of(batch_size, repeats)
    levels = np.arange(batch_size, dtype=np.uint8)
    images, targets = jax.jit(functools.partial(augment.mix, num_classes=130, mixup=1.0))(
        keys_of(4, batch_size), levels[:, None, None, None], examples, examples=examples
    )
    of_another = 1 - np.asarray(targets)[np.arange(batch_size), examples]
    alone = of_another == 0
    np.testing.assert_array_equal(images[alone, 0, 0, 0], levels[alone])
    # (8, 8) shows one example alone, (6, 4) one in the last two rows of its groups of two.
    assert alone.sum() == {(8, 8): 8, (6, 4): 2}.get((batch_size, repeats), 0)


def test_the_smallest_alpha_is_a_choice_between_the_two(compiled, batch, keys_of):
    """Of an alpha that float32 holds as a denormal number, jax's Beta is NaN."""
    images = np.asarray(compiled(mixup=1e-40)(keys_of(5, B), *batch).images)
    own = batch[0].astype(np.float32)
    kept = (images == own).all((1, 2, 3))
    np.testing.assert_array_equal(images[~kept], own[PARTNER][~kept])
    assert abs(kept.mean() - 0.5) < 0.1


def test_an_odd_batch_is_refused_in_one_line(batch, keys_of):
    images, labels = batch
    with pytest.raises(UserError, match=r"even number .* found 3: .* config.train.batch_size"):
        augment.mix(keys_of(0, 3), images[:3], labels[:3], K, mixup=0.2)
