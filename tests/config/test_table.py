"""What follows from the table of settings: what is refused, what may change, the reference page."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest

from didicm_jax import augment
from didicm_jax import config as configuration
from didicm_jax.config import checks, reference
from didicm_jax.config.table import BY_KEY, SETTINGS
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep

ROOT = Path(__file__).parents[2]
CLASSIFIER = {"method": "cross_entropy", "model.name": "resnet18"}
BINARY = CLASSIFIER | {"method": "binary_cross_entropy"}
PHOTOS = {"data.name": "birds"}
GEOMETRIC = {"diffusion.schedule": "geometric"}
CL, ONE_SHOT = {"sampler.name": "cl"}, {"sampler.name": "one_shot"}
VIT, PLAIN_VIT = {"model.name": "didivit_s4"}, CLASSIFIER | {"model.name": "vit_s4"}
BOTH = {"augment.mixup": 0.2, "augment.cutmix": 1.0}


def configured(changes):
    config = configuration.default()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


# A setting with another value than its default, settings with which it is read, and all of those
# with which it is not: from reading the code that uses it, not from the table.
READ = [
    ("data.data_dir", "x", [{"data.name": "idx"}, PHOTOS], [{}]),
    ("data.crop_scale", (0.5, 1.0), [PHOTOS], [{}, {"data.name": "idx"}]),
    ("data.crop_ratio", (0.5, 2.0), [PHOTOS], [{}, {"data.name": "idx"}]),
    ("data.eval_crop", 0.5, [PHOTOS], [{}, {"data.name": "idx"}]),
    ("data.max_broken_share", 0.5, [PHOTOS], [{}, {"data.name": "idx"}]),
    ("data.max_pixels", 10**6, [PHOTOS], [{}, {"data.name": "idx"}]),
    ("data.num_workers", 2, [PHOTOS], [{}, {"data.name": "idx"}]),
    ("data.cache_gib", 0.0, [PHOTOS], [{}, {"data.name": "idx"}]),
    (
        "data.eval_split",
        "test",
        [{}, {"evaluation.sets": ("a=test", "b with fog:1")}],
        [{"evaluation.sets": ("a=test", "b of idx")}],
    ),
    ("augment.switch_prob", 0.1, [BOTH], [{}, {"augment.mixup": 0.2}, {"augment.cutmix": 0.2}]),
    ("model.parameterization", "bounded", [{}, VIT], [CLASSIFIER, PLAIN_VIT]),
    ("model.stem", "small", [{}, CLASSIFIER], [VIT, PLAIN_VIT]),
    ("model.init", "torch", [{}], [CLASSIFIER, VIT, PLAIN_VIT]),
    ("model.group_elements", 2, [{}], [CLASSIFIER, VIT, PLAIN_VIT]),
    ("model.sync_batch_norm", True, [{}, CLASSIFIER], [VIT, PLAIN_VIT]),
    ("model.conditioned_stages", 1, [{}], [CLASSIFIER, VIT, PLAIN_VIT]),
    (
        "model.attention",
        "cudnn",
        [x | {"model.dtype": "bfloat16"} for x in (VIT, PLAIN_VIT)],
        [VIT, {"model.dtype": "bfloat16"}],
    ),
    ("model.depth", 3, [VIT, PLAIN_VIT], [{}, CLASSIFIER]),
    ("model.pool", "token", [VIT, PLAIN_VIT], [{}, CLASSIFIER]),
    ("model.conditioned_blocks", 1, [VIT], [{}, CLASSIFIER, PLAIN_VIT]),
    ("diffusion.schedule", "geometric", [{}], [CLASSIFIER]),
    ("diffusion.eps", 0.1, [{}], [CLASSIFIER, GEOMETRIC]),
    ("diffusion.sigma_min", 0.1, [GEOMETRIC], [{}, CLASSIFIER]),
    ("diffusion.sigma_max", 2.0, [GEOMETRIC], [{}, CLASSIFIER]),
    ("diffusion.loss", "cross_entropy", [{"model.parameterization": "posterior"}], [CLASSIFIER]),
    ("diffusion.min_time", 0.1, [{}], [CLASSIFIER]),
    ("diffusion.stratified", False, [{}], [CLASSIFIER]),
    ("diffusion.draws_per_image", 2, [{}], [CLASSIFIER]),
    ("diffusion.label_noise", 0.4, [{}, CLASSIFIER], [BINARY]),
    ("sampler.name", "cl", [{}], [CLASSIFIER]),
    ("sampler.steps", 3, [{}, CL], [CLASSIFIER, ONE_SHOT]),
    ("sampler.query", "max", [{}], [CLASSIFIER, CL, ONE_SHOT]),
    ("sampler.integrator", "euler", [{}], [CLASSIFIER, CL, ONE_SHOT]),
    ("sampler.grid", "linear", [{}, CL], [CLASSIFIER, ONE_SHOT]),
    ("sampler.tolerance", 0.1, [{}], [CLASSIFIER, CL, ONE_SHOT]),
    ("sampler.chains", 3, [CL], [{}, CLASSIFIER, ONE_SHOT]),
    ("sampler.min_time", 0.1, [{}, CL], [CLASSIFIER, ONE_SHOT]),
    ("sampler.time", 0.1, [ONE_SHOT], [{}, CLASSIFIER, CL]),
]
ALWAYS = """
seed method data.name data.train_examples data.data_ratio data.label_noise data.resolution
data.train_split data.repeats data.mean data.std augment.flip augment.shift augment.color_jitter
augment.rand_augment augment.mixup augment.cutmix augment.label_smoothing model.name model.width
model.dtype model.init_from train.batch_size train.accumulate train.remat train.duration
train.ema_decay train.shard_optimizer train.max_skipped train.log_every train.checkpoint_every
optimizer.name optimizer.learning_rate optimizer.warmup optimizer.warmup_learning_rate
optimizer.weight_decay optimizer.clip_norm report.wandb evaluation.batch_size evaluation.every
evaluation.best evaluation.sets sampler.temperature sampler.views
"""


def test_every_key_is_looked_at_below():
    assert sorted([*(row[0] for row in READ), *ALWAYS.split()]) == sorted(BY_KEY)


@pytest.mark.parametrize(
    ("key", "value", "others"), [(row[0], row[1], others) for row in READ for others in row[2]]
)
def test_a_setting_that_is_read_may_be_changed(key, value, others):
    configuration.validate(configured(others | {key: value}))


@pytest.mark.parametrize(
    ("key", "value", "others"), [(row[0], row[1], others) for row in READ for others in row[3]]
)
def test_a_setting_that_nobody_reads_is_refused(key, value, others):
    configuration.validate(configured(others))
    with pytest.raises(UserError, match=rf"config\.{key}: expected its default .*leave it out$"):
        configuration.validate(configured(others | {key: value}))


@pytest.mark.parametrize("integrator", ["exact", "heun"])
def test_the_grid_original_is_refused_where_it_was_silently_linear(integrator):
    config = configured({"sampler.integrator": integrator})
    assert sweep.grid(config) == "linear"
    config.sampler.grid = "original"
    with pytest.raises(
        UserError, match=r"config\.sampler\.grid: expected auto or linear.*original"
    ):
        configuration.validate(config)
    for others in ({"sampler.integrator": "euler"}, CL):
        config = configured(others)
        assert sweep.grid(config) == "original"
        config.sampler.grid = "original"
        configuration.validate(config)


def test_samplers_say_what_they_read():
    reads = configuration.sampler_reads
    assert reads("didicm", "cl") == ("steps", "grid", "chains", "min_time", "views", "temperature")
    assert reads("didicm", "one_shot") == ("views", "temperature", "time")
    assert reads("didicm", "ddim") == ("views", "temperature")
    assert reads("cross_entropy", "cp") == ("views", "temperature")


def test_augmentation_that_is_not_asked_for_is_off():
    config = configuration.default()
    policy = {f.name: f.default for f in dataclasses.fields(augment.Policy)}
    assert dict(config.augment) == {key: policy[key] for key in config.augment}


@pytest.mark.parametrize(
    ("key", "training", "evaluating"),
    [
        ("sampler.tolerance", True, True),
        ("evaluation.every", True, True),
        ("data.max_broken_share", True, True),
        ("data.data_dir", True, True),
        ("train.max_skipped", True, True),
        ("train.accumulate", True, True),
        ("data.eval_split", False, True),
        ("train.batch_size", False, False),
        ("optimizer.learning_rate", False, False),
        ("diffusion.min_time", False, False),
        ("model.name", False, False),
        ("seed", False, False),
        ("train.batchsize", False, False),
    ],
)
def test_what_may_change_between_two_starts(key, training, evaluating):
    assert configuration.may_change(key, evaluates=False) is training
    assert configuration.may_change(key, evaluates=True) is evaluating


def test_all_of_sampler_and_evaluation_may_change_between_starts_of_training():
    for setting in SETTINGS:
        if setting.section in ("sampler", "evaluation"):
            # By the other of accuracy and likelihood no kept checkpoint was judged.
            judges = setting.key == "evaluation.best"
            assert configuration.may_change(setting.key, evaluates=False) != judges, setting.key


def test_the_reference_page_is_current():
    assert (ROOT / "docs" / "settings.md").read_text() == reference.page(), (
        f"run {reference.COMMAND}"
    )
    module = reference.COMMAND.split()[2]
    assert reference.COMMAND.endswith("> docs/settings.md")
    printed = subprocess.run(
        [sys.executable, "-m", module], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout == reference.page()


def test_the_listing_and_the_page_name_every_setting():
    for setting in SETTINGS:
        assert f"  {setting.key}=" in configuration.listing()
        assert f"| `{setting.key}` |" in reference.page()
        assert setting.help
        assert not setting.help.endswith(".")


@pytest.mark.parametrize(
    "setting",
    [
        setting
        for setting in SETTINGS
        if isinstance(setting.default, float | tuple) and setting.key != "evaluation.sets"
    ],
    ids=lambda setting: setting.key,
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_nan_or_infinite(setting, value):
    value = (value,) * len(setting.default) if isinstance(setting.default, tuple) else value
    with pytest.raises(UserError, match=rf"^config\.{setting.key}: expected .*, found "):
        configuration.validate(configured({setting.key: value}))


def test_every_number_has_two_bounds():
    for setting in SETTINGS:
        if isinstance(setting.default, bool | str) or setting.key == "evaluation.sets":
            continue
        check = setting.check.each if isinstance(setting.check, checks.Numbers) else setting.check
        assert isinstance(check, checks.Number), setting.key
        assert math.isfinite(check.low), setting.key
        assert math.isfinite(check.high), setting.key


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("augment.flip", 1, "expected True or False, found 1"),
        ("augment.shift", -1, "expected a number at least 0, found -1"),
        ("augment.shift", 1.5, "expected int, like 0, found 1.5"),
        ("augment.color_jitter", "0.4", "expected float, like 0.0, found '0.4'"),
        ("augment.color_jitter", math.nan, "expected a number at least 0, found nan"),
        ("augment.rand_augment", "rand-q", "expected parts of a name and a number"),
        ("augment.rand_augment", "rand-m11", "expected a magnitude of at most mmax"),
        ("augment.rand_augment", None, "expected str, like ''"),
        ("augment.mixup", -0.2, "expected a number at least 0, found -0.2"),
        ("augment.cutmix", math.inf, "expected a number at most 1000, found inf"),
        ("augment.switch_prob", 2, r"expected a number in \[0, 1\], found 2"),
        ("augment.label_smoothing", 1, r"expected a number in \[0, 1\), found 1"),
        ("data.mean", (), "expected a number per channel"),
        ("data.mean", 0.5, "expected tuple, like"),
        ("data.std", (0.5, 0.5, 0.5), "expected one number above 0 for each of the 1"),
        ("data.std", (0.0,), "expected a number per channel, each 0.001 to 1000"),
        ("data.crop_scale", (1.0, 0.5), "expected a smallest and a largest share"),
        ("sampler.tolerance", 2.0, r"expected a number in \[0, 1\], found 2.0"),
        ("diffusion.eps", 1e-8, r"expected a number in \[1e-06, 0.5\], found 1e-08"),
        ("model.name", "didirn19", "expected one of didirn18"),
        ("model.name", "resnet18", "for method didicm, found 'resnet18'"),
    ],
)
def test_values_that_are_not_valid_are_one_line_that_names_the_key(key, value, words):
    changes = {key: value}
    if key == "augment.switch_prob":
        changes |= BOTH
    if key.startswith("data.crop"):
        changes |= PHOTOS
    with pytest.raises(UserError, match=rf"^config\.{key}: .*{words}") as error:
        configuration.validate(configured(changes))
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)


def test_both_ways_to_keep_fewer_images_are_one_too_many():
    changes = {"data.train_examples": 10, "data.data_ratio": 0.5}
    with pytest.raises(UserError, match=r"config\.data\.data_ratio: .*leave one out"):
        configuration.validate(configured(changes))
