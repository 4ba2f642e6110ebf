"""Encoders of images, labels and noise: DiDiRN and DiDiViT, and on the same trunks the plain
ResNets and ViTs.

They know images, labels and sigma; no loss and no sampling. A score model becomes a sampler's
`ScoreFn` by closing over its features:

    features = model.encode(images)
    score_fn = lambda labels, sigma: model.score(features, labels, sigma)
"""

from didicm_jax.diffusion.parameterization import PARAMETERIZATIONS
from didicm_jax.models.base import Classifier, ScoreModel
from didicm_jax.models.conditioning import PooledFeatures
from didicm_jax.models.option_checks import COMPUTE_DTYPES
from didicm_jax.models.registry import (
    MODELS,
    Entry,
    classifiers,
    create_model,
    names,
    options_of,
    score_models,
)
from didicm_jax.models.resnet import DiDiRN, ResNet
from didicm_jax.models.resnet_layers import Branches
from didicm_jax.models.resnet_options import STAGES, STEMS
from didicm_jax.models.vit import DiDiViT, TokenFeatures, ViT
from didicm_jax.models.vit_options import POOLS

__all__ = [
    "COMPUTE_DTYPES",
    "MODELS",
    "PARAMETERIZATIONS",
    "POOLS",
    "STAGES",
    "STEMS",
    "Branches",
    "Classifier",
    "DiDiRN",
    "DiDiViT",
    "Entry",
    "PooledFeatures",
    "ResNet",
    "ScoreModel",
    "TokenFeatures",
    "ViT",
    "classifiers",
    "create_model",
    "names",
    "options_of",
    "score_models",
]
