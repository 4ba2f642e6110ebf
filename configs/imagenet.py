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

import ml_collections

from didicm_jax.config import presets


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The run that `options` ask for, `key=value,…` or `smoke`."""
    return presets.imagenet(options)
