import json
from types import SimpleNamespace

import digits as digits_config
import jax
import pytest

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.parallel import chips
from didicm_jax.run import RunFolder
from didicm_jax.training import loop, operations, plan
from didicm_jax.training.utilization import Utilization

SLOW = chips.Chip("a chip", 4e9, 1e9, 2**30, 1e9, "these tests")


@pytest.fixture
def config():
    """Three steps of a ViT of one block."""
    config = digits_config.get_config()
    config.model.update(name="didivit_ti4", width=0.3333, depth=1, stem="didirn")
    config.data.train_examples, config.sampler.steps = 100, 1
    config.train.update(batch_size=16, duration="3 steps", log_every="1 step")
    config.optimizer.warmup = "1 step"
    return config


def test_a_cpu_has_no_peak_and_tells_no_memory(config):
    run = plan.make_plan(config)
    assert run.peak is None
    assert "peak" not in run.describe()
    assert Utilization(run, print).record(100.0) == {}


def test_mfu_is_the_share_of_the_peak_of_all_devices(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(chips.CHIPS, jax.devices()[0].device_kind, SLOW)
    run = plan.make_plan(config)
    assert run.describe().startswith("devices    4 x cpu, peak 0.004 TFLOP/s\n")
    loop.train(run, RunFolder.claim(tmp_path / "run", config, run.description))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    records, step = [json.loads(line) for line in lines[:3]], operations.of_step(run)
    for record in records:
        steps_per_second = record["images_per_second"] / 16
        assert record["mfu"] == pytest.approx(step * steps_per_second / (4 * 1e9))
    assert f"images/s, MFU {records[0]['mfu']:.1%}\n" in capsys.readouterr().out


def test_the_peak_is_that_of_the_type_of_the_computation(config, monkeypatch):
    monkeypatch.setitem(chips.CHIPS, jax.devices()[0].device_kind, SLOW)
    assert plan.make_plan(config).peak == 4 * 1e9
    config.model.dtype = "bfloat16"
    assert plan.make_plan(config).peak == 4 * 4e9


def test_what_cannot_be_counted_is_said_once_and_left_out(monkeypatch):
    def fails(run):
        raise UserError("expected a CPU")

    monkeypatch.setattr(operations, "of_step", fails)
    run, said = SimpleNamespace(mesh=parallel.make_mesh(), peak=1e9), []
    assert Utilization(run, said.append).record(100.0) == {}
    assert said == ["no mfu is logged: expected a CPU"]


def test_the_memory_is_that_of_the_fullest_device():
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    stats = [{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}, None, {"bytes_in_use": 9}]
    devices = SimpleNamespace(local_devices=[Device(each) for each in stats])
    run = SimpleNamespace(mesh=devices, peak=None)
    assert Utilization(run, print).record(100.0) == {"peak_memory_bytes": 7}
