"""A trained network out of the folder of its run."""

import dataclasses

import jax
import numpy as np
import pytest

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.inference import network
from didicm_jax.run import RunFolder
from tests.inference.test_predictor import make_run


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_averages_are_read_where_the_run_keeps_them(tmp_path, decay):
    """Bit for bit, onto all devices, and by one look at the network."""
    _, state = make_run(tmp_path / "run", **{"train.ema_decay": decay})
    wanted = state.variables if state.ema is None else state.ema
    assert (state.ema is None) == (decay == 0)
    mesh = parallel.make_mesh()
    found = network.load(RunFolder.open(tmp_path / "run"), "latest", mesh)
    assert found.step == 2
    jax.tree.map(np.testing.assert_array_equal, found.variables, wanted)
    assert len(jax.tree.leaves(found.variables)[0].sharding.device_set) == mesh.size
    best = network.load(RunFolder.open(tmp_path / "run"), "best", mesh)
    assert best.step == 1
    folder = RunFolder.open(tmp_path / "run")
    other = folder.config.copy_and_resolve_references()
    with other.unlocked():
        other.model.width = 2 / 3
    with pytest.raises(UserError, match=r"expected (ema|variables)\.params.* of another network"):
        network.load(dataclasses.replace(folder, config=other), "latest", mesh)


def test_processes_read_one_checkpoint(tmp_path, monkeypatch):
    """Of a run that is being trained the second one, which looks later, would find a newer one."""
    make_run(tmp_path / "run")
    first = np.array([1])  # what process 0 has found
    alone = parallel.gather
    monkeypatch.setattr(
        parallel, "gather", lambda x: np.concatenate([first, x]) if x.dtype == int else alone(x)
    )
    found = network.load(RunFolder.open(tmp_path / "run"), "latest", parallel.make_mesh())
    assert found.step == 1
