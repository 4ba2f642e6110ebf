"""Two images in one, and the soft labels that say so: mixup, cutmix, label smoothing.

Shapes: B images of HxW pixels and C channels, K classes.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment.checks import by_device, check
from didicm_jax.errors import UserError

# Rows are mixed within groups of so many, see `partners`.
_GROUP = 16
# A smaller alpha is raised to this one. Both draw 0 or 1 and nothing between, but the gamma draws
# behind a Beta of a denormal alpha are NaN.
_MIN_ALPHA = 1e-6


class Mixed(NamedTuple):
    """Images and their labels.

    Attributes:
      images: f32[B,H,W,C]. From `mix`: levels in [0,255]; from `Policy.train`: normalised.
      targets: f32[B,K], ≥ 0 and with sum 1.
    """

    images: chex.Array
    targets: chex.Array


def partners(examples: chex.Array) -> chex.Array:
    """The row that each row is mixed with, i32[B]; the partner of a row's partner is the row.

    timm mixes row i with row B-1-i. With the batch spread over devices that partner is elsewhere,
    or another one for every number of devices. Here the batch is cut into groups of g = 16 rows
    (where 16 does not divide B, of the largest power of two that does), and a row's partner is in
    its group: the pairs are the same for every layout in which each device holds whole groups, and
    no image travels.

    A group may show an example more than once (repeated augmentation, the turn of an epoch). Its
    rows are put in an order in which copies follow one another, and place k of that order is paired
    with place k + g/2. So copies are partners only where one example fills m > g/2 rows of the
    group, and then 2 m - g of them, which no pairing could avoid. Without copies the order is that
    of the rows: partners are g/2 apart.

    Args:
      examples: which example each row shows, an integer [B]; equal numbers are copies.

    Raises:
      UserError: B is odd.
    """
    chex.assert_rank(examples, 1)
    chex.assert_type(examples, int)
    batch = examples.shape[0]
    if batch % 2:
        raise UserError(
            "config.augment: mixup and cutmix expect an even number of images per device, found "
            f"{batch}: use another number of devices, or, in a new run, another "
            "config.train.batch_size"
        )
    size = min(_GROUP, batch & -batch)
    groups = examples.reshape(-1, size)
    first = jnp.argmax(groups[:, :, None] == groups[:, None, :], axis=2)  # row with the same one
    order = jnp.argsort(first, axis=1, stable=True)
    place = jnp.argsort(order, axis=1)
    partner = jnp.take_along_axis(jnp.roll(order, size // 2, axis=1), place, axis=1)
    start = size * jnp.arange(batch // size, dtype=jnp.int32)
    return (start[:, None] + partner.astype(jnp.int32)).reshape(batch)


def soft_targets(labels: chex.Array, num_classes: int, label_smoothing: float = 0.0) -> chex.Array:
    """f32[B,K] of labels i32[B]: s/K everywhere and 1 - s more at the label (s the smoothing)."""
    chex.assert_rank(labels, 1)
    hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return (1 - label_smoothing) * hot + label_smoothing / num_classes


def mix(
    keys: chex.PRNGKey,
    images: chex.Array,
    labels: chex.Array,
    num_classes: int,
    *,
    examples: chex.Array | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch_prob: float = 0.5,
    label_smoothing: float = 0.0,
) -> Mixed:
    """Mixes each image with its partner by mixup or cutmix, and their smoothed labels alike.

    An image is never mixed with a copy of itself: where its partner is one, it stays as it is.

    Both are x ← w x + (1 - w) partner, with a constant w = λ (mixup), or w = 0 within a box and 1
    outside (cutmix); λ ~ Beta(alpha, alpha). The box has sides sqrt(1 - λ) of the image's and a
    uniform centre, and is cut at the border. The target is λ y + (1 - λ) y_partner with λ the mean
    of w, so for cutmix the share of pixels that the image really keeps.

    λ, the box and the choice between the two are drawn for each example from its own key (timm's
    `elem` mode; its default draws once per batch, which gives an example the same distribution).
    The result is left in float: rounding to bytes again would lose up to half a level, and the
    normalisation that follows is one multiplication in the same pass.

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C], B even; see `partners`.
      labels: i32[B] in {0..K-1}.
      num_classes: K.
      examples: which example each image shows, an integer [B]; None: each shows another one.
      mixup: alpha of mixup, ≥ 0; 0 turns it off.
      cutmix: alpha of cutmix, ≥ 0; 0 turns it off.
      switch_prob: probability of cutmix where both are on.
      label_smoothing: s in [0,1).

    Returns:
      images f32[B,H,W,C] in [0,255], targets f32[B,K].

    Raises:
      UserError: B is odd.

    Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (cutmix), timm 1.0 `timm/data/mixup.py`.
    """
    check(keys, images)
    chex.assert_shape(labels, keys.shape)
    targets = soft_targets(labels, num_classes, label_smoothing)
    if not mixup and not cutmix:
        return Mixed(images.astype(jnp.float32), targets)
    mixed = partial(_mixed, mixup, cutmix, switch_prob)
    return by_device(mixed, images, keys, targets, examples)


def _mixed(
    mixup: float,
    cutmix: float,
    switch_prob: float,
    images: chex.Array,
    keys: chex.PRNGKey,
    targets: chex.Array,
    examples: chex.Array | None,
) -> Mixed:
    """`mix` of images and their soft targets, where at least one alpha is above 0."""
    if examples is None:
        examples = jnp.arange(len(images), dtype=jnp.int32)
    partner = partners(examples)
    alone = examples[partner] == examples
    # The bytes are gathered, and not the floats that are four times as large.
    levels, others = images.astype(jnp.float32), images[partner].astype(jnp.float32)
    height, width = images.shape[1:3]
    cut_share = switch_prob if mixup and cutmix else float(cutmix > 0)

    alphas = [max(alpha, _MIN_ALPHA) for alpha in (cutmix or mixup, mixup or cutmix)]

    def draw(key: chex.PRNGKey) -> tuple[chex.Array, chex.Array]:
        for_choices, for_lam = jax.random.split(key)
        for_switch, *centre = jax.random.uniform(for_choices, (3,), jnp.float32)
        cut = for_switch < cut_share
        alpha = jnp.where(cut, alphas[0], alphas[1]).astype(jnp.float32)
        lam = jax.random.beta(for_lam, alpha, alpha, dtype=jnp.float32)
        box, kept = _outside_box(centre, lam, height, width)
        return jnp.where(cut, box, lam), jnp.where(cut, kept, lam)

    weight, lam = jax.vmap(draw)(keys)
    weight = jnp.where(alone[:, None, None], 1.0, weight)[..., None]
    lam = jnp.where(alone, 1.0, lam)[:, None]
    return Mixed(
        # In this form w = 1 and w = 0 give the levels of one image exactly.
        images=weight * levels + (1 - weight) * others,
        targets=lam * targets + (1 - lam) * targets[partner],
    )


def _outside_box(
    centre: Sequence[chex.Array], lam: chex.Array, height: int, width: int
) -> tuple[chex.Array, chex.Array]:
    """1 outside of a box that covers about 1 - lam, f32[H,W], and its mean, f32[].

    The centre is given as shares of height and width, in [0,1).
    """
    # As timm: half the side is rounded down, so odd sides lose a pixel, and a box can be empty.
    ratio = jnp.sqrt(1 - lam)
    inside, sides = [], []
    for share, size in zip(centre, (height, width), strict=True):
        half = (ratio * size).astype(jnp.int32) // 2
        middle = (share * size).astype(jnp.int32)
        low = jnp.maximum(middle - half, 0)
        high = jnp.minimum(middle + half, size)
        place = jnp.arange(size, dtype=jnp.int32)
        inside.append((place >= low) & (place < high))
        sides.append((high - low).astype(jnp.float32))
    box = inside[0][:, None] & inside[1][None, :]
    return 1 - box.astype(jnp.float32), 1 - sides[0] * sides[1] / (height * width)
