"""Numbers of a preflight, of recorded programs and of a small network on four devices."""

import dataclasses
from types import SimpleNamespace

import digits as digits_config
import jax
import pytest

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.preflight import described, estimate, program, topologies
from didicm_jax.preflight.program import Compiled
from didicm_jax.training import plan
from tests.preflight.recorded import GPU, TPU

GIB = 2**30


@pytest.fixture(scope="module")
def run():
    config = digits_config.get_config()
    config.model.width, config.model.dtype = 0.125, "bfloat16"
    return plan.draft(config, described.dataset(config), parallel.make_mesh(jax.devices()[:4]))


def compiled(text, state=0, temporary=GIB):
    return Compiled(text, temporary, state + temporary, 1.0)


def report(run, name, text, **memory):
    step = compiled(text, **memory)
    return estimate.report(run, topologies.find(name), step, compiled(text), 989e9)


def test_floors_of_a_gpu(run):
    found = report(run, "h100:4", GPU)
    # 989e9 operations at 989e12 a second; the bytes are counted in test_hlo, five rounds of three
    # kernels and six more.
    rounds = 5 * (8 + 2 * (64 * 128 + 128 * 128 + 64 * 128) + 2 * 3 * 64 * 128)
    entry = 8 + 4 * 64 * 128 + 65_792 + 16_386 + 514 + 512
    assert found["traffic_bytes"] == rounds + entry
    assert found["kernels"] == 5 * 3 + 6
    assert found["traffic_floor_milliseconds"] == pytest.approx((rounds + entry) / 3350e6)
    assert found["compute_floor_milliseconds"] == pytest.approx(1)
    assert found["estimated_milliseconds"] is None
    assert (found["step_milliseconds"], found["peak_share"]) == pytest.approx((1, 1))
    assert found["images_per_second"] == pytest.approx(64 * 1000)
    assert found["images_per_second_per_host"] == pytest.approx(64 * 1000)
    assert found["images_per_second_per_chip"] == pytest.approx(16 * 1000)
    assert found["hours"] == pytest.approx(found["steps"] / 3.6e6)
    assert (found["all_reduces"], found["all_reduce_bytes"]) == (1, 256)
    assert (found["pixel_gathers"], found["loops_of_unknown_length"]) == (8192, 0)
    assert sum(found["estimates_by_part"].values()) == pytest.approx(
        found["traffic_floor_milliseconds"]
    )
    assert found["largest"][0]["operation"] == "__cublas$lt$matmul"
    assert found["fits"]


def test_estimates_of_a_tpu(run):
    found = report(run, "v5e:2x2", TPU)
    cycles = 5 * (2138 + 1886) + 2527 + 1888 + 2008 + 1917 + 1825
    assert found["estimated_milliseconds"] == pytest.approx(1e3 * cycles / 1.5e9)
    assert found["step_milliseconds_is"] == "estimate"
    assert found["largest"][0]["name"] == "fusion.9"
    assert found["largest"][0]["milliseconds"] == pytest.approx(1e3 * 5 * 2138 / 1.5e9)
    # The counter of the loop is no work; copies run once and in five rounds.
    assert found["without_estimate"] == {"copy-start": 7, "fusion": 1, "all-reduce": 1}
    assert found["pixel_gathers"] == 8192


def test_a_number_for_each_image_is_no_pixel(run):
    config = run.config.copy_and_resolve_references()
    config.train.batch_size = 4 * 8192
    assert report(dataclasses.replace(run, config=config), "v5e:2x2", TPU)["pixel_gathers"] == 0
    config.train.batch_size = 4 * 8191
    assert report(dataclasses.replace(run, config=config), "v5e:2x2", TPU)["pixel_gathers"] == 8192


def test_what_lies_in_branches_is_told(run):
    assert report(run, "v5e:2x2", TPU)["branches_milliseconds"] == 0
    # The products of the loop's body moved into a branch of it: both branches are counted.
    found = [x for x in TPU.splitlines() if "%fusion.9 = " in x]
    assert len(found) == 1
    call = (
        found[0]
        .replace("fusion(", "conditional(%get-tuple-element.48, ")
        .replace(
            "kind=kOutput, calls=%fused_computation.2.clone.1", "branch_computations={%one, %one}"
        )
    )
    cycles = 'backend_config={"window_config":{"estimated_cycles":"1000"}}'
    one = (
        "%one (p: bf16[8]) -> bf16[8] {\n"
        f"  %p = bf16[8] parameter(0)\n  ROOT %n = bf16[8] negate(%p), {cycles}\n"
        "}\n\n"
    )
    begin = "%wide.region_0.1_spmd.sunk (wide"
    text = TPU.replace(found[0], call).replace(begin, one + begin)
    milliseconds = 1e3 * 5 * 2 * 1000 / 1.5e9
    assert report(run, "v5e:2x2", text)["branches_milliseconds"] == pytest.approx(milliseconds)


