"""Every setting of a run: its default, its meaning, and what it may be.

`default()` is the one place where keys are made; the files in `configs/` change its values. Keys
are fixed: a name that is not here is an error wherever it comes from.
"""

import math
from collections.abc import Callable
from typing import Any

import ml_collections

from didicm_jax.errors import UserError

METHODS = ("didicm", "cross_entropy", "binary_cross_entropy")

# What may change between two starts of a run, and, further, between training and evaluating it: a
# key, or a whole section. All else says what is trained.
FREE = (
    "data.data_dir",
    "data.num_workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.shard_optimizer",
    "sampler.grid",
)
FREE_IN_EVALUATION = (*FREE, "sampler", "evaluation", "data.eval_split", "data.max_broken_share")

# What is read only where another key has a certain value: elsewhere it must stay at its default.
_READ_ONLY_IF: dict[str, tuple[str, tuple[str, ...]]] = {
    "diffusion": ("method", ("didicm",)),
    "sampler": ("method", ("didicm",)),
    "sampler.grid": ("sampler.name", ("cp", "cl")),
    "sampler.tolerance": ("sampler.name", ("cp",)),
    "diffusion.eps": ("diffusion.schedule", ("loglinear",)),
    "diffusion.sigma_min": ("diffusion.schedule", ("geometric",)),
    "diffusion.sigma_max": ("diffusion.schedule", ("geometric",)),
}
_PHOTOS_ONLY = (
    "crop_scale",
    "crop_ratio",
    "eval_crop",
    "max_broken_share",
    "num_workers",
)


