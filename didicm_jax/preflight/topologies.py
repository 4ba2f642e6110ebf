"""Devices that are described and not there: `h100:8`, `v5e:2x2`.

XLA compiles for them where the plugin of their kind is installed. It must be told so before jax
starts (`prepare`), and then this process has CPUs alone.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from didicm_jax.errors import UserError
from didicm_jax.parallel import chips

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Gpu:
    """What XLA asks of a card: NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities", for the
    limits, and the white paper of its architecture for multiprocessors, L2 and clock.
    """

    kind: str  # `jax.Device.device_kind`
    capability: int  # the major number; all minor ones are 0
    cores: int  # multiprocessors
    fpus_per_core: int
    shared_per_core: int  # bytes
    l2_bytes: int
    clock_ghz: float

    def target(self) -> str:
        """XLA's description of it, `GpuTargetConfigProto` as text."""
        chip = chips.CHIPS[self.kind]
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
              shared_memory_per_block: 49152
              shared_memory_per_block_optin: {self.shared_per_core - 1024}
              shared_memory_per_core: {self.shared_per_core}
              core_count: {self.cores} fpus_per_core: {self.fpus_per_core}
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {int(chip.hbm_bandwidth)} l2_cache_size: {self.l2_bytes}
              clock_rate_ghz: {self.clock_ghz} device_memory_size: {chip.hbm_bytes}
              cuda_compute_capability {{ major: {self.capability} }}
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
            }}
            platform_name: "CUDA"
            dnn_version_info {{ major: 9 minor: 8 }}
            runtime_version {{ major: 12 minor: 9 patch: 0 }}
            device_description_str: "{self.kind}"
        """


_KIB, _MIB = 2**10, 2**20
# "NVIDIA H100 Tensor Core GPU Architecture" (2022), table 4, and "NVIDIA A100 Tensor Core GPU
# Architecture" (2020), table 4; the H200 is the same GH100 with other memory.
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 228 * _KIB, 50 * _MIB, 1.98),
    "h200": Gpu("NVIDIA H200", 9, 132, 128, 228 * _KIB, 50 * _MIB, 1.98),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 164 * _KIB, 40 * _MIB, 1.41),
}


@dataclass(frozen=True)
class Tpu:
    """What libtpu calls a chip, and the arrangements of it that it describes."""

    kind: str  # `jax.Device.device_kind`
    shapes: tuple[str, ...]
    clock: float  # cycles a second, at which XLA's estimates count
    options: tuple[tuple[str, str], ...] = ()


# The clock of v4 is from Jouppi et al. 2023, TPU v4 (arXiv 2304.01433). Of the others it is the
# peak of `chips.CHIPS` over twice their multipliers: 4 and 8 units of 128 x 128, of v6e 4 of 256 x
# 256.
TPUS = {
    # Without "megacore" its two cores would be two devices, which JAX does not do on a real one.
    "v4": Tpu("TPU v4", ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"), 1.05e9,
              (("chip_config_name", "megacore"),)),
    "v5e": Tpu("TPU v5 lite", ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"), 1.5e9),
    "v5p": Tpu("TPU v5", ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4"), 1.75e9),
    "v6e": Tpu("TPU v6 lite", ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"), 1.75e9),
}  # fmt: skip
_MOST_GPUS = 1024


@dataclass(frozen=True)
class Topology:
    """Several devices of one kind."""

    name: str  # `h100:8`
    chip: Gpu | Tpu
    count: int  # devices

    @property
    def platform(self) -> str:
        """As jax calls it."""
        return "cuda" if isinstance(self.chip, Gpu) else "tpu"

    @property
    def makers(self) -> chips.Chip:
        """What the maker says of one device."""
        return chips.CHIPS[self.chip.kind]

    @property
    def hosts(self) -> int:
        """Machines that they are in: of eight GPUs, or of four chips."""
        return -(-self.count // (8 if isinstance(self.chip, Gpu) else 4))


def find(name: str) -> Topology:
    """The topology of a name, `CHIP:ARRANGEMENT`.

    Raises:
      UserError: there is no such chip, or it is not arranged so; says how it is.
    """
    kind, _, arrangement = name.partition(":")
    if kind in GPUS:
        count = int(arrangement) if arrangement.isascii() and arrangement.isdigit() else 0
        if not 1 <= count <= _MOST_GPUS:
            raise UserError(
                f"expected {kind}:N with 1 to {_MOST_GPUS} GPUs, found {name!r}; write {kind}:8 "
                "for a host with eight",
                about="topology",
            )
        return Topology(name, GPUS[kind], count)
    if kind in TPUS:
        known = TPUS[kind].shapes
        if arrangement not in known:
            raise UserError(
                f"expected {', '.join(f'{kind}:{shape}' for shape in known)}, found {name!r}; "
                "choose one of them",
                about="topology",
            )
        sides = [int(side) for side in arrangement.split("x")]
        count = sides[0] * sides[1] * (sides[2] if len(sides) > 2 else 1)
        return Topology(name, TPUS[kind], count)
    raise UserError(
        f"expected CHIP:ARRANGEMENT with a chip of {', '.join([*GPUS, *TPUS])}, found {name!r}; "
        "write h100:8 or v5e:2x2",
        about="topology",
    )


def prepare(topology: Topology) -> None:
    """Tells jax, which must not have started, that this process has CPUs alone.

    Raises:
      UserError: the plugin that compiles for them is not installed.
    """
    package, extra = {
        "cuda": ("jax_cuda12_plugin", "cuda12"),
        "tpu": ("libtpu", "tpu"),
    }[topology.platform]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"expected {package}, which compiles for {topology.name}, found none; "
            f"pip install '.[{extra}]'",
            about="topology",
        )
    import jax

    jax.config.update("jax_platforms", "cpu")
    # What is compiled for a device that is not there cannot be loaded again.
    jax.config.update("jax_enable_compilation_cache", False)
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TPU_SKIP_MDS_QUERY": "1",
        # Another process may hold libtpu's lock; this one opens no device.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # Else libtpu looks for this host among the workers of a pod, and says that there is none.
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }


def devices(topology: Topology) -> "list[jax.Device]":
    """Its devices, of which a mesh can be made to compile for."""
    from jax.experimental import topologies

    chip = topology.chip
    if isinstance(chip, Gpu):
        described = topologies.get_topology_desc(
            platform="cuda", target_config=chip.target(), topology=f"1x1x{topology.count}"
        )
    else:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **dict(chip.options)
        )
    return list(described.devices)


def compiler_options(topology: Topology) -> dict[str, Any]:
    """What XLA must not try, for lack of a device to try it on."""
    if topology.platform != "cuda":
        return {}
    return {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