def test_what_would_fit(run):
    """16 images a device; what is no state grows with the images of a micro-batch."""
    # Of 16 GiB a state of 1 and 16 for 16 images leave room for 15; 8 divide the 16.
    found = report(run, "v5e:2x2", TPU, state=GIB, temporary=16 * GIB)
    assert not found["fits"]
    assert found["would_fit"] == {
        "images_per_device": 15,
        "accumulate": 2,
        "remat": "blocks",
    }
    # 28 GiB: 8 images; 16 times that and more: none.
    found = report(run, "v5e:2x2", TPU, state=2 * GIB, temporary=28 * GIB)
    assert found["would_fit"] == {
        "images_per_device": 8,
        "accumulate": 2,
        "remat": "blocks",
    }
    found = report(run, "v5e:2x2", TPU, state=GIB, temporary=160 * GIB)
    assert found["would_fit"] == {
        "images_per_device": 1,
        "accumulate": None,
        "remat": "blocks",
    }
    found = report(run, "v5e:2x2", TPU, state=17 * GIB)
    assert found["would_fit"] == {
        "images_per_device": 0,
        "accumulate": None,
        "remat": None,
    }


@pytest.mark.parametrize(
    ("settings", "accumulate"),
    [({"name": "didivit_ti4"}, 16), ({"sync_batch_norm": True}, 16), ({}, None)],
)
def test_one_image_alone_is_advised_where_nothing_needs_its_variance(run, settings, accumulate):
    config = run.config.copy_and_resolve_references()
    config.model.update(settings)
    found = report(dataclasses.replace(run, config=config), "v5e:2x2", TPU, temporary=256 * GIB)
    would = found["would_fit"]
    assert (would["images_per_device"], would["accumulate"]) == (1, accumulate)


def test_what_a_compiler_refuses_does_not_fit_whatever_the_maker_says(run):
    """Of the 16 GiB of a v5e XLA has 15.75: 16 images are refused at 15.9, and not advised."""
    refused = Compiled("", int(14.9 * GIB), int(15.9 * GIB), 1.0, 15.75 * GIB)
    found = estimate.report(run, topologies.find("v5e:2x2"), refused, compiled(""), 1.0)
    assert not found["fits"]
    assert found["memory_available_bytes"] == 15.75 * GIB
    assert (found["would_fit"]["images_per_device"], found["would_fit"]["accumulate"]) == (15, 2)


def test_mixed_images_come_in_pairs(run):
    run.config.augment.mixup = 0.2
    try:
        found = report(run, "v5e:2x2", TPU, temporary=64 * GIB)
        would = found["would_fit"]
        assert (would["images_per_device"], would["accumulate"]) == (4, 4)
        found = report(run, "v5e:2x2", TPU, temporary=86 * GIB)
        would = found["would_fit"]
        assert (would["images_per_device"], would["accumulate"]) == (2, 8)
    finally:
        run.config.augment.mixup = 0.0


def test_a_compiler_that_runs_out_of_memory_says_how_much_it_wanted():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    )
    assert program._memory_asked(message) == (int(20.5 * GIB), int(15.75 * GIB))
    # By a few megabytes too much.
    rounded = message.replace("20.50G", "15.75G")
    assert program._memory_asked(rounded) == (int(15.75 * GIB) + 1, int(15.75 * GIB))
    assert program._memory_asked("INTERNAL: something else") is None


def test_what_waits_for_the_next_step_is_in_the_memory_of_an_evaluation(run, monkeypatch):
    """Of the digits' network: two moments, the weights beside their averages, four counters."""
    lowered = SimpleNamespace(lower=lambda *_: None)
    monkeypatch.setattr(program.inference, "create", lambda *_: lowered)
    monkeypatch.setattr(program, "_compile", lambda *_: Compiled("", GIB, GIB, 1.0))
    weights, statistics = (sum(4 * x.size for x in jax.tree.leaves(part)) for part in run.abstract)
    found = program.evaluation(run, topologies.find("v5e:2x2"))
    assert found.total_bytes - GIB == pytest.approx(3 * weights + statistics, abs=32)