def default() -> ml_collections.ConfigDict:
    """A config with every key at its default.

    Durations are strings, a number and a unit: `"60 epochs"`, `"500 steps"`, `"1e6 examples"`.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    # didicm: the diffusion. cross_entropy, binary_cross_entropy: the plain classifier on the same
    # trunk, with softmax or with one sigmoid per class (timm's A1 recipe).
    config.method = "didicm"

    config.data = ml_collections.ConfigDict()
    config.data.name = "digits"  # digits, idx, or a set that tfds or launch/prepare.py prepared
    config.data.data_dir = ""  # "": where the data set is installed
    config.data.train_examples = 0  # keep this many, the same share of each class; 0: all
    config.data.data_ratio = 1.0  # or this share of them
    config.data.resolution = 0  # pixels a side; 0: 224 for photos, as they are for digits and idx
    # Parts of it as tfds names them, such as train[:90%] and train[90%:].
    config.data.train_split = "train"
    config.data.eval_split = ""  # "": validation, or test where there is none
    config.data.repeats = 1  # copies of each example in a batch (repeated augmentation)
    # Of photos: the random crop of training, as shares of the area and as width / height.
    config.data.crop_scale = (0.08, 1.0)
    config.data.crop_ratio = (3 / 4, 4 / 3)
    config.data.eval_crop = 0.875  # share of the shorter side that evaluation shows
    config.data.max_broken_share = 0.001  # more images that cannot be decoded stop the run
    config.data.num_workers = 0  # threads that decode; 0: one per core
    config.data.mean = (0.5,)  # per channel, of images in [0, 1]
    config.data.std = (0.5,)

    config.augment = ml_collections.ConfigDict()
    config.augment.flip = False  # mirror half of the images
    config.augment.shift = 0  # pad by so many pixels and crop at random
    config.augment.color_jitter = 0.0  # of brightness, contrast and saturation
    config.augment.rand_augment = ""  # such as rand-m7-mstd0.5-inc1, as timm spells it
    config.augment.mixup = 0.0  # alpha of its Beta distribution
    config.augment.cutmix = 0.0
    config.augment.switch_prob = 0.5  # of cutmix, where both are on
    config.augment.label_smoothing = 0.0

    config.model = ml_collections.ConfigDict()
    # didirn18|34|50|101|152, didivit_ti|s|b and 16|8|4, or resnet… and vit_… for a classifier
    config.model.name = "didirn18"
    config.model.width = 1.0  # multiplies every channel count
    config.model.dtype = "float32"  # of the computation; parameters and norms are float32
    # Of score models: what the output is read as, log-ratios that are free (the original) or held
    # within what a score can be, or log q_0.
    config.model.parameterization = "ratio"  # ratio, bounded, posterior
    # Of ResNets.
    config.model.stem = "didirn"  # didirn, imagenet, small
    config.model.sync_batch_norm = False  # statistics over all devices, or each device its own
    config.model.conditioned_stages = 4  # of didirn, from the end; 4: the paper, 0: only the head
    # Of ViTs.
    config.model.depth = 12  # blocks
    config.model.pool = "average"  # average, token
    config.model.conditioned_blocks = -1  # of didivit, from the end; -1: all, 0: only the head

    config.diffusion = ml_collections.ConfigDict()  # didicm alone
    config.diffusion.schedule = "loglinear"  # loglinear, geometric
    config.diffusion.eps = 1e-3  # loglinear: share of labels still clean at t = 1
    config.diffusion.sigma_min = 1e-3  # geometric: total noise at t = 0
    config.diffusion.sigma_max = 1.0  # geometric: total noise at t = 1
    # The paper's, or the cross-entropy of the clean label given the noised one (posterior only).
    config.diffusion.loss = "score_entropy"  # score_entropy, cross_entropy
    config.diffusion.min_time = 1e-3  # smallest time that is trained
    config.diffusion.stratified = True  # times spread over the global batch, or independent
    config.diffusion.draws_per_image = 1  # noise levels that share the encoding of an image

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 64  # global
    config.train.accumulate = 1  # micro-batches per step and device
    config.train.duration = "60 epochs"
    config.train.ema_decay = 0.0  # of parameters and statistics, used in evaluation; 0: off
    config.train.shard_optimizer = False  # spread its moments and the average over the devices
    config.train.max_skipped = 50  # stop after so many non-finite steps in a row
    config.train.log_every = "20 steps"
    config.train.checkpoint_every = "10 epochs"

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "lamb"  # lamb, adamw, sgd (Nesterov momentum 0.9)
    config.optimizer.learning_rate = 2e-3  # at the end of the warm-up
    config.optimizer.warmup = "5 epochs"
    config.optimizer.warmup_learning_rate = 1e-5  # at step 0
    config.optimizer.weight_decay = 0.01  # not on biases and norms
    config.optimizer.clip_norm = 1.0  # of the global gradient; 0: off

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.batch_size = 256  # global
    config.evaluation.every = "10 epochs"

    config.sampler = ml_collections.ConfigDict()  # didicm alone
    config.sampler.name = "cp"  # cp, cl, one_shot
    config.sampler.steps = 8  # cp, cl: network calls
    config.sampler.query = "min"  # cp: min, max, random
    config.sampler.integrator = "euler"  # cp: euler, exact, heun
    # cp, cl: original, linear; auto: the integrator's own, original for euler and cl, else linear.
    config.sampler.grid = "auto"
    config.sampler.tolerance = 0.0  # cp: stop where a posterior moves less (total variation)
    config.sampler.chains = 10  # cl: labels per image
    config.sampler.min_time = 1e-5  # cp, cl: where the diffusion ends
    config.sampler.time = 0.6  # one_shot: the noise level asked
    return config.lock()


def steps(duration: str, *, batch_size: int, num_examples: int, key: str = "duration") -> int:
    """A duration in steps, rounded up.

    Args:
      duration: a number and `steps`, `epochs` or `examples`.
      batch_size: global batch.
      num_examples: in an epoch.
      key: what the error calls it.

    Raises:
      UserError: it does not read as a duration of more than 0.
    """
    number, unit = _duration(key, duration)
    per_unit = {"steps": 1.0, "epochs": num_examples / batch_size, "examples": 1 / batch_size}[unit]
    # 1e-9: 60 * (1437 / 64) * 64 / 64 is not always the integer that it should be.
    return max(1, math.ceil(number * per_unit - 1e-9))


def _duration(key: str, text: str) -> tuple[float, str]:
    words = text.split()
    units = {"step": "steps", "epoch": "epochs", "example": "examples"}
    try:
        number, unit = float(words[0]), units[words[1].removesuffix("s")]
        valid = len(words) == 2 and 0 < number < math.inf
    except (IndexError, ValueError, KeyError):
        valid = False
    if not valid:
        raise UserError(
            f"config.{key}: expected a number above 0 and a unit, like '60 epochs', '500 steps' or "
            f"'1e6 examples', found {text!r}; change it"
        )
    return number, unit


def _one_of(*choices: str) -> Callable[[str, Any], None]:
    def check(key: str, value: Any) -> None:
        if value not in choices:
            raise UserError(
                f"config.{key}: expected one of {', '.join(choices)}, found {value!r}; choose one"
            )

    return check


def _number(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable:
    def check(key: str, value: Any) -> None:
        above = value > low if open_low else value >= low
        if not (above and value <= high and value < math.inf):
            bound = f"{'above' if open_low else 'at least'} {low:g}"
            upper = "" if high == math.inf else f" and at most {high:g}"
            raise UserError(
                f"config.{key}: expected a number {bound}{upper}, found {value}; change it"
            )

    return check


def _below_one(key: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"config.{key}: expected a number in [0, 1), found {value}; change it")


def _anything(key: str, value: Any) -> None:
    """For keys whose readers check them: names of files and of registered things."""


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "seed": _number(0, 2**31 - 1),
    "method": _one_of(*METHODS),
    "data.name": _anything,
    "data.data_dir": _anything,
    "data.train_examples": _number(0),
    "data.data_ratio": _anything,
    "data.resolution": _anything,
    "data.repeats": _number(1),
    "data.crop_scale": _anything,
    "data.crop_ratio": _anything,
    "data.eval_crop": _anything,
    "data.train_split": _anything,
    "data.eval_split": _anything,
    "data.max_broken_share": _anything,
    "data.num_workers": _anything,
    "data.mean": _anything,
    "data.std": _anything,
    "augment.flip": _anything,
    "augment.shift": _anything,
    "augment.color_jitter": _anything,
    "augment.rand_augment": _anything,
    "augment.mixup": _anything,
    "augment.cutmix": _anything,
    "augment.switch_prob": _anything,
    "augment.label_smoothing": _anything,
    "model.name": _anything,
    "model.width": _number(0, open_low=True),
    "model.stem": _anything,
    "model.dtype": _one_of("float32", "bfloat16"),
    "model.parameterization": _one_of("ratio", "bounded", "posterior"),
    "model.conditioned_stages": _number(0, 4),
    "model.depth": _number(1),
    "model.pool": _one_of("average", "token"),
    "model.conditioned_blocks": _number(-1),
    "model.sync_batch_norm": _anything,
    "diffusion.schedule": _one_of("loglinear", "geometric"),
    "diffusion.eps": _number(0, 0.5, open_low=True),
    "diffusion.sigma_min": _number(0, open_low=True),
    "diffusion.sigma_max": _number(0, open_low=True),
    "diffusion.loss": _one_of("score_entropy", "cross_entropy"),
    "diffusion.min_time": _below_one,
    "diffusion.stratified": _anything,
    "diffusion.draws_per_image": _number(1),
    "train.batch_size": _number(1),
    "train.accumulate": _number(1),
    "train.duration": _duration,
    "train.ema_decay": _below_one,
    "train.shard_optimizer": _anything,
    "train.max_skipped": _number(1),
    "train.log_every": _duration,
    "train.checkpoint_every": _duration,
    "optimizer.name": _one_of("lamb", "adamw", "sgd"),
    "optimizer.learning_rate": _number(0, open_low=True),
    "optimizer.warmup": _duration,
    "optimizer.warmup_learning_rate": _number(0),
    "optimizer.weight_decay": _number(0),
    "optimizer.clip_norm": _number(0),
    "evaluation.batch_size": _number(1),
    "evaluation.every": _duration,
    "sampler.name": _one_of("cp", "cl", "one_shot"),
    "sampler.steps": _number(1),
    "sampler.query": _one_of("min", "max", "random"),
    "sampler.integrator": _one_of("euler", "exact", "heun"),
    "sampler.grid": _one_of("auto", "original", "linear"),
    "sampler.tolerance": _number(0),
    "sampler.chains": _number(1),
    "sampler.min_time": _below_one,
    "sampler.time": _number(0, 1, open_low=True),
}


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Dotted keys and their values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every key and value, before anything expensive starts.

    Raises:
      UserError: a key is unknown or missing, or a value has the wrong type or range.
    """
    found, expected = flatten(config), flatten(default())
    for word, keys in (
        ("unknown", found.keys() - expected.keys()),
        ("missing", expected.keys() - found.keys()),
    ):
        if keys:
            raise UserError(
                f"config: {word} keys {', '.join(sorted(keys))}; see didicm_jax/config.py"
            )
    for key, value in found.items():
        wanted = type(expected[key])
        # An int is a fine float; a bool is not a fine int.
        fits = isinstance(value, wanted) or (wanted is float and type(value) is int)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            raise UserError(
                f"config.{key}: expected {wanted.__name__}, like {expected[key]!r}, found {value!r}"
            )
        if wanted is tuple and not all(type(x) in (int, float) for x in value):
            raise UserError(
                f"config.{key}: expected numbers, like {expected[key]!r}, found {value!r}"
            )
        _CHECKS[key](key, value)
    _check_read(found, expected)
    sampler = config.sampler
    if (sampler.name, sampler.grid) == ("cp", "original") and sampler.integrator != "euler":
        raise UserError(
            f"config.sampler.grid: expected auto or linear with integrator={sampler.integrator}, "
            "found original, which only euler can walk; choose one"
        )
    if config.diffusion.loss == "cross_entropy" and (
        config.model.parameterization != "posterior" or config.diffusion.min_time == 0
    ):
        raise UserError(
            "config.diffusion.loss: expected cross_entropy with model.parameterization=posterior "
            f"and diffusion.min_time above 0, found {config.model.parameterization} and "
            f"{config.diffusion.min_time:g}; change one"
        )
    if config.diffusion.sigma_min >= config.diffusion.sigma_max:
        raise UserError(
            "config.diffusion: expected sigma_min < sigma_max, found "
            f"{config.diffusion.sigma_min} and {config.diffusion.sigma_max}; change one"
        )


