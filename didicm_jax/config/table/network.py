"""Settings of the network and of the diffusion that it learns."""

from collections.abc import Sequence

from didicm_jax.config.checks import Choice, Number, Switch
from didicm_jax.config.setting import BELOW_ONE, Setting, among, model_option

_DIDICM = among("method", "didicm")
_LOGLINEAR = (_DIDICM, among("diffusion.schedule", "loglinear"))
_GEOMETRIC = (_DIDICM, among("diffusion.schedule", "geometric"))


def _model_names() -> Sequence[str]:
    from didicm_jax import models  # it brings flax

    return models.names()


SETTINGS = (
    Setting(
        "model.name",
        "didirn18",
        "the network: a score model for didicm, a classifier for the other methods",
        Choice(
            _model_names,
            "didirn18, 34, 50, 101, 152 and didivit_ti, s, b with 16, 8, 4; "
            "resnet… and vit_… for classifiers",
        ),
    ),
    Setting(
        "model.width",
        1.0,
        "factor of every channel count",
        Number(0, 100, open_low=True),
        read=(model_option("width"),),
    ),
    Setting(
        "model.dtype",
        "float32",
        "type of the computation; parameters and norms are float32",
        Choice(("float32", "bfloat16")),
        read=(model_option("dtype"),),
    ),
    Setting(
        "model.parameterization",
        "ratio",
        "how the output is read: free log-ratios (the original), log-ratios held within what a "
        "score can be, or log q_0",
        Choice(("ratio", "bounded", "posterior")),
        read=(model_option("parameterization"),),
    ),
    Setting(
        "model.stem",
        "didirn",
        "first layers: the original's, ResNet's 7x7 of stride 2, or one for thumbnails",
        Choice(("didirn", "imagenet", "small")),
        read=(model_option("stem"),),
    ),
    Setting(
        "model.sync_batch_norm",
        False,
        "statistics of a batch over all devices, and not of each device",
        Switch(),
        read=(model_option("norm_axis_name"),),
    ),
    Setting(
        "model.conditioned_stages",
        4,
        "stages from the end that see label and noise; 4: the paper, 0: only the head",
        Number(0, 4),
        read=(model_option("conditioned_stages"),),
    ),
    Setting("model.depth", 12, "blocks", Number(1, 1000), read=(model_option("depth"),)),
    Setting(
        "model.pool",
        "average",
        "what the classes are read from: the mean of the tokens, or a token of their own",
        Choice(("average", "token")),
        read=(model_option("pool"),),
    ),
    Setting(
        "model.conditioned_blocks",
        -1,
        "blocks from the end that see label and noise; -1: all, 0: only the head",
        Number(-1, 1000),
        read=(model_option("conditioned_blocks"),),
    ),
    Setting(
        "diffusion.schedule",
        "loglinear",
        "how the noise grows with time",
        Choice(("loglinear", "geometric")),
        read=(_DIDICM,),
    ),
    Setting(
        "diffusion.eps",
        1e-3,
        "share of labels still clean at t = 1",
        Number(1e-6, 0.5),  # float32 tells 1 - 1e-6 from 1 with an error of a few per cent of 1e-6
        read=_LOGLINEAR,
    ),
    Setting(
        "diffusion.sigma_min",
        1e-3,
        "total noise at t = 0",
        Number(1e-8, 20),
        read=_GEOMETRIC,
    ),
    Setting(
        "diffusion.sigma_max",
        1.0,
        "total noise at t = 1",
        Number(1e-8, 20),  # behind e^-20 float32 has no digit of the clean label left
        read=_GEOMETRIC,
    ),
    Setting(
        "diffusion.loss",
        "score_entropy",
        "the paper's loss, or the cross-entropy of the clean label given the noised one",
        Choice(("score_entropy", "cross_entropy")),
        read=(_DIDICM,),
    ),
    Setting(
        "diffusion.min_time",
        1e-3,
        "smallest time that is trained",
        BELOW_ONE,
        read=(_DIDICM,),
    ),
    Setting(
        "diffusion.stratified",
        True,
        "spread the times over the global batch, and not draw each by itself",
        Switch(),
        read=(_DIDICM,),
    ),
    Setting(
        "diffusion.draws_per_image",
        1,
        "noise levels that share the encoding of an image",
        Number(1, 4096),
        read=(_DIDICM,),
    ),
)
