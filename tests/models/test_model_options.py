"""What cannot be built is refused in one line, before any parameter is made."""

import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.errors import UserError
from didicm_jax.models.conditioning import INITS

VIT = {"name": "didivit_ti16"}


class NoRngs(nnx.Rngs):
    """Fails where a parameter would be drawn."""

    def params(self):
        raise AssertionError("a parameter was made before the options were checked")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "resnet19"}, r"found 'resnet19': use one of didirn18, "),
        ({"name": "resnet18", "conditioned_stages": 1}, "resnet18: expected options out of "),
        ({"heads": 3}, "found heads: remove"),
        ({"num_classes": 1}, "num_classes: expected a whole number at least 2, found 1"),
        ({"num_classes": 10.0}, r"num_classes: .* found 10\.0"),
        ({"in_channels": 0}, "in_channels: expected a whole number at least 1, found 0"),
        ({"stem": "big"}, "stem out of fine, small, didirn, imagenet, found 'big'"),
        ({"stem": ["small"]}, r"found \['small'\]"),
        ({"width": 0}, "width to be a number above 0 and at most 100, found 0"),
        ({"width": "wide"}, "found 'wide'"),
        ({"width": True}, "found True"),
        ({"width": 0.3}, r"found width=0\.3 \(19\.2 channels\): use for example width=0\.3125"),
        ({"width": 1 / 64}, r"width=0\.03125"),
        ({"width": float("nan")}, "found nan"),
        ({"dtype": "float16"}, "dtype to be float32 or bfloat16, found float16"),
        ({"dtype": "float"}, "found float64"),
        ({"dtype": "quick"}, "found 'quick'"),
        ({"conditioned_stages": 5}, "whole number from 0 to 4, found 5"),
        ({"conditioned_stages": 1.0}, r"found 1\.0"),
        ({"conditioned_stages": True}, "found True"),
        ({"norm_axis_name": 3}, "norm_axis_name to be the name of a mapped axis or None, found 3"),
        (
            {"image_size": 8},
            r"at least 9 pixels .* 'didirn' \(total stride 16\), found 8x8: .*fine",
        ),
        ({"image_size": (64, 16), "stem": "imagenet"}, "at least 17 pixels .* found 64x16"),
        ({"image_size": 4, "stem": "small"}, "at least 5 pixels .*: use larger images or .*fine"),
        ({"image_size": 2, "stem": "fine"}, "at least 3 pixels .*: use larger images$"),
        ({"init": "pytorch"}, "init: expected one of zero, torch, found 'pytorch'"),
        ({"group_elements": 0}, "group_elements: expected a whole number at least 1, found 0"),
        ({"image_size": 0}, "image_size: expected a whole number at least 1, found 0"),
        ({"image_size": (8, 8, 3)}, r"\(height, width\), found \(8, 8, 3\)"),
        ({"image_size": 32.0}, r"found 32\.0"),
        ({"parameterization": "free"}, "expected one of ratio, bounded, posterior, found 'free'"),
        ({"parameterization": None}, "parameterization: .* found None"),
        ({"conditioned_blocks": 1}, "options out of .* found conditioned_blocks: remove"),
        (VIT | {"stem": "small"}, "didivit_ti16: expected options out of .* found stem: remove"),
        (VIT | {"conditioned_stages": 1}, "found conditioned_stages: remove"),
        (VIT | {"name": "vit_ti16", "conditioned_blocks": 1}, "found conditioned_blocks: remove"),
        (VIT | {"norm_axis_name": "data"}, "found norm_axis_name: remove"),
        (VIT | {"name": "vit_ti32"}, "found 'vit_ti32': use one of .* vit_ti16"),
        (VIT | {"image_size": (32, 30)}, "multiples of its patch of 16 pixels, found 32x30: "),
        (VIT | {"image_size": 0}, "image_size: expected a whole number at least 1, found 0"),
        (VIT | {"width": 0.5}, r"found width=0\.5 \(1\.5 heads\): use for example width=0\.6667"),
        (VIT | {"width": 0.1}, r"width=0\.3333"),
        (VIT | {"width": "wide"}, "width to be a number above 0 and at most 100, found 'wide'"),
        (VIT | {"depth": 0}, "depth: expected a whole number at least 1, found 0"),
        (VIT | {"pool": "max"}, "pool: expected one of average, token, found 'max'"),
        (VIT | {"dtype": "float16"}, "dtype to be float32 or bfloat16, found float16"),
        (VIT | {"in_channels": 0}, "in_channels: expected a whole number at least 1, found 0"),
        (VIT | {"conditioned_blocks": 13}, "conditioned_blocks: .* from 0 to 12, found 13"),
        (VIT | {"depth": 2, "conditioned_blocks": 3}, "from 0 to 2, found 3"),
        (VIT | {"conditioned_blocks": True}, "found True"),
        (
            VIT | {"parameterization": "free"},
            "expected one of ratio, bounded, posterior, found 'free'",
        ),
    ],
)
def test_refused_in_one_line(changes, expected):
    arguments = {"name": "didirn18", "num_classes": 10, "image_size": 32} | changes
    with pytest.raises(UserError, match=expected) as caught:
        models.create_model(**arguments, rngs=NoRngs(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0.1, 0.5, 17.6, 33.4, 99.9])
