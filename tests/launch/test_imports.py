"""The floors of what is no package: commands, benchmarks and configs, above `didicm_jax`.

import-linter sees packages alone; the contracts within `didicm_jax` stand in pyproject.toml.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("main", "study", "prepare", "convert", "demo")
# What each kind of file may know: modules of its own place, and rooms of the package.
FLOORS = {
    "command": {"didicm_jax.cli"},
    "bench": {"benchmarks", "didicm_jax.errors"},
    "benchmark": {
        "benchmarks",
        *(
            f"didicm_jax.{room}"
            for room in (
                *("errors", "files", "plots", "config", "parallel", "diffusion", "models", "data"),
                *("augment", "run", "inference", "evaluation", "training", "preflight"),
            )
        ),
    },
    "config": {"didicm_jax.config", "didicm_jax.errors"},
}


def files():
    kinds = dict.fromkeys(ROOT.glob("launch/benchmarks/*.py"), "benchmark")
    for path in ROOT.glob("launch/*.py"):
        kinds[path] = "command" if path.stem in COMMANDS else "bench"
    kinds |= dict.fromkeys(ROOT.glob("configs/*.py"), "config")
    return sorted(kinds.items())


def imported(path):
    """Dotted names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "no package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


OURS = {"didicm_jax", "tests", "benchmarks", "launch", "configs"} | {
    path.stem for path, kind in files() if kind != "benchmark"
}


@pytest.mark.parametrize(
    ("path", "kind"), [pytest.param(*each, id=str(each[0].relative_to(ROOT))) for each in files()]
)
def test_launch_and_configs_know_what_stands_below_them(path, kind):
    names = [name for name in imported(path) if name.partition(".")[0] in OURS]
    allowed = FLOORS[kind]
    wrong = [name for name in names if not any(f"{name}.".startswith(f"{a}.") for a in allowed)]
    assert wrong == []
    private = [name for name in names if any(part.startswith("_") for part in name.split("."))]
    assert private == []


def test_the_package_knows_nothing_that_is_not_installed_with_it():
    for path in ROOT.glob("didicm_jax/**/*.py"):
        roots = {name.partition(".")[0] for name in imported(path)}
        assert roots & (OURS - {"didicm_jax"}) == set(), path


def test_what_people_type_fits_a_screen():
    paths = [path for path in ROOT.glob("launch/*") if path.is_file()]
    lengths = {path.name: len(path.read_text().splitlines()) for path in paths}
    assert max(lengths[path.name] for path in paths if path.suffix == ".py") <= 80
    assert sum(lengths.values()) < 700