def _check_read(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Refuses a changed setting that nothing would read."""
    for key in (k for k in found if found[k] != expected[k]):
        for prefix, (other, values) in _READ_ONLY_IF.items():
            if under(key, (prefix,)) and found[other] not in values:
                raise UserError(
                    f"config.{key}: expected its default {expected[key]!r} with {other}="
                    f"{found[other]}, which does not read it, found {found[key]!r}; leave it out"
                )
        if key.removeprefix("data.") in _PHOTOS_ONLY and found["data.name"] in ("digits", "idx"):
            raise UserError(
                f"config.{key}: expected its default {expected[key]!r} with data.name="
                f"{found['data.name']}, which has no photos, found {found[key]!r}; leave it out"
            )


def under(key: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of `prefixes` or within a section among them."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def from_json(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """The config that a run's `config.json` holds; `validate` it before use.

    A key that is younger than the run has its default, which always is what was done before.
    """

    def tuples(value: Any) -> Any:  # JSON knows no tuples, and no setting is a list
        if isinstance(value, dict):
            return {key: tuples(inner) for key, inner in value.items()}
        return tuple(value) if isinstance(value, list) else value

    config = default()
    with config.unlocked(), config.ignore_type():
        config.update(tuples(values))
    # It was the default once, and meant what auto means now.
    if config.sampler.grid == "original":
        config.sampler.grid = "auto"
    return config


def differences(
    ours: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both values; None stands for a missing key."""
    a, b = flatten(ours), flatten(theirs)
    return {k: (a.get(k), b.get(k)) for k in sorted(a | b) if a.get(k) != b.get(k)}