@pytest.mark.parametrize("name", ["didirn18", "vit_ti16", "vit_s16", "vit_b16"])
def test_the_width_that_is_advised_is_accepted(name, width):
    options = models.MODELS[name].options
    with pytest.raises(UserError, match="use for example width=") as caught:
        options(width=width + 0.004).check(name, 32)
    advised = float(str(caught.value).rpartition("=")[2])
    options(width=advised).check(name, 32)


@pytest.mark.parametrize("options", [{"dtype": jnp.bfloat16}, {"dtype": "bfloat16"}, {"width": 2}])
def test_accepted(options):
    model = nnx.eval_shape(
        lambda: models.create_model(
            "didirn18", num_classes=2, image_size=[9, 9], rngs=nnx.Rngs(0), **options
        )
    )
    assert model.num_classes == 2


def test_wrong_inputs_are_refused(make):
    model = make()
    good = {
        "images": jnp.zeros((2, 16, 16, 3)),
        "labels": jnp.zeros(2, jnp.int32),
        "sigma": jnp.ones(2),
    }
    wrong = {
        "images": [jnp.zeros((2, 16, 16, 1)), jnp.zeros((2, 16, 16, 3), jnp.uint8)],
        "labels": [jnp.zeros(3, jnp.int32), jnp.zeros(2), jnp.zeros((2, 1), jnp.int32)],
        "sigma": [jnp.ones(()), jnp.ones(2, jnp.int32)],
    }
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(AssertionError):
                nnx.eval_shape(lambda key=key, value=value: model(**good | {key: value}))


def test_a_model_that_lacks_a_method_cannot_be_made():
    class Half(models.ScoreModel):
        def encode(self, images):
            return images

    with pytest.raises(TypeError, match="output"):
        Half()


def test_an_option_has_one_default_whichever_model_takes_it():
    """So a setting of its name can have it too, in a file of JSON."""
    defaults = {}
    for name in models.names():
        for option, default in models.options_of(name).items():
            assert defaults.setdefault(option, default) == default, (name, option)
    assert json.loads(json.dumps(defaults)) == defaults
    assert defaults["stem"] in models.STEMS
    assert defaults["pool"] in models.POOLS
    assert defaults["dtype"] in models.COMPUTE_DTYPES
    assert defaults["parameterization"] in models.PARAMETERIZATIONS
    assert defaults["conditioned_stages"] == models.STAGES
    assert defaults["init"] in INITS


@pytest.mark.parametrize("name", ["didirn18", "resnet18", "didivit_ti16", "vit_ti16"])
def test_defaults_are_what_a_model_is_made_with(name):
    def state(**options):
        model = models.create_model(name, num_classes=3, image_size=32, rngs=nnx.Rngs(0), **options)
        return nnx.split(model)

    (bare, shapes), (given, same) = (
        nnx.eval_shape(lambda options=options: state(**options))
        for options in ({}, models.options_of(name))
    )
    assert bare == given
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, same)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("didirn18", {"init": init}) for init in INITS),
        ("resnet18", {}),
        *((name, {"pool": pool}) for name in ("didivit_ti16", "vit_ti16") for pool in models.POOLS),
    ],
)
def test_all_arrays_are_float32_where_jax_has_64_bits(name, options):
    def state():
        model = models.create_model(name, num_classes=3, image_size=32, rngs=nnx.Rngs(0), **options)
        return nnx.state(model)

    with jax.enable_x64(True):
        found = jax.tree.leaves(nnx.eval_shape(state))
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}
