"""A small run of real digits that compiles in seconds, its records, and a signal amid it."""

import json
import signal
from pathlib import Path

from benchmarks import kills

from didicm_jax import data

ROOT = Path(__file__).parents[2]
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
SMALL = [
    "--config.model.name=didirn4",
    "--config.model.width=0.0625",
    "--config.data.train_examples=200",
    "--config.train.batch_size=16",
    "--config.train.duration=12 steps",
    "--config.train.log_every=1 step",
    "--config.train.checkpoint_every=5 steps",
    "--config.optimizer.warmup=2 steps",
    "--config.evaluation.batch_size=99",  # rounded up to 100; of 360 images the last is padded
    "--config.evaluation.every=8 steps",
    "--config.sampler.steps=2",
]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def comparable(workdir):
    """The records without their timings."""
    return [{k: v for k, v in r.items() if k not in kills.TIMINGS} for r in records(workdir)]


def interrupt_at(monkeypatch, step):
    """Sends this process a SIGINT when batch `step` is made."""
    real = data.train_batches

    def interrupted(*args, **kwargs):
        batches = real(*args, **kwargs)

        class Interrupts:
            def __init__(self):
                self.count = 0

            def __next__(self):
                self.count += 1
                if self.count == step:
                    signal.raise_signal(signal.SIGINT)
                return next(batches)

            def close(self):
                batches.close()

        return Interrupts()

    monkeypatch.setattr(data, "train_batches", interrupted)
