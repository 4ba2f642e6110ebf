"""DiDiCM on scikit-learn's handwritten digits, embedded: nothing is downloaded.

python launch/main.py --config=configs/digits.py --workdir=runs/digits
"""

import ml_collections

from didicm_jax import config as configuration


def get_config() -> ml_collections.ConfigDict:
    """1,437 training and 360 test images of 8x8, a DiDiRN-18 of a quarter of the width."""
    config = configuration.default()
    config.data.name = "digits"
    config.data.mean = (0.305,)
    config.data.std = (0.376,)
    config.augment.shift = 1

    config.model.name = "didirn18"
    config.model.width = 0.25
    config.model.stem = "small"

    config.train.batch_size = 64
    config.train.duration = "60 epochs"
    config.augment.label_smoothing = 0.05
    config.train.ema_decay = 0.99
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup = "2 epochs"
    config.evaluation.batch_size = 360
    config.evaluation.every = "10 epochs"
    return config
