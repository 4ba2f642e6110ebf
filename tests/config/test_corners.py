"""The bounds of the table: at the corners of every range posteriors, losses and weights are finite.

Sizes (images in a batch, steps, chains, channels, pixels) are left at what a test can afford: their
bounds are of memory and counters.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import augment, diffusion
from didicm_jax import config as configuration
from didicm_jax.config import checks
from didicm_jax.config.table import BY_KEY, SETTINGS
from didicm_jax.diffusion.parameterization import PARAMETERIZATIONS
from didicm_jax.inference import sampling
from didicm_jax.training import plan, programs
from tests.config.test_table import BOTH, GEOMETRIC, configured

CLASSES = 7
SIZES = {
    "data.train_examples",
    "data.data_ratio",
    "data.resolution",
    "data.repeats",
    "data.num_workers",
    "data.cache_gib",
    "augment.shift",
    "model.width",
    "model.group_elements",
    "model.depth",
    "model.conditioned_stages",
    "model.conditioned_blocks",
    "diffusion.draws_per_image",
    "train.batch_size",
    "train.accumulate",
    "train.max_skipped",
    "evaluation.batch_size",
    "sampler.steps",
    "sampler.chains",
    "sampler.views",
}


def ends(key):
    """The least and the largest value of a number, next to those ends that do not pass."""
    check = BY_KEY[key].check
    low, high = float(check.low), float(check.high)
    if check.open_low:
        low = math.nextafter(low, high)
    if check.open_high:
        high = math.nextafter(high, low)
    assert BY_KEY[key].fault(low) == BY_KEY[key].fault(high) == "" or key == "seed"
    return low, high


LEAST, LARGEST = ends("sampler.min_time")
SCHEDULES = {
    "geometric wide": diffusion.geometric(
        ends("diffusion.sigma_min")[0], ends("diffusion.sigma_max")[1]
    ),
    "behind noise": diffusion.shifted(
        diffusion.loglinear(ends("diffusion.eps")[0]),
        diffusion.total_noise(ends("diffusion.label_noise")[1]),
    ),
}
# f32[8, K]: outputs of a new network, of a trained one, and of one that has gone wild.
RAW = np.concatenate(
    [np.random.default_rng(0).normal(size=(2, CLASSES)) * scale for scale in (0, 1, 30, 1000)]
).astype(np.float32)


def test_the_ends_of_schedules_are_those_whose_corners_the_kernels_are_tested_at():
    """By `tests/diffusion/test_bounds.py`; here are the wildest, with what a config adds."""
    assert ends("diffusion.eps")[0] >= diffusion.MIN_EPS
    assert ends("diffusion.sigma_min")[0] >= diffusion.MIN_NOISE
    assert ends("diffusion.sigma_max")[1] <= diffusion.MAX_NOISE


@pytest.mark.parametrize("name", SCHEDULES)
def test_posteriors_at_the_corners_of_schedule_and_sampler(name):
    schedule, size = SCHEDULES[name], {"batch_size": len(RAW), "num_classes": CLASSES}
    walks = [
        (integrator, grid, min_time, tolerance)
        for integrator, grid in (("euler", "original"), ("heun", "linear"), ("exact", "linear"))
        for min_time, tolerance in ((LEAST, 0.0), (1e-5, 1.0), (LARGEST, 0.0))
    ]

    @jax.jit
    def everything(raw):
        found = []
        for read in PARAMETERIZATIONS.values():

            def score(labels, sigma, read=read):
                return read(raw, labels, sigma)

            for integrator, grid, min_time, tolerance in walks:
                sample = diffusion.sample_cp(
                    score,
                    schedule,
                    **size,
                    steps=3,
                    integrator=integrator,
                    grid=grid,
                    min_time=min_time,
                    tolerance=tolerance,
                )
                found.append(sample.probs)
            found += [
                diffusion.one_shot(score, schedule, **size, time=time)
                for time in ends("sampler.time")
            ]
        return jnp.stack(found)

    probs = np.asarray(everything(RAW))
    assert np.isfinite(probs).all()
    assert probs.min() >= 0
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_losses_at_the_corners_of_schedule_and_time(name):
    schedule = SCHEDULES[name]
    labels = np.arange(8, dtype=np.int32) % 3
    # Hard labels, and labels smoothed all but entirely.
    smoothing = ends("augment.label_smoothing")[1]
    targets = np.where(np.arange(8)[:, None] < 4, np.eye(CLASSES)[labels], 1 / CLASSES)
    targets = (1 - smoothing * (np.arange(8)[:, None] % 2)) * targets
    targets = (targets / targets.sum(-1, keepdims=True)).astype(np.float32)

    @jax.jit
    def gradients(raw):
        found = []
        for (key, read), least in itertools.product(
            PARAMETERIZATIONS.items(), (*ends("diffusion.min_time"), 1e-6)
        ):
            # Without noise no label is another than the clean one.
            for noised in (labels, labels + 1) if least else (labels,):
                time = jnp.full((8,), least)

                def entropy(raw, read=read, noised=noised, time=time):
                    log_score = read(raw, noised, schedule.total(time))
                    return diffusion.weighted_score_entropy(
                        log_score, targets, noised, time, schedule
                    )

                def cross(raw, noised=noised, time=time):
                    sigma = schedule.total(time)
                    return diffusion.denoising_cross_entropy(raw, targets, noised, sigma)

                for loss in (entropy, cross) if key == "posterior" else (entropy,):
                    found += [loss(raw), jax.grad(lambda raw, loss=loss: loss(raw).sum())(raw)]
        return found

    # The free log-ratios of a wild network overflow at any noise: such steps are skipped.
    for values in gradients(np.clip(RAW, -60, 60)):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("end", [0, 1], ids=["low", "high"])
def test_images_at_the_corners_of_augmentation(end):
    keys = [
        setting.key
        for setting in SETTINGS
        if setting.section == "augment"
        and isinstance(setting.check, checks.Number)
        and setting.key not in SIZES
    ]
    assert "augment.mixup" in keys
    values = {key.partition(".")[2]: ends(key)[end] for key in keys}
    if not end:  # 0 is off: the least that is on
        values |= {"mixup": 1e-6, "cutmix": 1e-6, "color_jitter": 1e-6}
    scale = BY_KEY["data.std"].check.each.low
    offset = BY_KEY["data.mean"].check.each.high
    policy = augment.Policy((offset,) * 3, (scale,) * 3, flip=True, shift=3, **values)
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(16, dtype=np.int32) % CLASSES
    run = jax.jit(policy.train, static_argnums=3)
    found = run(jax.random.split(jax.random.key(0), 16), images, labels, CLASSES)
    assert np.isfinite(found.images).all()
    np.testing.assert_allclose(np.sum(found.targets, axis=1), 1, rtol=1e-4)


NUMBERS = [
    setting.key
    for setting in SETTINGS
    if isinstance(setting.check, checks.Number) and setting.key not in SIZES
]


def corner(end, others):
    """A valid config of one small block with every number that is read at one end of its range."""
    config = configuration.default()
    small = {
        "model.name": "didivit_ti4",
        "model.width": 0.3333,
        "model.depth": 1,
        "train.batch_size": 16,
        "train.duration": "4 steps",
        "optimizer.warmup": "1 step",
        "evaluation.batch_size": 16,
        "data.mean": (BY_KEY["data.mean"].check.each.high * (-1) ** end,),
        "data.std": ((BY_KEY["data.std"].check.each.high, 0.5)[end],),
    }
    config = configured(small | others)
    values = configuration.flatten(config)
    chosen = {
        key: type(BY_KEY[key].default)(ends(key)[end])
        for key in NUMBERS
        if BY_KEY[key].unread(values) is None and key not in others
    }
    with config.unlocked():
        config.update_from_flattened_dict(chosen)
    configuration.validate(config)
    return config, set(chosen)


WIDE = GEOMETRIC | {"diffusion.sigma_max": ends("diffusion.sigma_max")[1]}
CORNERS = [
    (0, {"optimizer.name": "lamb", "sampler.integrator": "exact"}),
    (1, {"optimizer.name": "lamb", "sampler.integrator": "heun"}),
    (0, WIDE | BOTH | {"optimizer.name": "adamw", "sampler.name": "one_shot"}),
    (1, {"optimizer.name": "adamw", "model.parameterization": "bounded"}),
    (
        1,
        {
            "method": "binary_cross_entropy",
            "model.name": "vit_ti4",
            "optimizer.name": "sgd",
        },
    ),
]


@pytest.mark.parametrize(("end", "others"), CORNERS, ids=["lamb0", "lamb1", "geo", "adam", "sgd"])
def test_a_step_and_an_evaluation_at_the_corners_of_all_numbers(end, others):
    config, _ = corner(end, others)
    run = plan.make_plan(config)
    index = np.arange(16, dtype=np.int32)
    batch = run.dataset.train.batch(index) | {"index": index}
    step, state = programs.make_step(run, donate=False), run.new_state()
    hosts = np.zeros(run.mesh.size, np.float32)
    for _ in range(2):  # the second is behind the warm-up
        state, metrics = step(state, batch | {"stop": hosts, "replaced": hosts})
        assert np.isfinite(metrics.loss)
        assert np.isfinite(metrics.grad_norm)
        assert metrics.skipped == 0
    model = nnx.merge(run.graphdef, *state.averaged)
    model.eval()
    answer = sampling.create(config, run.dataset.num_classes)
    keys = jax.random.split(jax.random.key(0), 16)
    asked = jax.jit(lambda images: answer(model, run.policy.views(keys, images, 1), keys).probs)
    probs = asked(batch["image"])
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(np.sum(probs, axis=1), 1, rtol=1e-4)


def test_the_corners_above_take_every_number_that_is_no_size():
    taken = set().union(*(corner(*each)[1] for each in CORNERS))
    photos = {
        "data.eval_crop",
        "data.max_broken_share",
        "data.max_pixels",
    }  # of no arithmetic on devices
    assert set(NUMBERS) - taken - photos <= set().union(*(others for _, others in CORNERS))
