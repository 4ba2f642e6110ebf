"""How the tests compile: that is most of the suite's time, and no test measures speed."""

import jaxlib.version

_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
# XLA's older emitter compiles three times as fast. An XLA that does not know the flag would refuse
# to start.
if jaxlib.version.__version__.startswith("0.10."):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def flags(devices: int) -> str:
    """`XLA_FLAGS` for so many simulated devices."""
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *_FLAGS])
