"""What a run makes of its devices: the share of their peak that it reaches, and their memory."""

from collections.abc import Callable

from didicm_jax.errors import UserError
from didicm_jax.training import operations
from didicm_jax.training.plan import Plan


class Utilization:
    """Adds to the records of a run what its devices do, as far as that is known of them."""

    def __init__(self, run: Plan, say: Callable[[str], None]) -> None:
        """Counts the operations of a step, where there is a peak to hold them against.

        Args:
          run: whose devices they are.
          say: told if they cannot be counted.
        """
        self._devices = run.mesh.local_devices
        self._seconds_per_image = 0.0  # at the peak of all devices; 0: not known
        if run.peak is None:
            return
        try:
            step = operations.of_step(run)
        except UserError as error:
            say(f"no mfu is logged: {error}")
        else:
            self._seconds_per_image = step / run.config.train.batch_size / run.peak

    def record(self, images_per_second: float) -> dict[str, float]:
        """`mfu` and `peak_memory_bytes`, each where it is known.

        Args:
          images_per_second: on all devices, since the last record.
        """
        found = {}
        if self._seconds_per_image:
            found["mfu"] = images_per_second * self._seconds_per_image
        # A CPU tells nothing. The devices of other processes are not asked: they have as much.
        told = [device.memory_stats() or {} for device in self._devices]
        if peaks := [stats["peak_bytes_in_use"] for stats in told if "peak_bytes_in_use" in stats]:
            found["peak_memory_bytes"] = max(peaks)
        return found
