"""Encoders of images, labels and noise: DiDiRN and the plain ResNets on the same trunk.

They know images, labels and sigma; no loss and no sampling. A score model becomes a sampler's
`ScoreFn` by closing over its features:

    features = model.encode(images)
    score_fn = lambda labels, sigma: model.score(features, labels, sigma)
"""

from didicm_jax.models.base import Classifier, ScoreModel
from didicm_jax.models.registry import classifiers, create_model, names, score_models
from didicm_jax.models.resnet import BlockFeatures, DiDiRN, PooledFeatures, ResNet

__all__ = [
    "BlockFeatures",
    "Classifier",
    "DiDiRN",
    "PooledFeatures",
    "ResNet",
    "ScoreModel",
    "classifiers",
    "create_model",
    "names",
    "score_models",
]
