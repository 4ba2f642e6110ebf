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

from didicm_jax.config import presets


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The run that `options` ask for, `key=value,…`."""
    return presets.imagenet_vit(options)
