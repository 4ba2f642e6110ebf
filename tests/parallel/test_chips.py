import jax
import pytest

from didicm_jax.errors import UserError
from didicm_jax.parallel import chips


def test_kinds_are_those_that_jax_knows():
    """Its own table of TPUs, for the kernels of Pallas, is per core and rounded."""
    tpu_info = pytest.importorskip("jax._src.pallas.mosaic.tpu_info")
    kinds = [kind for kind in chips.CHIPS if kind.startswith("TPU")]
    assert len(kinds) == 10
    for kind in kinds:
        version = tpu_info.chip_version_from_device_kind(kind)
        cores = 2 if version.supports_megacore else 1  # that are one device
        theirs = tpu_info.get_tpu_info_for_chip(version, cores)
        ours = chips.find(kind)
        assert ours.peak("bfloat16") == pytest.approx(cores * theirs.bf16_ops_per_second, rel=0.15)
        assert ours.hbm_bytes == pytest.approx(cores * theirs.hbm_capacity_bytes, rel=0.08)
        bandwidth = cores * theirs.mem_bw_bytes_per_second
        assert ours.hbm_bandwidth == pytest.approx(bandwidth, rel=0.13)


def test_peaks_are_dense_and_float32_is_no_faster():
    for kind, chip in chips.CHIPS.items():
        assert chip.peak("float32") <= chip.peak("bfloat16"), kind
        # A byte is worth between 15 and 600 operations on all of them.
        assert 15 < chip.bf16_flops / chip.hbm_bandwidth < 600, kind
        assert chip.source, kind


def test_a_cpu_has_no_peak():
    assert chips.find(jax.devices("cpu")[0].device_kind) is None
    assert chips.find("an accelerator to come") is None


@pytest.fixture
def share(monkeypatch):
    """Sets the two names of JAX's share of the memory, the current and the old one."""

    def put(now, once):
        monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", now)
        monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", once)

    return put


@pytest.mark.parametrize(
    ("now", "once", "found"), [("", "", 0.75), ("0.5", "", 0.5), ("", ".9", 0.9), ("1", "", 1.0)]
)
def test_the_share_of_the_memory_is_what_jax_reads(share, now, once, found):
    from jaxlib import xla_client

    share(now, once)
    assert chips.memory_fraction() == found
    options = xla_client.generate_pjrt_gpu_plugin_options()
    assert options.get("memory_fraction", 0.75) == found


@pytest.mark.parametrize(
    ("now", "once", "said"),
    [
        (
            "most",
            "",
            "XLA_CLIENT_MEM_FRACTION: expected a number above 0 and up to 1, found 'most'",
        ),
        ("0", "", "XLA_CLIENT_MEM_FRACTION: expected a number .*, found '0'"),
        ("nan", "", "XLA_CLIENT_MEM_FRACTION: expected a number .*, found 'nan'"),
        ("", "90", "XLA_PYTHON_CLIENT_MEM_FRACTION: expected a number .*, found '90'"),
        ("0.5", "0.5", "XLA_CLIENT_MEM_FRACTION: expected alone, .* unset the old one"),
    ],
)
def test_what_is_no_share_of_the_memory_is_refused(share, now, once, said):
    share(now, once)
    with pytest.raises(UserError, match=f"^{said}"):
        chips.memory_fraction()
