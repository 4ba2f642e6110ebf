"""Settings of the images: where they come from, what is shown of them, how they are changed."""

from didicm_jax.config.checks import Number, Numbers, RandAugment, Switch, Text
from didicm_jax.config.setting import (
    BATCHES,
    BELOW_ONE,
    INTEGERS,
    SHARES,
    Change,
    Setting,
    above_zero,
    other_than,
    photos,
)

_PHOTOS = (photos(),)

SETTINGS = (
    Setting(
        "data.name",
        "digits",
        "digits, idx, or a set that tfds or launch/prepare.py prepared",
        Text("the name of a data set", required=True),
    ),
    Setting(
        "data.data_dir",
        "",
        "folder of the data set; empty: where it is installed",
        Text("a folder"),
        read=(other_than("data.name", "digits"),),
        change=Change.ALWAYS,
    ),
    Setting(
        "data.train_examples",
        0,
        "training images to keep, the same share of each class; 0: all",
        Number(0, INTEGERS),
    ),
    Setting("data.data_ratio", 1.0, "or the share of them to keep", SHARES),
    Setting(
        "data.resolution",
        0,
        "pixels a side; 0: 224 for photos, as they are for digits and idx",
        Number(0, 8192),
    ),
    Setting(
        "data.train_split",
        "train",
        "part to train on, as tfds names parts, such as train[:90%]",
        Text("the name of a split", required=True),
    ),
    Setting(
        "data.eval_split",
        "",
        "part to evaluate on; empty: validation, or test where there is none",
        Text("the name of a split"),
        change=Change.EVALUATING,
    ),
    Setting(
        "data.repeats",
        1,
        "copies of each example in a batch (repeated augmentation)",
        BATCHES,
    ),
    Setting(
        "data.crop_scale",
        (0.08, 1.0),
        "smallest and largest share of the area in the random crop of training",
        Numbers(SHARES, "a smallest and a largest share", pair=True),
        read=_PHOTOS,
    ),
    Setting(
        "data.crop_ratio",
        (3 / 4, 4 / 3),
        "smallest and largest width / height of that crop",
        Numbers(Number(0.001, 1000), "a smallest and a largest ratio", pair=True),
        read=_PHOTOS,
    ),
    Setting(
        "data.eval_crop",
        0.875,
        "share of the shorter side that evaluation shows",
        SHARES,
        read=_PHOTOS,
    ),
    Setting(
        "data.max_broken_share",
        0.001,
        "share of the images that may fail to decode before the run stops",
        BELOW_ONE,
        read=_PHOTOS,
        change=Change.ALWAYS,
    ),
    Setting(
        "data.max_pixels",
        89_478_485,  # Pillow's own limit
        "pixels of the largest image that is decoded, against files made to fill the memory",
        Number(1, INTEGERS),
        read=_PHOTOS,
        change=Change.ALWAYS,
    ),
    Setting(
        "data.num_workers",
        0,
        "threads that decode; 0: one per core",
        Number(0, 4096),
        read=_PHOTOS,
        change=Change.ALWAYS,
    ),
    Setting(
        "data.mean",
        (0.5,),
        "mean per channel, of images in [0, 1]",
        Numbers(Number(-1000, 1000), "a number per channel"),
    ),
    Setting(
        "data.std",
        (0.5,),
        "deviation per channel, of images in [0, 1]",
        Numbers(Number(0.001, 1000), "a number per channel"),
    ),
    Setting("augment.flip", False, "mirror half of the images", Switch()),
    Setting("augment.shift", 0, "pixels to pad by before a crop at random; 0: off", Number(0, 128)),
    Setting(
        "augment.color_jitter",
        0.0,
        "strength of the change of brightness, contrast and saturation; 0: off",
        Number(0, 100),
    ),
    Setting("augment.rand_augment", "", "RandAugment; empty: off", RandAugment()),
    Setting("augment.mixup", 0.0, "alpha of mixup's Beta distribution; 0: off", Number(0, 1000)),
    Setting("augment.cutmix", 0.0, "alpha of cutmix's Beta distribution; 0: off", Number(0, 1000)),
    Setting(
        "augment.switch_prob",
        0.5,
        "probability of cutmix rather than mixup",
        Number(0, 1),
        read=(above_zero("augment.mixup"), above_zero("augment.cutmix")),
    ),
    Setting("augment.label_smoothing", 0.0, "share of a label spread over all classes", BELOW_ONE),
)
