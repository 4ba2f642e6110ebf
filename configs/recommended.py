"""What docs/results.md recommends, for any prepared set of photos, your own too.

    python launch/prepare.py --dataset=folder --name=birds --source=TREE --data_dir=DATA
    python launch/main.py --config=configs/recommended.py:name=birds,images=few \\
        --workdir=runs/birds --config.data.data_dir=DATA

The options after the colon, each with its default:

    name=cifar10  images=few|many  method=didicm|classifier  resolution=32

`images=few`, some hundreds a class or less: the paper's form with smoothed labels, many epochs,
eight exact steps over two views of an image. `images=many`: the head alone diffuses, at the cost of
a classifier, trained by the denoising cross-entropy. `method=classifier` is what to hold either
against, on the same trunk: with few images it is stopped after a fifth of the epochs, before it
overfits, and averages two views too.

The last 5 % of the training images are held out, for the choice of the best checkpoint, by its NLL
where images are few: `--mode=evaluate --checkpoint=best --dataset=NAME --data_dir=DATA
--split=validation` judges it, on what stood in TREE/val. What was measured is CIFAR-10
at an eighth of the width (few) and three eighths (many): for other data this is where to start.
"""

import ml_collections

from didicm_jax.config import presets


def get_config(options: str = "") -> ml_collections.ConfigDict:
    """The options are described above."""
    return presets.recommended(options)
