"""Settings of the training and of the evaluations on its way."""

from didicm_jax.config.checks import Choice, Duration, Number, Switch
from didicm_jax.config.setting import BATCHES, INTEGERS, Change, Setting

SETTINGS = (
    Setting("train.batch_size", 64, "images in a step, over all devices", BATCHES),
    Setting(
        "train.accumulate",
        1,
        "micro-batches per step and device; D devices with A of them give what D A devices give, "
        "but for rounding",
        BATCHES,
        change=Change.ALWAYS,
    ),
    Setting("train.duration", "60 epochs", "length of the training", Duration()),
    Setting(
        "train.ema_decay",
        0.0,
        "decay per step of the average of the weights, which is evaluated; 0: off",
        Number(0, 0.999999),  # float32 still tells it from 1
    ),
    Setting(
        "train.shard_optimizer",
        False,
        "spread the optimizer's moments and the average over the devices",
        Switch(),
        change=Change.ALWAYS,
    ),
    Setting(
        "train.max_skipped",
        50,
        "non-finite steps in a row after which the run stops",
        Number(1, INTEGERS),
        change=Change.ALWAYS,
    ),
    Setting(
        "train.log_every",
        "20 steps",
        "time between two lines of metrics.jsonl",
        Duration(),
        change=Change.ALWAYS,
    ),
    Setting(
        "train.checkpoint_every",
        "10 epochs",
        "time between two checkpoints; each evaluation is followed by one too",
        Duration(),
        change=Change.ALWAYS,
    ),
    Setting(
        "optimizer.name",
        "lamb",
        "lamb as in timm, adamw, or sgd with Nesterov momentum 0.9",
        Choice(("lamb", "adamw", "sgd")),
    ),
    Setting(
        "optimizer.learning_rate",
        2e-3,
        "rate at the end of the warm-up",
        Number(0, 10, open_low=True),
    ),
    Setting("optimizer.warmup", "5 epochs", "length of the linear warm-up", Duration()),
    Setting("optimizer.warmup_learning_rate", 1e-5, "rate at step 0", Number(0, 10)),
    Setting(
        "optimizer.weight_decay", 0.01, "decay of weights, not of biases and norms", Number(0, 10)
    ),
    Setting(
        "optimizer.clip_norm",
        1.0,
        "largest norm of the global gradient; 0: not clipped",
        Number(0, 1e6),
    ),
    Setting(
        "evaluation.batch_size",
        256,
        "images in a batch of an evaluation, over all devices",
        BATCHES,
        change=Change.ALWAYS,
    ),
    Setting(
        "evaluation.every",
        "10 epochs",
        "time between two evaluations; the last step is followed by one too",
        Duration(),
        change=Change.ALWAYS,
    ),
)
