"""PyTorch weights: the round trip, the names of both worlds, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.errors import UserError
from didicm_jax.pytorch import interop, parts


def make(name, **options):
    """A small abstract model: loading fills it, so nothing needs drawing."""
    options = {"width": 0.125, "image_size": 32, "num_classes": 3} | options
    return nnx.eval_shape(lambda: models.create_model(name, rngs=nnx.Rngs(0), **options))


def fill(model, seed=0):
    """A state dict for the model, every value different from its neighbours."""
    rng = np.random.default_rng(seed)
    drawn = {
        name: rng.standard_normal(entry.torch_shape).astype(np.float32)
        for name, entry in interop.entries_of(model).items()
    }
    return drawn | interop.family_of(model).constants(model)


def shapes(state_dict):
    return {name: array.shape for name, array in state_dict.items()}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("didirn18", {}),
        ("didirn50", {"conditioned_stages": 1}),
        ("didirn18", {"conditioned_stages": 0}),
        ("resnet50", {"stem": "imagenet"}),
        ("vit_ti16", {"width": 1 / 3, "depth": 2}),
        ("vit_s8", {"width": 1 / 3, "depth": 1, "pool": "token", "image_size": (8, 24)}),
    ],
)
def test_round_trip_bit_for_bit(name, options):
    model = make(name, **options)
    given = fill(model)
    interop.load_torch_state_dict(model, given)
    back = interop.to_torch_state_dict(model)
    assert back.keys() == given.keys()
    for key, array in back.items():
        assert array.dtype == np.float32
        assert array.flags.writeable
        np.testing.assert_array_equal(array, given[key])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("didirn18", {"conditioned_stages": 0}),
        ("didirn18", {"conditioned_stages": 1}),
        ("resnet18", {}),
        ("vit_ti16", {"width": 1 / 3, "depth": 1}),
    ],
)
def test_for_other_classes_all_is_taken_that_has_no_axis_of_them(name, options):
    model, given = make(name, num_classes=5, **options), fill(make(name, **options))
    wanted = shapes(fill(model))
    kept = {tensor for tensor, array in given.items() if wanted[tensor] == array.shape}
    part = parts.load_torch_body(model, given)
    assert set(part.fresh) == set(part.unused) == given.keys() - kept
    assert set(part.loaded) == kept - interop.family_of(model).constants(model).keys()


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_names_and_shapes_of_the_original(golden, arch):
    prefix = f"didirn/{arch}"
    classes = golden[f"{prefix}/eval"].shape[1]
    model = make(arch.replace("resnet", "didirn"), width=1.0, num_classes=classes)
    ours = {name: str(entry.torch_shape) for name, entry in interop.entries_of(model).items()}
    names, theirs = golden[f"{prefix}/names"].tolist(), golden[f"{prefix}/shapes"].tolist()
    assert ours == dict(zip(names, theirs, strict=True))


def test_layouts():
    model = make("resnet18")
    given = fill(model)
    interop.load_torch_state_dict(model, given)
    conv, linear = model.layer2[0].conv1.kernel[...], model.fc.kernel[...]
    np.testing.assert_array_equal(conv[2, 0, 5, 7], given["layer2.0.conv1.weight"][7, 5, 2, 0])
    np.testing.assert_array_equal(linear[4, 2], given["fc.weight"][2, 4])


def test_torchvision_names_of_the_plain_resnets():
    model = make("resnet50", stem="imagenet", width=1.0)
    entries = interop.entries_of(model)
    # From torchvision.models.resnet50().state_dict().
    assert entries["layer1.0.downsample.0.weight"].torch_shape == (256, 64, 1, 1)
    assert entries["layer4.0.downsample.1.running_var"].torch_shape == (2048,)
    assert entries["layer3.5.conv2.weight"].torch_shape == (256, 256, 3, 3)
    assert entries["conv1.weight"].torch_shape == (64, 3, 7, 7)
    # 320 entries there, 53 of them num_batches_tracked.
    assert len(entries) == 320 - 53


def test_other_names_counters_and_types_load_alike():
    model, other = make("resnet18"), make("resnet18")
    given = fill(model)
    interop.load_torch_state_dict(model, given)
    renamed = {key.replace("downsample", "skip_connection"): v for key, v in given.items()}
    wide = {key: value.astype(np.float64) for key, value in renamed.items()}
    interop.load_torch_state_dict(other, wide | {"bn1.num_batches_tracked": np.array(7)})
    for key, array in interop.to_torch_state_dict(other).items():
        np.testing.assert_array_equal(array, given[key])


def test_later_changes_of_the_arrays_do_not_reach_the_model():
    model = make("resnet18")
    given = fill(model)
    interop.load_torch_state_dict(model, given)
    expected = given["bn1.weight"].copy()
    given["bn1.weight"][:] = 0
    np.testing.assert_array_equal(model.bn1.scale[...], expected)


def test_all_faults_in_one_line_and_nothing_changed():
    model = make("resnet18")
    before = fill(model)
    interop.load_torch_state_dict(model, before)
    bad = fill(model, seed=1)
    del bad["conv1.weight"], bad["fc.bias"]
    bad["fc.weight"] = bad["fc.weight"].T
    bad["label_embedder.weight"] = np.zeros((3, 128))
    bad["layer2.0.skip_connection.0.weight"] = bad["layer2.0.downsample.0.weight"]
    with pytest.raises(UserError) as caught:
        interop.load_torch_state_dict(model, bad)
    message = str(caught.value)
    assert "missing: conv1.weight, fc.bias;" in message
    assert "not known: label_embedder.weight, layer2.0.skip_connection.0.weight;" in message
    assert "misshaped: fc.weight (64, 3) for (3, 64)" in message
    assert "\n" not in message
    for key, array in interop.to_torch_state_dict(model).items():
        np.testing.assert_array_equal(array, before[key])


def test_an_array_that_holds_no_numbers_changes_nothing():
    model = make("resnet18")
    before = fill(model)
    interop.load_torch_state_dict(model, before)
    bad = fill(model, seed=1) | {"fc.bias": np.array(["a", "b", "c"])}
    with pytest.raises(UserError, match=r"not numbers: fc\.bias"):
        interop.load_torch_state_dict(model, bad)
    np.testing.assert_array_equal(model.bn1.scale[...], before["bn1.weight"])


def test_a_model_without_counterpart_is_refused():
    with pytest.raises(UserError, match="found Linear"):
        interop.to_torch_state_dict(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))


# From timm.create_model("vit_tiny_patch16_224").state_dict(): shapes of one of twelve blocks and of
# what is outside the blocks; 152 tensors in all, as 12 per block and 8 more.
TIMM_VIT = {
    "cls_token": (1, 1, 192),
    "pos_embed": (1, 197, 192),
    "patch_embed.proj.weight": (192, 3, 16, 16),
    "patch_embed.proj.bias": (192,),
    "blocks.11.norm1.weight": (192,),
    "blocks.11.norm1.bias": (192,),
    "blocks.11.attn.qkv.weight": (576, 192),
    "blocks.11.attn.qkv.bias": (576,),
    "blocks.11.attn.proj.weight": (192, 192),
    "blocks.11.attn.proj.bias": (192,),
    "blocks.11.norm2.weight": (192,),
    "blocks.11.norm2.bias": (192,),
    "blocks.11.mlp.fc1.weight": (768, 192),
    "blocks.11.mlp.fc1.bias": (768,),
    "blocks.11.mlp.fc2.weight": (192, 768),
    "blocks.11.mlp.fc2.bias": (192,),
    "norm.weight": (192,),
    "norm.bias": (192,),
    "head.weight": (1000, 192),
    "head.bias": (1000,),
}


def test_timm_names_of_the_plain_vits():
    model = make("vit_ti16", width=1.0, pool="token", image_size=224, num_classes=1000)
    given = shapes(fill(model))
    assert {k: v for k, v in given.items() if k in TIMM_VIT} == TIMM_VIT
    assert len(given) == 12 * 12 + 8


def test_positions_other_than_the_fixed_ones_are_refused():
    model = make("vit_ti16", width=1 / 3, depth=1)
    good = fill(model)
    assert good["pos_embed"].shape == (1, 4, 64)
    bad = {
        "not the fixed values of this model": good | {"pos_embed": good["pos_embed"] + 0.1},
        "missing": {name: good[name] for name in good if name != "pos_embed"},
    }
    for kind, given in bad.items():
        with pytest.raises(UserError, match=f"found {kind}: pos_embed: "):
            interop.load_torch_state_dict(model, given)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_weights_of_half_precision_load(dtype):
    model = make("vit_ti16", width=1 / 3, depth=1)
    half = {name: array.astype(dtype) for name, array in fill(model).items()}
    interop.load_torch_state_dict(model, half)
    found = interop.to_torch_state_dict(model)
    np.testing.assert_array_equal(found["head.weight"], half["head.weight"].astype(np.float32))
