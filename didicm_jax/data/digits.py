"""`digits`: scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, part of the package."""

import numpy as np

from didicm_jax.data.memory import ArraySource
from didicm_jax.data.source import Dataset, stratified_order
from didicm_jax.errors import UserError

# 80 % and 20 %, in whole images.
_NUM_TRAIN = 1_437
# The split is a constant of the project: every result on digits is on the same 360 images.
_SPLIT_SEED = 0


def load_digits(data_dir: str | None = None) -> Dataset:
    """The digits, values 0..16 spread over 0..255, 1,437 for training and 360 for test.

    The split is fixed and stratified by class. It is drawn over images: the same writers appear on
    both sides (scikit-learn does not say who wrote what).

    Raises:
      UserError: a `data_dir`; these images are within scikit-learn and have no folder.
    """
    if data_dir is not None:
        raise UserError(
            f"expected no config.data.data_dir for digits (they are part of scikit-learn), found"
            f" {data_dir!r}: leave it out, or set config.data.name to idx"
        )
    # Here and not above: it takes about a second, which only this dataset should cost.
    from sklearn import datasets

    scans = datasets.load_digits()
    images = np.round(scans.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = scans.target
    order = stratified_order(labels, _SPLIT_SEED)
    train, test = np.sort(order[:_NUM_TRAIN]), np.sort(order[_NUM_TRAIN:])
    return Dataset(
        train=ArraySource(images[train], labels[train]),
        test=ArraySource(images[test], labels[test]),
        class_names=tuple(str(name) for name in scans.target_names),
        image_shape=(8, 8, 1),
    )