def test_what_a_device_holds_of_a_spread_state_leaves_the_rest_to_the_images(run):
    """Where XLA refuses a program, what is no state is what it asked for beyond that."""

    def compiled(**_):
        raise jax.errors.JaxRuntimeError("Used 20.50G of 15.75G hbm.")

    config = run.config.copy_and_resolve_references()
    config.train.shard_optimizer = True
    lowered, topology = SimpleNamespace(compile=compiled), topologies.find("v5e:2x2")
    whole = program._compile(lowered, topology, run)
    spread = program._compile(lowered, topology, dataclasses.replace(run, config=config))
    weights = sum(4 * x.size for x in jax.tree.leaves(run.abstract.params))
    # Of two moments and the averages a quarter is on each of the four devices.
    saved = spread.temporary_bytes - whole.temporary_bytes
    assert saved == pytest.approx(3 * 3 / 4 * weights, rel=0.02)


def test_jax_leaves_a_quarter_of_a_gpu_to_others(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert estimate.memory_available(topologies.find("h100:1")) == 60 * GIB
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.9")
    assert estimate.memory_available(topologies.find("h100:1")) == 72 * GIB
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "most")  # which only a GPU reads
    assert estimate.memory_available(topologies.find("v5e:2x2")) == 16 * GIB


def test_float32_where_the_network_computes_in_bfloat16(run):
    """16 images of 8 x 8 pixels are 1,024 elements: in float32 the H100's 8,192 would count."""
    found = report(run, "h100:4", GPU)["float32_activations"]
    assert (found["kernels"], found["bytes"]) == (0, 0)
    wide = GPU.replace("%loop_add_fusion = bf16[64,128]", "%loop_add_fusion = f32[64,128]").replace(
        "closed_call/add", "closed_call/jvp()/add"
    )
    found = report(run, "h100:4", wide)["float32_activations"]
    assert (found["kernels"], found["bytes"]) == (5, 5 * 4 * 64 * 128)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h100", "h100:N"),
        ("h100:0", "h100:N"),
        ("h100:2x2", "h100:N"),
        ("v5e:3x3", "v5e:2x2, v5e:2x4"),
        ("v4", "v4:2x2x1"),
        ("tpu", "h100, h200, a100, v4, v5e, v5p, v6e"),
    ],
)
def test_unknown_topologies_are_answered_with_known_ones(name, words):
    with pytest.raises(UserError, match="topology: expected") as error:
        topologies.find(name)
    assert words in str(error.value)


def test_devices_and_hosts_of_topologies():
    sizes = {"h100:8": (8, 1), "a100:12": (12, 2), "v4:4x4x4": (64, 16), "v5e:2x4": (8, 2)}
    for name, size in sizes.items():
        found = topologies.find(name)
        assert (found.count, found.hosts) == size


@pytest.mark.parametrize(("name", "extra"), [("h100:8", "cuda12"), ("v5e:2x2", "tpu")])
def test_a_compiler_that_is_not_installed(monkeypatch, name, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"pip install '\.\[{extra}\]'"):
        topologies.prepare(topologies.find(name))


def test_sets_that_are_not_there():
    config = digits_config.get_config()
    config.data.name, config.data.resolution, config.data.data_ratio = "imagenet2012", 56, 0.25
    found = described.dataset(config)
    assert (found.num_classes, found.image_shape) == (1000, (56, 56, 3))
    assert len(found.train) == 320_292  # a quarter of 1,281,167
    config.data.train_split, config.data.data_ratio = "train[:1000]", 1.0
    assert len(described.dataset(config).train) == 1000
    config.data.train_examples = 1001  # as a start would refuse it
    with pytest.raises(UserError, match=r"data\.train_examples: .* all 1000 images, found 1001"):
        described.dataset(config)
    config.data.train_examples, config.data.data_ratio = 0, 0.0001
    with pytest.raises(UserError, match=r"data\.data_ratio: .* found 0, the share 0\.0001"):
        described.dataset(config)
    config.data.name = "birds"
    with pytest.raises(UserError, match=r"classes: .*imagenet2012.*'birds'"):
        described.dataset(config)
    config.data.mean = (0.5, 0.5, 0.5)
    found = described.dataset(config, classes=7, image_size=32, examples=500)
    assert (found.num_classes, found.image_shape, len(found.train)) == (7, (32, 32, 3), 500)
