"""What the makers say of accelerators: peaks, memory, bandwidth. The one table of them.

And how much of a GPU's memory JAX takes of it.
"""

import os
from typing import NamedTuple

from didicm_jax.errors import UserError

# The variables that say which share of a GPU's memory JAX takes. It refuses both together; one that
# is empty counts as none.
MEMORY_FRACTION, MEMORY_FRACTION_ONCE = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
_JAX_TAKES = 0.75  # where neither says

TERA, GIB = 1e12, 2**30

# Each of them lists what its chips do, dense: half of what is given "with sparsity".
_CACM = "Jouppi et al. 2020, A domain-specific supercomputer, CACM 63(7)"
_GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
_BLACKWELL = "NVIDIA Blackwell Architecture Technical Brief, system specifications"


class Chip(NamedTuple):
    """One device, as JAX counts them: of TPU v2, v3 and 7x that is half a chip.

    Attributes:
      name: of the chip, as people say it.
      bf16_flops: operations a second of dense matrix products in bfloat16. A GPU without bfloat16
        makes them in float32.
      f32_flops: those in float32 at JAX's default precision: one pass of bfloat16 on a TPU, TF32
        on a GPU that has it.
      hbm_bytes: its memory. The runtime keeps some of it.
      hbm_bandwidth: bytes a second from it.
      source: where the numbers are from.
    """

    name: str
    bf16_flops: float
    f32_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    source: str

    def peak(self, dtype: str) -> float:
        """Operations a second of a network that computes in `float32` or `bfloat16`."""
        return {"bfloat16": self.bf16_flops, "float32": self.f32_flops}[dtype]


def _tpu(name: str, tera: float, gib: int, gigabytes: float, source: str) -> Chip:
    peak = tera * TERA
    return Chip(f"TPU {name}", peak, peak, gib * GIB, gigabytes * 1e9, source)


def _gpu(name: str, bf16: float, f32: float, gib: int, gigabytes: float, source: str) -> Chip:
    return Chip(name, bf16 * TERA, f32 * TERA, gib * GIB, gigabytes * 1e9, source)


_V5E = _tpu("v5e", 197, 16, 819, f"{_GOOGLE}v5e")
_V5P = _tpu("v5p", 459, 95, 2765, f"{_GOOGLE}v5p")
_V6E = _tpu("v6e", 918, 32, 1638, f"{_GOOGLE}v6e")

# By `jax.Device.device_kind`, which for a GPU is the name that its driver gives it.
CHIPS = {
    "TPU v2": _tpu("v2", 46 / 2, 16 // 2, 700 / 2, _CACM),
    "TPU v3": _tpu("v3", 123 / 2, 32 // 2, 900 / 2, f"{_GOOGLE}v3"),
    "TPU v4": _tpu("v4", 275, 32, 1200, f"{_GOOGLE}v4"),
    "TPU v5 lite": _V5E,
    "TPU v5e": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "TPU v6e": _V6E,
    "TPU7x": _tpu("7x", 2307 / 2, 192 // 2, 7380 / 2, f"{_GOOGLE}tpu7x"),
    "Tesla V100-SXM2-16GB": _gpu("V100 SXM2", 15.7, 15.7, 16, 900, f"{_NVIDIA}v100"),
    "Tesla V100-SXM2-32GB": _gpu("V100 SXM2", 15.7, 15.7, 32, 900, f"{_NVIDIA}v100"),
    "Tesla V100-PCIE-16GB": _gpu("V100 PCIe", 14, 14, 16, 900, f"{_NVIDIA}v100"),
    "Tesla V100-PCIE-32GB": _gpu("V100 PCIe", 14, 14, 32, 900, f"{_NVIDIA}v100"),
    "Tesla T4": _gpu("T4", 8.1, 8.1, 16, 320, f"{_NVIDIA}tesla-t4"),
    "NVIDIA A100-SXM4-40GB": _gpu("A100 SXM", 312, 156, 40, 1555, f"{_NVIDIA}a100"),
    "NVIDIA A100-SXM4-80GB": _gpu("A100 SXM", 312, 156, 80, 2039, f"{_NVIDIA}a100"),
    "NVIDIA A100-PCIE-40GB": _gpu("A100 PCIe", 312, 156, 40, 1555, f"{_NVIDIA}a100"),
    "NVIDIA A100 80GB PCIe": _gpu("A100 PCIe", 312, 156, 80, 1935, f"{_NVIDIA}a100"),
    "NVIDIA L4": _gpu("L4", 121, 60, 24, 300, f"{_NVIDIA}l4"),
    "NVIDIA L40S": _gpu("L40S", 362, 183, 48, 864, f"{_NVIDIA}l40s"),
    "NVIDIA H100 80GB HBM3": _gpu("H100 SXM", 989, 494, 80, 3350, f"{_NVIDIA}h100"),
    "NVIDIA H100 PCIe": _gpu("H100 PCIe", 756, 378, 80, 2000, f"{_NVIDIA}h100"),
    "NVIDIA H100 NVL": _gpu("H100 NVL", 835, 417, 94, 3900, f"{_NVIDIA}h100"),
    "NVIDIA H200": _gpu("H200 SXM", 989, 494, 141, 4800, f"{_NVIDIA}h200"),
    "NVIDIA H200 NVL": _gpu("H200 NVL", 835, 417, 141, 4800, f"{_NVIDIA}h200"),
    "NVIDIA B200": _gpu("B200", 2250, 1100, 180, 8000, _BLACKWELL),
    "NVIDIA GB200": _gpu("GB200", 2500, 1250, 186, 8000, _BLACKWELL),
}


def find(device_kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None for a CPU and for what is not in the table."""
    return CHIPS.get(device_kind)


def memory_fraction() -> float:
    """The share of a GPU's memory that JAX takes in this environment; the rest is for others.

    Raises:
      UserError: it is no number between 0 and 1, or is given under both names.
    """
    names = (MEMORY_FRACTION, MEMORY_FRACTION_ONCE)
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if len(given) > 1:
        raise UserError(
            f"{MEMORY_FRACTION}: expected alone, found it with {MEMORY_FRACTION_ONCE}, its old "
            "name; unset the old one"
        )
    for name, word in given.items():
        try:
            share = float(word)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise UserError(
                f"{name}: expected a number above 0 and up to 1, found {word!r}; set one such as "
                "0.9, or unset it"
            )
        return share
    return _JAX_TAKES
