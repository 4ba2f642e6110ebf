"""Whole recipes by name, and the options that follow the colon of a config file.

A file of `configs/` is thin: its docstring is what people read, and its `get_config` calls a recipe
here, which an installed package has too.
"""

import math
from typing import Any

import ml_collections

from didicm_jax.config import settings
from didicm_jax.errors import UserError

# Class probabilities as in the paper's tables (arXiv 2511.20263): eight Euler steps.
PAPER_SAMPLER = {
    "name": "cp",
    "steps": 8,
    "query": "min",
    "integrator": "euler",
    "grid": "auto",
    "tolerance": 0.0,
    "min_time": 1e-5,
    "views": 1,
    "temperature": 1.0,
}

# Mean and deviation of ImageNet's images, per channel.
_COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IMAGENET = {
    "recipe": ("strong", "weak"),
    "method": ("didicm", "classifier"),
    "model": "didirn50",
    "resolution": 224,
    "data_ratio": 1.0,
}
_IMAGENET_VIT = {
    "model": "didivit_s16",
    "method": ("didicm", "classifier"),
    "resolution": 224,
    "conditioned_blocks": 2,
    "draws": 8,
}
_RECOMMENDED = {
    "name": "cifar10",
    "images": ("few", "many"),
    "method": ("didicm", "classifier"),
    "resolution": 32,
}


