"""What the README shows is what happens."""

import re
from pathlib import Path

import jax

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_kernel_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(code, scope)
    assert scope["loss"].shape == (4,)
    assert scope["sample"].trajectory.shape == (4, 9, 10)


def test_every_flag_and_file_that_is_named_exists():
    root = Path(__file__).parents[1]
    for path in re.findall(r"\b(?:launch|configs|didicm_jax)/[\w/]+\.py", README):
        assert (root / path).is_file(), path
