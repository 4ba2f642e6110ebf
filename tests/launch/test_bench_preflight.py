"""What a network costs on devices that are not there: of recorded programs, and on paper."""

from pathlib import Path

import jax
import pytest
from benchmarks import preflight

from didicm_jax.errors import UserError
from didicm_jax.models import variables
from didicm_jax.preflight import hlo, topologies

RECORDED = Path(__file__).parents[1] / "preflight"


def test_cost_of_a_recorded_program():
    """The sums of `--mode=preflight`: cycles by the clock, and a loop as often as it runs."""
    found = preflight.cost(
        hlo.Program((RECORDED / "tpu.txt").read_text()), topologies.find("v5e:2x2")
    )
    cycles = 5 * (2138 + 1886) + 2527 + 1888 + 2008 + 1917 + 1825
    assert found == {"estimated_milliseconds": pytest.approx(1e3 * cycles / 1.5e9)}
    found = preflight.cost(
        hlo.Program((RECORDED / "gpu.txt").read_text()), topologies.find("h100:1")
    )
    assert found["kernels"] > 0
    assert found["traffic_bytes"] > 0


@pytest.mark.parametrize("name", preflight._OURS)
def test_ours_are_classifiers_of_imagenet(name):
    network = preflight._ours(name)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), "float32")
    logits, stats = jax.eval_shape(network.logits, network.variables, images)
    assert isinstance(network.variables, variables.Variables)
    assert logits.shape == (2, 1000)
    assert jax.tree.structure(stats) == jax.tree.structure(network.variables.stats)


@pytest.mark.parametrize("peer", ["somebody:.", "flax", "flax:/nowhere/at/all"])
def test_peers_that_are_not_there(peer):
    with pytest.raises(UserError, match="big_vision, flax with the folder of its checkout"):
        next(preflight.run("h100:1", peer))
