"""DiDiCM on Fashion-MNIST, read from the Debian package or from a folder of IDX files.

apt-get install dataset-fashion-mnist
python launch/main.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

Another MNIST-family set: add --config.data.data_dir=DIR. A short run on a laptop:
add --config.train.duration="300 steps" --config.optimizer.warmup="30 steps" \\
    --config.model.width=0.25
"""

import ml_collections

from didicm_jax import config as configuration


def get_config() -> ml_collections.ConfigDict:
    """60,000 training and 10,000 test images of 28x28, a DiDiRN-18 of full width."""
    config = configuration.default()
    config.data.name = "idx"
    # Of the training images, per pixel.
    config.data.mean = (0.286,)
    config.data.std = (0.353,)
    config.augment.flip = True
    config.augment.shift = 2

    config.model.name = "didirn18"
    config.model.stem = "small"

    config.train.batch_size = 256
    config.train.duration = "40 epochs"
    config.augment.label_smoothing = 0.1
    config.train.ema_decay = 0.999
    config.train.checkpoint_every = "2 epochs"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.warmup = "2 epochs"
    config.evaluation.batch_size = 500
    config.evaluation.every = "4 epochs"
    return config
