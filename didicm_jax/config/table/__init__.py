"""The table of settings: every setting of a run, in the order in which they are shown.

What is said of a setting anywhere comes from its row here: `default()`, what `validate` refuses,
what may change between two starts, `--help` and `docs/settings.md`. The bounds of numbers are where
float32 still gives finite posteriors and gradients (`tests/config/test_corners.py` goes there), or
where counters and memory end.
"""

from didicm_jax.config.checks import Choice, Number
from didicm_jax.config.setting import INTEGERS, Setting
from didicm_jax.config.table import images, network, optimisation, sampling

SETTINGS = (
    Setting("seed", 0, "chooses every random number of the run", Number(0, INTEGERS)),
    Setting(
        "method",
        "didicm",
        "the diffusion, or a plain classifier on the same trunk: softmax (cross_entropy) or one "
        "sigmoid per class (binary_cross_entropy, timm's A1 recipe)",
        Choice(("didicm", "cross_entropy", "binary_cross_entropy")),
    ),
    *images.SETTINGS,
    *network.SETTINGS,
    *optimisation.SETTINGS,
    *sampling.SETTINGS,
)

BY_KEY = {setting.key: setting for setting in SETTINGS}