def parse(text: str, file: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """The value of every option, given as `key=value,…` or by default.

    Args:
      text: what follows the colon of a config file.
      file: the config file, for errors.
      defaults: of every option: a text, a whole number, a number above 0, or a tuple of choices, of
        which the first is the default.

    Raises:
      UserError: an unknown key, one that is given twice, or a value that does not fit.
    """
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, word = part.partition("=")
        if key not in defaults or not word or key in given:
            raise UserError(
                f"{file}: expected key=value, each once, with a key of {', '.join(defaults)}, "
                f"found {part!r}; correct it"
            )
        expected, given[key] = _read(word, defaults[key])
        if expected:
            raise UserError(f"{file}: expected {key} to be {expected}, found {word!r}; correct it")
    first = {key: x[0] if isinstance(x, tuple) else x for key, x in defaults.items()}
    return first | given


def imagenet(options: str) -> ml_collections.ConfigDict:
    """The runs of the paper and their matched classifiers, as `configs/imagenet.py` explains them.

    Source: arXiv 2511.20263, implementation details.

    Raises:
      UserError: an option is unknown, or has a value that does not fit.
    """
    smoke = options == "smoke"
    given = parse("" if smoke else options, "configs/imagenet.py", _IMAGENET)
    config = _photos(*_COLOURS, given["resolution"])
    config.data.data_ratio = given["data_ratio"]
    config.model.name = given["model"]
    config.sampler.update(PAPER_SAMPLER)

    config.train.duration = "600 epochs"
    config.optimizer.name = "lamb"
    config.optimizer.weight_decay = 0.01
    config.optimizer.warmup = "5 epochs"
    config.optimizer.warmup_learning_rate = 1e-5
    strong = given["recipe"] == "strong"
    if strong:
        config.train.batch_size = 2048
        config.optimizer.learning_rate = 3.5e-3
        config.data.repeats = 3
        config.augment.rand_augment = "rand-m7-mstd0.5-inc1"
        config.augment.mixup = 0.2
        config.augment.cutmix = 1.0
        config.augment.switch_prob = 0.5
        config.augment.label_smoothing = 0.1
    else:
        config.train.batch_size = 1024
        # Fewer images, fewer steps: the paper raises the rate for them.
        config.optimizer.learning_rate = 2e-3 * math.sqrt(1 / given["data_ratio"])
        config.augment.color_jitter = 0.4
    if given["method"] == "classifier":
        config.method = "binary_cross_entropy" if strong else "cross_entropy"
        config.model.name = given["model"].replace("didirn", "resnet")
        config.sampler = settings.default().sampler  # which no classifier reads
    if smoke:
        _smoke(config)
    return config


def imagenet_vit(options: str) -> ml_collections.ConfigDict:
    """DiDiViT and its matched classifier, as `configs/imagenet_vit.py` explains them.

    Source: "Better plain ViT baselines for ImageNet-1k" (arXiv 2205.01580).

    Raises:
      UserError: an option is unknown, has a value that does not fit, or is not read.
    """
    given = parse(options, "configs/imagenet_vit.py", _IMAGENET_VIT)
    config = _photos((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), given["resolution"])
    config.data.crop_scale = (0.05, 1.0)
    config.augment.rand_augment = "rand-m10"
    config.augment.mixup = 0.2
    config.model.name = given["model"]
    if given["method"] == "classifier":
        for name in ("conditioned_blocks", "draws"):
            if f"{name}=" in options:
                raise UserError(
                    f"configs/imagenet_vit.py: expected {name} to be left out with "
                    "method=classifier, which does not read it, found "
                    f"{given[name]}; leave it out"
                )
        config.method = "cross_entropy"
        config.model.name = given["model"].removeprefix("didi")
    else:
        config.model.conditioned_blocks = given["conditioned_blocks"]
        config.diffusion.draws_per_image = given["draws"]

    config.train.batch_size = 1024
    config.train.duration = "90 epochs"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = "10000 steps"
    config.optimizer.warmup_learning_rate = 0.0
    config.optimizer.clip_norm = 1.0
    return config


def recommended(options: str) -> ml_collections.ConfigDict:
    """What docs/results.md recommends, as `configs/recommended.py` explains it.

    Raises:
      UserError: an option is unknown, or has a value that does not fit.
    """
    given = parse(options, "configs/recommended.py", _RECOMMENDED)
    resolution, few = given["resolution"] or 224, given["images"] == "few"
    classifies = given["method"] == "classifier"
    config = settings.default()
    config.data.name = given["name"]
    config.data.mean, config.data.std = _COLOURS
    whole_images(config, resolution)
    # What is best is chosen on the last of them.
    config.data.train_split, config.data.eval_split = "train[:95%]", "train[95%:]"
    # Four pixels a side at least are left at the end, as in the paper's networks; of 8 pixels two.
    config.model.stem = "fine" if resolution < 32 else "small" if resolution < 64 else "didirn"
    config.model.name = "resnet18" if classifies else "didirn18"
    config.optimizer.name = "adamw"
    config.evaluation.batch_size = 1000
    if classifies:
        config.method = "cross_entropy"
    if few:
        config.augment.label_smoothing = 0.1
        config.sampler.views = 2
        config.evaluation.best, config.evaluation.every = "nll", "5 epochs"
        config.train.batch_size, config.train.ema_decay = 128, 0.998
        # The diffusion learns more slowly than the classifier, which soon overfits.
        config.train.duration = "40 epochs" if classifies else "200 epochs"
        config.optimizer.warmup, config.optimizer.weight_decay = "10 epochs", 0.05
        if not classifies:
            config.model.init = "torch"
            config.diffusion.min_time, config.diffusion.stratified = 1e-5, False
    else:
        config.augment.cutmix = 1.0
        config.train.batch_size, config.train.ema_decay = 512, 0.998
        config.train.duration = "55 epochs"
        config.optimizer.learning_rate = 3e-3
        config.optimizer.warmup, config.optimizer.weight_decay = "3 epochs", 0.2
        if not classifies:
            config.model.conditioned_stages, config.model.parameterization = 0, "posterior"
            config.diffusion.loss, config.diffusion.draws_per_image = "cross_entropy", 4
    return config


def whole_images(config: ml_collections.ConfigDict, resolution: int) -> None:
    """Images are seen whole, mirrored and moved by up to an eighth of a side in training."""
    config.data.resolution = resolution
    config.data.crop_scale = config.data.crop_ratio = (1.0, 1.0)
    config.data.eval_crop = 1.0
    config.augment.flip, config.augment.shift = True, resolution // 8


def _photos(
    mean: tuple[float, ...], std: tuple[float, ...], resolution: int
) -> ml_collections.ConfigDict:
    """What the recipes for ImageNet have in common."""
    config = settings.default()
    config.data.name = "imagenet2012"
    config.data.mean, config.data.std = mean, std
    config.data.resolution = resolution
    config.augment.flip = True
    config.model.dtype = "bfloat16"
    config.train.log_every = "100 steps"
    config.train.checkpoint_every = "1 epoch"
    config.evaluation.batch_size = 1024
    config.evaluation.every = "10 epochs"
    config.sampler.steps = 8
    return config


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


def _read(word: str, default: Any) -> tuple[str, Any]:
    """What was expected, "" where the word fits, and its value."""
    if isinstance(default, tuple):
        return ("" if word in default else " or ".join(default)), word
    if isinstance(default, str):
        return "", word
    if isinstance(default, int):
        return ("", int(word)) if word.isascii() and word.isdigit() else ("a whole number", None)
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    return ("" if 0 < number < math.inf else "a number above 0"), number
