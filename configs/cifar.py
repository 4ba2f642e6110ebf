"""DiDiCM on CIFAR-10 or CIFAR-100, as tensorflow-datasets or `launch/prepare.py` has prepared it.

    python launch/prepare.py --dataset=folder --name=cifar10 --source=TREE --data_dir=DATA
    python launch/main.py --config=configs/cifar.py:classes=10 --workdir=runs/cifar10 \\
        --config.data.data_dir=DATA

TREE holds `train/CLASS/*.png` and `test/CLASS/*.png`. The options after the colon, each with its
default:

    classes=10|100  recipe=usual|replication

`recipe=replication` is what the cells of a study have in common that repeats the paper's on few
cores: an eighth of the width, 500,000 images seen (docs/study/cifar10/README.md). The usual recipe
has not been measured yet.
"""

import ml_collections

from didicm_jax import config as configuration
from didicm_jax.config import presets

# Mean and deviation of the training images, per channel.
_COLOURS = {
    "10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """50,000 training and 10,000 test images of 32x32, a DiDiRN-18 with a stem for thumbnails."""
    known = {"classes": tuple(_COLOURS), "recipe": ("usual", "replication")}
    given = presets.parse(options, "configs/cifar.py", known)
    classes = given["classes"]
    config = configuration.default()
    config.data.name = f"cifar{classes}"
    config.data.mean, config.data.std = _COLOURS[classes]
    presets.whole_images(config, 32)
    config.augment.label_smoothing = 0.1

    config.model.name = "didirn18"
    config.model.stem = "small"

    config.train.batch_size = 256
    config.train.duration = "200 epochs"
    config.train.ema_decay = 0.999
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.evaluation.batch_size = 1000
    if given["recipe"] == "replication":
        _replication(config)
    return config


def _replication(config: ml_collections.ConfigDict) -> None:
    config.augment.label_smoothing = 0.0  # the methods of a study smooth, or do not
    config.data.num_workers = 1  # a cell has one core

    config.model.width = 0.125
    config.train.batch_size = 128
    # 10.5 epochs of the training images, 42 of a quarter of them, 210 of a twentieth.
    config.train.duration = "500000 examples"
    config.train.ema_decay = 0.998
    config.optimizer.warmup = "200 steps"
    config.train.log_every = "100 steps"
    config.train.checkpoint_every = "100000 examples"
    # A cell tells what it is worth at its end, and where it has the least NLL.
    config.evaluation.every = "50000 examples"
    config.evaluation.best = "nll"
    config.evaluation.batch_size = 200  # 16 chains for each image of them at once
