"""Mixup, cutmix and soft labels, told apart by images in which every pixel names its example."""

import functools

import jax
import numpy as np
import pytest

from didicm_jax import augment
from didicm_jax.augment.mix import swap
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
    partner = np.asarray(swap(np.arange(batch_size)))
    np.testing.assert_array_equal(partner[partner], np.arange(batch_size))
    np.testing.assert_array_equal(np.abs(partner - np.arange(batch_size)), distance)


def test_an_odd_batch_is_refused_in_one_line(batch, keys_of):
    images, labels = batch
    with pytest.raises(UserError, match=r"even number .* found 3: .* config.train.batch_size"):
        augment.mix(keys_of(0, 3), images[:3], labels[:3], K, mixup=0.2)
