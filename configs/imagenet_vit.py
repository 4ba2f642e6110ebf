"""DiDiViT on ImageNet: the image is encoded once, the last blocks diffuse.

    python launch/prepare.py --dataset=imagenet2012 --source=TARS --data_dir=DATA
    python launch/main.py --workdir=runs/vit --config.data.data_dir=DATA \\
        --config=configs/imagenet_vit.py:model=didivit_s16,conditioned_blocks=2,draws=8

The options after the colon, each with its default:

    model=didivit_s16 (or _ti16, _b16)  resolution=224  conditioned_blocks=2  draws=8
    method=didicm|classifier

`method=classifier` is the matched baseline: the plain ViT of the same size, softmax cross-entropy.
The recipe is that of "Better plain ViT baselines for ImageNet-1k" (arXiv 2205.01580: 90 epochs of
1,024 images, AdamW, rate 1e-3, decay 0.1 times the rate, 10,000 warm-up steps, RandAugment, mixup
0.2, average pooling, fixed positions), with which its ViT-S/16 reaches 76.5 % top-1 as a
classifier. What DiDiViT reaches with it has not been measured here, for want of the data.

Cost: a forward pass of ViT-S/16 is 9.4 GFLOP at 224 px. With two conditioned blocks, eight sampling
steps cost 2.15 passes, and with none (only the head) 1.00.
"""

import ml_collections

from didicm_jax import config as configuration
from didicm_jax.errors import UserError

OPTIONS = {
    "model": "didivit_s16",
    "method": "didicm",
    "resolution": "224",
    "conditioned_blocks": "2",
    "draws": "8",
}


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The run that `options` ask for, `key=value,…`."""
    given = _parse(options)
    config = configuration.default()
    config.data.name = "imagenet2012"
    config.data.mean = (0.5, 0.5, 0.5)
    config.data.std = (0.5, 0.5, 0.5)
    config.data.resolution = int(given["resolution"])
    config.data.crop_scale = (0.05, 1.0)
    config.augment.flip = True
    config.augment.rand_augment = "rand-m10"
    config.augment.mixup = 0.2
    config.model.name = given["model"]
    config.model.dtype = "bfloat16"
    if given["method"] == "classifier":
        config.method = "cross_entropy"
        config.model.name = given["model"].removeprefix("didi")
    else:
        config.model.conditioned_blocks = int(given["conditioned_blocks"])
        config.diffusion.draws_per_image = int(given["draws"])

    config.train.batch_size = 1024
    config.train.duration = "90 epochs"
    config.train.log_every = "100 steps"
    config.train.checkpoint_every = "1 epoch"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = "10000 steps"
    config.optimizer.warmup_learning_rate = 0.0
    config.optimizer.clip_norm = 1.0
    config.evaluation.batch_size = 1024
    config.evaluation.every = "10 epochs"
    return config


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
                f"configs/imagenet_vit.py: expected key=value with a key of {', '.join(OPTIONS)}, "
                f"found {part!r}"
            )
        given[key] = value
    for key in ("resolution", "conditioned_blocks", "draws"):
        if not given[key].isdigit():
            raise UserError(
                f"configs/imagenet_vit.py: expected {key} to be a whole number, found "
                f"{given[key]!r}"
            )
    if given["method"] not in ("didicm", "classifier"):
        raise UserError(
            "configs/imagenet_vit.py: expected method to be didicm or classifier, found "
            f"{given['method']!r}"
        )
    return given
