"""The paper's ImageNet runs, at any resolution and share of the data.

    python launch/prepare.py --dataset=imagenet2012 --source=TARS --data_dir=DATA
    python launch/main.py --workdir=runs/imagenet --config.data.data_dir=DATA \\
        --config=configs/imagenet.py:recipe=strong,model=didirn50,resolution=56,data_ratio=0.25

The options after the colon, each with its default (give `data_ratio` and `method` there: the
learning rate and the network follow them):

    recipe=strong|weak  resolution=224  data_ratio=1.0  model=didirn50  method=didicm|classifier

`method=classifier` is the matched baseline: the ResNet of the same depth on the same stem, with
binary cross-entropy in the strong recipe (ResNet strikes back, A1) and softmax cross-entropy in the
weak one. `--config=configs/imagenet.py:smoke` is the strong recipe for a few steps at a low
resolution on whatever `data_dir` holds (add `--config.data.name=NAME` for a set of your own), and
an evaluation of its whole validation split: two minutes on a laptop.

What to expect is the paper's table (arXiv 2511.20263, strong recipe, DiDiRN-50, CP with 8 steps,
against its ResNet-50), top-1 / top-5; this project has not reproduced it, for want of the data:

    224 px, all data       80.40 / 95.29   (ResNet-50: 80.42 / 94.60)
    56 px, 25 % of data    59.05 / 81.93   (ResNet-50: 53.77 / 76.03)

600 epochs of 1.28 M images, 15.97 GMAC a forward pass at 224 px with the original's stem. Cost in
hours has not been measured.
"""

import math

import ml_collections

from didicm_jax import config as configuration
from didicm_jax.errors import UserError

OPTIONS = {
    "recipe": "strong",
    "method": "didicm",
    "model": "didirn50",
    "resolution": "224",
    "data_ratio": "1.0",
}
CHOICES = {"recipe": ("strong", "weak"), "method": ("didicm", "classifier")}


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The run that `options` ask for, `key=value,…` or `smoke`."""
    smoke = options == "smoke"
    given = _parse("" if smoke else options)
    config = configuration.default()
    config.data.name = "imagenet2012"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.resolution = int(given["resolution"])
    config.data.data_ratio = float(given["data_ratio"])
    config.augment.flip = True
    config.model.name = given["model"]
    config.model.dtype = "bfloat16"

    config.train.duration = "600 epochs"
    config.train.log_every = "100 steps"
    config.train.checkpoint_every = "1 epoch"
    config.optimizer.name = "lamb"
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup = "5 epochs"
    config.optimizer.warmup_learning_rate = 1e-5
    config.evaluation.batch_size = 1024
    config.evaluation.every = "10 epochs"
    config.sampler.steps = 8
    if given["recipe"] == "strong":
        _strong(config)
    else:
        _weak(config)
    if given["method"] == "classifier":
        strong = given["recipe"] == "strong"
        config.method = "binary_cross_entropy" if strong else "cross_entropy"
        config.model.name = given["model"].replace("didirn", "resnet")
    if smoke:
        _smoke(config)
    return config


def _weak(config: ml_collections.ConfigDict) -> None:
    config.train.batch_size = 1024
    # Fewer images, fewer steps: the paper raises the rate for them.
    config.optimizer.learning_rate = 2e-3 * math.sqrt(1 / config.data.data_ratio)
    config.augment.color_jitter = 0.4


def _strong(config: ml_collections.ConfigDict) -> None:
    config.train.batch_size = 2048
    config.optimizer.learning_rate = 3.5e-3
    config.data.repeats = 3
    config.augment.rand_augment = "rand-m7-mstd0.5-inc1"
    config.augment.mixup = 0.2
    config.augment.cutmix = 1.0
    config.augment.switch_prob = 0.5
    config.augment.label_smoothing = 0.1


def _smoke(config: ml_collections.ConfigDict) -> None:
    config.data.resolution = 32
    config.model.name = "didirn18"
    config.model.width = 0.25
    config.model.dtype = "float32"  # bfloat16 is slow on CPUs
    config.train.batch_size = 16
    config.train.duration = "4 steps"
    config.train.log_every = "1 step"
    config.optimizer.warmup = "1 step"
    config.evaluation.batch_size = 64
    config.sampler.steps = 2


def _parse(options: str) -> dict[str, str]:
    """`key=value,…` over the defaults.

    Raises:
      UserError: an unknown key, or a value that is none.
    """
    given = dict(OPTIONS)
    for part in filter(None, options.split(",")):
        key, _, value = part.partition("=")
        if key not in OPTIONS or not value:
            raise UserError(
                f"configs/imagenet.py: expected key=value with a key of {', '.join(OPTIONS)}, or "
                f"smoke, found {part!r}"
            )
        given[key] = value
    for key, choices in CHOICES.items():
        if given[key] not in choices:
            raise UserError(
                f"configs/imagenet.py: expected {key} to be {' or '.join(choices)}, found "
                f"{given[key]!r}"
            )
    for key, kind in (("resolution", int), ("data_ratio", float)):
        try:
            positive = kind(given[key]) > 0
        except ValueError:
            positive = False
        if not positive:
            raise UserError(
                f"configs/imagenet.py: expected {key} to be a number above 0, found {given[key]!r}"
            )
    return given
