"""The table of settings: every setting of a run, in the order in which they are shown.

What is said of a setting anywhere comes from its row here: `default()`, what `validate` refuses,
what may change between two starts, `--help` and `docs/settings.md`. The bounds of numbers are where
float32 still gives finite posteriors and gradients (`tests/config/test_corners.py` goes there), or
where counters and memory end.
"""

from collections.abc import Sequence

from didicm_jax.config.checks import (
    Choice,
    Duration,
    EvaluationSets,
    Number,
    Numbers,
    RandAugment,
    Switch,
    Text,
)
from didicm_jax.config.setting import (
    Change,
    Setting,
    above_zero,
    among,
    lasting,
    model_option,
    other_than,
    photos,
    set_without,
)

ALWAYS, EVALUATING = Change.ALWAYS, Change.EVALUATING

# Ranges that several settings share. Seeds and steps are 32-bit integers on the devices.
INTEGERS = 2**31 - 1
BATCHES = Number(1, 2**20)
SHARES = Number(0, 1, open_low=True)
BELOW_ONE = Number(0, 1, open_high=True)

_PHOTOS = (photos(),)
_NO_SPLIT = (set_without("a split", "split", "dataset"),)  # another data set has its own
_NO_INTERVAL = (set_without("every", "every"),)
_DIDICM = among("method", "didicm")
_LOGLINEAR = (_DIDICM, among("diffusion.schedule", "loglinear"))
_GEOMETRIC = (_DIDICM, among("diffusion.schedule", "geometric"))
_CP = (_DIDICM, among("sampler.name", "cp"))
_CL = (_DIDICM, among("sampler.name", "cl"))
_DIFFUSING = (_DIDICM, among("sampler.name", "cp", "cl"))
_ONE_SHOT = (_DIDICM, among("sampler.name", "one_shot"))


def _model_names() -> Sequence[str]:
    from didicm_jax import models  # it brings flax

    return models.names()


def _integrators() -> Sequence[str]:
    from didicm_jax import diffusion  # it brings jax

    return tuple(diffusion.INTEGRATORS)


# One or two lines a row, which the formatter would make eight.
SETTINGS = (
    Setting("seed", 0, "chooses every random number of the run", Number(0, INTEGERS)),
    Setting("method", "didicm",
            "the diffusion, or a plain classifier on the same trunk: softmax (cross_entropy) or "
            "one sigmoid per class (binary_cross_entropy, timm's A1 recipe)",
            Choice(("didicm", "cross_entropy", "binary_cross_entropy"))),
    Setting("data.name", "digits", "digits, idx, or a set that tfds or launch/prepare.py prepared",
            Text("the name of a data set", required=True)),
    Setting("data.data_dir", "", "folder of the data set; empty: where it is installed",
            Text("a folder"), read=(other_than("data.name", "digits"),), change=ALWAYS),
    Setting("data.train_examples", 0,
            "training images to keep, the same share of each class; 0: all", Number(0, INTEGERS)),
    Setting("data.data_ratio", 1.0, "or the share of them to keep", SHARES),
    Setting("data.label_noise", 0.0,
            "share of the training labels to draw anew, uniformly over all classes, for "
            "experiments; which ones is chosen by seed and place, evaluations never see it",
            BELOW_ONE),
    Setting("data.resolution", 0,
            "pixels a side; 0: 224 for photos, as they are for digits and idx", Number(0, 8192)),
    Setting("data.train_split", "train",
            "part to train on, as tfds names parts, such as train[:90%]",
            Text("the name of a split", required=True)),
    Setting("data.eval_split", "",
            "part to evaluate on; empty: validation, or test where there is none",
            Text("the name of a split"), read=_NO_SPLIT, change=EVALUATING),
    Setting("data.repeats", 1, "copies of each example in a batch (repeated augmentation)",
            BATCHES),
    Setting("data.crop_scale", (0.08, 1.0),
            "smallest and largest share of the area in the random crop of training",
            Numbers(SHARES, "a smallest and a largest share", pair=True), read=_PHOTOS),
    Setting("data.crop_ratio", (3 / 4, 4 / 3), "smallest and largest width / height of that crop",
            Numbers(Number(0.001, 1000), "a smallest and a largest ratio", pair=True),
            read=_PHOTOS),
    Setting("data.eval_crop", 0.875, "share of the shorter side that evaluation shows", SHARES,
            read=_PHOTOS),
    Setting("data.max_broken_share", 0.001,
            "share of the images that may fail to decode before the run stops", BELOW_ONE,
            read=_PHOTOS, change=ALWAYS),
    # Pillow's own limit.
    Setting("data.max_pixels", 89_478_485,
            "pixels of the largest image that is decoded, against files made to fill the memory",
            Number(1, INTEGERS), read=_PHOTOS, change=ALWAYS),
    Setting("data.num_workers", 0, "threads that decode; 0: one per core", Number(0, 4096),
            read=_PHOTOS, change=ALWAYS),
    Setting("data.cache_gib", 1.0,
            "GiB of decoded images that each split may keep in memory; they are kept where all of "
            "them fit and look the same each time (evaluation; training with whole images)",
            Number(0, 2**20), read=_PHOTOS, change=ALWAYS),
    Setting("data.mean", (0.5,), "mean per channel, of images in [0, 1]",
            Numbers(Number(-1000, 1000), "a number per channel")),
    Setting("data.std", (0.5,), "deviation per channel, of images in [0, 1]",
            Numbers(Number(0.001, 1000), "a number per channel")),
    Setting("augment.flip", False, "mirror half of the images", Switch()),
    Setting("augment.shift", 0, "pixels to pad by before a crop at random; 0: off", Number(0, 128)),
    Setting("augment.color_jitter", 0.0,
            "strength of the change of brightness, contrast and saturation; 0: off",
            Number(0, 100)),
    Setting("augment.rand_augment", "", "RandAugment; empty: off", RandAugment()),
    Setting("augment.mixup", 0.0, "alpha of mixup's Beta distribution; 0: off", Number(0, 1000)),
    Setting("augment.cutmix", 0.0, "alpha of cutmix's Beta distribution; 0: off", Number(0, 1000)),
    Setting("augment.switch_prob", 0.5, "probability of cutmix rather than mixup", Number(0, 1),
            read=(above_zero("augment.mixup"), above_zero("augment.cutmix"))),
    Setting("augment.label_smoothing", 0.0, "share of a label spread over all classes", BELOW_ONE),
    Setting("model.name", "didirn18",
            "the network: a score model for didicm, a classifier for the other methods",
            Choice(_model_names, "didirn18, 34, 50, 101, 152 and didivit_ti, s, b with 16, 8, 4; "
                                 "resnet… and vit_… for classifiers")),
    Setting("model.width", 1.0, "factor of every channel count", Number(0, 100, open_low=True),
            read=(model_option("width"),)),
    Setting("model.dtype", "float32", "type of the computation; parameters and norms are float32",
            Choice(("float32", "bfloat16")), read=(model_option("dtype"),)),
    Setting("model.parameterization", "ratio",
            "how the output is read: free log-ratios (the original), log-ratios held within what "
            "a score can be, or log q_0",
            Choice(("ratio", "bounded", "posterior")), read=(model_option("parameterization"),)),
    Setting("model.stem", "didirn",
            "first layers, by the total stride that they give a ResNet: 4 (each pixel doubled), 8 "
            "(for thumbnails), 16 (the original), 32 (ResNet's 7x7 of stride 2)",
            Choice(("fine", "small", "didirn", "imagenet")), read=(model_option("stem"),)),
    Setting("model.sync_batch_norm", False,
            "statistics of a batch over all devices, and not of each device", Switch(),
            read=(model_option("norm_axis_name"),)),
    Setting("model.conditioned_stages", 4,
            "stages from the end that see label and noise; 4: the paper, 0: only the head",
            Number(0, 4), read=(model_option("conditioned_stages"),)),
    Setting("model.init", "zero",
            "first weights of a score model: so that it starts from the score of pure noise, or "
            "PyTorch's, as the original",
            Choice(("zero", "torch")), read=(model_option("init"),)),
    # Before it was a setting, groups had two channels, however small the map.
    Setting("model.group_elements", 16,
            "values that a group of a GroupNorm has at least, channels x pixels of the map; two "
            "of them normalise to their sign",
            Number(1, 2**20),
            read=(model_option("group_elements"), above_zero("model.conditioned_stages")),
            before=1),
    Setting("model.depth", 12, "blocks", Number(1, 1000), read=(model_option("depth"),)),
    Setting("model.pool", "average",
            "what the classes are read from: the mean of the tokens, or a token of their own",
            Choice(("average", "token")), read=(model_option("pool"),)),
    Setting("model.conditioned_blocks", -1,
            "blocks from the end that see label and noise; -1: all, 0: only the head",
            Number(-1, 1000), read=(model_option("conditioned_blocks"),)),
    Setting("model.attention", "plain",
            "how training computes it on NVIDIA's GPUs: by products, or by cuDNN's FlashAttention",
            Choice(("plain", "cudnn")),
            read=(model_option("pool"), among("model.dtype", "bfloat16")), change=ALWAYS),
    Setting("model.init_from", "",
            "trained network to fine-tune: a run, a bundle, hf://user/name, or one of the package; "
            "empty: none",
            Text("a folder or a name")),
    Setting("diffusion.schedule", "loglinear", "how the noise grows with time",
            Choice(("loglinear", "geometric")), read=(_DIDICM,)),
    # float32 tells 1 - 1e-6 from 1 with an error of a few per cent of 1e-6.
    Setting("diffusion.eps", 1e-3, "share of labels still clean at t = 1", Number(1e-6, 0.5),
            read=_LOGLINEAR),
    Setting("diffusion.sigma_min", 1e-3, "total noise at t = 0", Number(1e-8, 20), read=_GEOMETRIC),
    # Behind e^-20 float32 has no digit of the clean label left.
    Setting("diffusion.sigma_max", 1.0, "total noise at t = 1", Number(1e-8, 20), read=_GEOMETRIC),
    Setting("diffusion.loss", "score_entropy",
            "the paper's loss, or the cross-entropy of the clean label given the noised one",
            Choice(("score_entropy", "cross_entropy")), read=(_DIDICM,)),
    Setting("diffusion.min_time", 1e-3, "smallest time that is trained", BELOW_ONE,
            read=(_DIDICM,)),
    Setting("diffusion.stratified", True,
            "spread the times over the global batch, and not draw each by itself", Switch(),
            read=(_DIDICM,)),
    Setting("diffusion.draws_per_image", 1, "noise levels that share the encoding of an image",
            Number(1, 4096), read=(_DIDICM,)),
    Setting("diffusion.label_noise", 0.0,
            "share of the training labels that is assumed to be drawn anew at random: the "
            "diffusion begins there, and cross_entropy is forward-corrected",
            BELOW_ONE, read=(among("method", "didicm", "cross_entropy"),)),
    Setting("train.batch_size", 64, "images in a step, over all devices", BATCHES),
    Setting("train.accumulate", 1,
            "micro-batches per step and device; D devices with A of them give what D A devices "
            "give, but for rounding: without sync_batch_norm and, if images are mixed, with a "
            "multiple of 16 images in each",
            BATCHES, change=ALWAYS),
    Setting("train.remat", "none",
            "what is computed again for the backward pass, to save memory: nothing, whole blocks, "
            "or all of them that a policy of jax.checkpoint does not save",
            Choice(("none", "blocks", "dots_saveable", "dots_with_no_batch_dims_saveable")),
            change=ALWAYS),
    Setting("train.duration", "60 epochs", "length of the training", Duration()),
    # float32 still tells 0.999999 from 1.
    Setting("train.ema_decay", 0.0,
            "decay per step of the average of the weights, which is evaluated; 0: off",
            Number(0, 0.999999)),
    Setting("train.shard_optimizer", False,
            "spread the optimizer's moments and the average over the devices", Switch(),
            change=ALWAYS),
    Setting("train.max_skipped", 50, "non-finite steps in a row after which the run stops",
            Number(1, INTEGERS), change=ALWAYS),
    Setting("train.log_every", "20 steps", "time between two lines of metrics.jsonl", Duration(),
            change=ALWAYS),
    Setting("train.checkpoint_every", "10 epochs",
            "time between two checkpoints; each evaluation is followed by one too", Duration(),
            change=ALWAYS),
    Setting("report.wandb", False,
            "report to Weights & Biases too, where its variables say (WANDB_PROJECT, WANDB_MODE)",
            Switch(), change=ALWAYS),
    Setting("optimizer.name", "lamb", "lamb as in timm, adamw, or sgd with Nesterov momentum 0.9",
            Choice(("lamb", "adamw", "sgd"))),
    Setting("optimizer.learning_rate", 2e-3, "rate at the end of the warm-up",
            Number(0, 10, open_low=True)),
    Setting("optimizer.warmup", "5 epochs", "length of the linear warm-up; 0 steps: none",
            Duration(zero=True)),
    Setting("optimizer.warmup_learning_rate", 1e-5, "rate at step 0", Number(0, 10),
            read=(lasting("optimizer.warmup"),)),
    Setting("optimizer.weight_decay", 0.01, "decay of weights, not of biases and norms",
            Number(0, 10)),
    Setting("optimizer.clip_norm", 1.0, "largest norm of the global gradient; 0: not clipped",
            Number(0, 1e6)),
    Setting("evaluation.batch_size", 256, "images in a batch of an evaluation, over all devices",
            BATCHES, change=ALWAYS),
    Setting("evaluation.every", "10 epochs",
            "time between two evaluations; the last step is followed by one too", Duration(),
            read=_NO_INTERVAL, change=ALWAYS),
    Setting("evaluation.best", "top1",
            "which checkpoint is best: that of the highest top-1 or of the least NLL, which with "
            "few images comes long before the end",
            Choice(("top1", "nll"))),
    Setting("evaluation.sets", (),
            "several sets to evaluate on while training, such as ('held_out=train[95%:]', 'noise="
            "test with gaussian_noise:3 every 20 epochs'); the first decides what is best, and "
            "stays the same part; empty: data.eval_split alone",
            EvaluationSets(), change=ALWAYS),
    Setting("sampler.name", "cp",
            "class probabilities, class labels, or a single call of the network",
            Choice(("cp", "cl", "one_shot")), read=(_DIDICM,), change=ALWAYS),
    Setting("sampler.steps", 8, "calls of the network", Number(1, 100_000), read=_DIFFUSING,
            change=ALWAYS),
    Setting("sampler.query", "min",
            "label that the network is asked about: the least or most probable, or a draw",
            Choice(("min", "max", "random")), read=_CP, change=ALWAYS),
    Setting("sampler.integrator", "exact",
            "how a step is made; euler is the original, which clips probabilities to 0",
            Choice(_integrators), read=_CP, change=ALWAYS, before="euler"),
    Setting("sampler.grid", "auto",
            "times of the steps; auto: the integrator's own, original for euler and cl, linear "
            "for exact and heun",
            Choice(("auto", "original", "linear")), read=_DIFFUSING, change=ALWAYS),
    Setting("sampler.tolerance", 0.0,
            "total variation that a posterior may still have to go when it stops early; 0: all "
            "steps",
            Number(0, 1), read=_CP, change=ALWAYS),
    # float32 counts up to 2^24 one by one.
    Setting("sampler.chains", 10, "labels per image", Number(1, 2**24), read=_CL, change=ALWAYS),
    Setting("sampler.min_time", 1e-5, "time at which the diffusion ends", BELOW_ONE,
            read=_DIFFUSING, change=ALWAYS),
    Setting("sampler.views", 1,
            "views of each image, itself and others mirrored and moved as in training: a diffusion "
            "asks about another one at each step, by turns, in S steps about S at most; else "
            "posteriors are averaged",
            Number(1, 1024), change=ALWAYS),
    Setting("sampler.temperature", 1.0,
            "posteriors are raised to 1 over it and normalised: above 1 they are less confident",
            Number(1e-3, 1e3), change=ALWAYS),
    Setting("sampler.time", 0.6, "time, and with it noise, at which the network is asked", SHARES,
            read=_ONE_SHOT, change=ALWAYS),
)  # fmt: skip

BY_KEY = {setting.key: setting for setting in SETTINGS}
