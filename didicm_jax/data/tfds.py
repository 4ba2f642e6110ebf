"""Any classification set that tensorflow-datasets serves as a data source, without TensorFlow."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from didicm_jax.data import identity, prepared
from didicm_jax.data.labels import find_labels
from didicm_jax.data.options import PhotoOptions
from didicm_jax.data.records import Records, RecordSource, read_label
from didicm_jax.data.source import Dataset
from didicm_jax.data.splits import Slice, slices_of
from didicm_jax.errors import UserError, first_line

_EVAL_SPLITS = ("validation", "test")


def load_tfds(name: str, data_dir: str | None, options: PhotoOptions) -> Dataset:
    """The set `name` (`food101`, `cifar10:3.*.*`, or one that `launch/prepare.py` made).

    Args:
      name: as tfds writes it, with a config and a version where wanted.
      data_dir: the folder that holds the set's folder, on any file system that tfds reads; None is
        tfds's own.
      options: splits, size and crops.

    Raises:
      UserError: no such set there, not in a format with random access, no such split, or a set that
        does not have one image and one class label.
    """
    builder = _open(name, data_dir)
    image_key, label_key = _keys(builder, name)
    class_names = _class_names(builder, label_key)
    split = options.train_split
    eval_split = options.eval_split or _eval_split(builder, name, trains=split is not None)

    def open_source(split: str, key: str) -> RecordSource:
        return _source(builder, split, key, image_key, label_key, options)

    train = None if split is None else open_source(split, "train_split")
    test = open_source(eval_split, "eval_split")
    size = options.resolution
    return Dataset(test if train is None else train, test, class_names, (size, size, 3))


def _open(name: str, data_dir: str | None) -> Any:
    """The builder: from the files where they are there, whatever version tfds itself is at."""
    try:
        reference, options = tfds.core.naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise UserError(
            f"expected config.data.name to be the name of a data set, found {name!r}"
            f" ({first_line(error)}): write it as tensorflow-datasets does, NAME or NAME/CONFIG"
        ) from error
    data_dir = os.path.expanduser(data_dir) if data_dir else None
    options = {**options, "data_dir": data_dir}
    try:
        return tfds.core.read_only_builder.builder_from_files(reference.name, **options)
    except tfds.core.registered.DatasetNotFoundError:
        pass
    except Exception as error:  # Files that are there and damaged, as json, protobuf, … word it.
        raise UserError(
            f"expected a whole description of {name} in {data_dir or '~/tensorflow_datasets'},"
            f" found files that cannot be read ({first_line(error)}): copy or prepare the set"
            " again"
        ) from error
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        where = data_dir or "~/tensorflow_datasets"
        raise UserError(
            "expected config.data.name to be one of digits, idx, or a set of tensorflow-datasets or"
            f" launch/prepare.py in {where}, found {name!r}, which neither knows: check"
            " config.data.name and config.data.data_dir, or prepare it (python launch/prepare.py"
            f" --dataset=folder --name={reference.name} --source=DIR --data_dir={where})"
        ) from error
    except Exception as error:  # An unknown version, config or argument, as tfds words it.
        raise UserError(
            f"expected config.data.name to be a set that tensorflow-datasets builds, found {name!r}"
            f" ({first_line(error)}): correct its config or version"
        ) from error


def _keys(builder: Any, name: str) -> tuple[str, str]:
    """The names of the image and of the label among the features."""
    features = builder.info.features
    kinds = {tfds.features.Image: [], tfds.features.ClassLabel: []}  # type: dict[type, list[str]]
    for key in features if isinstance(features, tfds.features.FeaturesDict) else ():
        for kind, keys in kinds.items():
            if isinstance(features[key], kind):
                keys.append(key)
    images, labels = kinds.values()
    supervised = builder.info.supervised_keys or (None, None)
    if supervised[0] in images and supervised[1] in labels:
        return supervised[0], supervised[1]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"expected one image and one class label in each example of {name}, found images"
            f" {images} and labels {labels}: use a set for classification"
        )
    return images[0], labels[0]


def _class_names(builder: Any, label_key: str) -> tuple[str, ...]:
    """The names of the classes; of a set that has none, their numbers."""
    feature = builder.info.features[label_key]
    folder = epath.Path(builder.data_dir)
    path = folder / prepared.classes_file(label_key)
    # tfds passes over a file that it cannot read, and calls the classes by their numbers.
    if (path.exists() or prepared.read(folder)) and not prepared.read_classes(path):
        raise UserError(
            f"expected the names of the classes in {path}, one a line, in UTF-8, found no such"
            " file: copy or prepare the set again"
        )
    return tuple(feature.names or map(str, range(feature.num_classes)))


def _eval_split(builder: Any, name: str, *, trains: bool) -> str:
    splits = list(builder.info.splits)
    if not splits:  # Not prepared: opening it says so.
        return _EVAL_SPLITS[0]
    for split in _EVAL_SPLITS:
        if split in splits:
            return split
    remedy = "config.data.eval_split to one of them"
    if trains:
        remedy = (
            "config.data.train_split and config.data.eval_split, such as train[:90%] and"
            " train[90%:]"
        )
    raise UserError(
        f"expected a split called validation or test in {name}, found {', '.join(splits)}: set"
        f" {remedy}"
    )


def _source(
    builder: Any, split: str, key: str, image_key: str, label_key: str, options: PhotoOptions
) -> RecordSource:
    parts, records = _records(builder, split, key)
    folder = epath.Path(builder.data_dir)
    read = functools.partial(read_label, records, label_key=label_key)
    labels = find_labels(folder, builder.name, split, parts, len(records), read, options.threads)
    if len(labels) != len(records):  # Each image would get the label of another.
        raise UserError(
            f"expected one label for each of the {len(records):,} records of {builder.name}"
            f" {split}, found {len(labels):,}: copy or prepare the set again"
        )
    return RecordSource(
        records,
        labels,
        image_key=image_key,
        name=f"{builder.name} {split}",
        options=options,
        identify=functools.partial(identity.digest, builder, parts),
    )


def _records(builder: Any, split: str, key: str) -> tuple[list[Slice], Records]:
    """What a split, which the setting `key` names, is made of, and its serialized examples.

    tfds's own parsing would cost 150 µs an image under the GIL.
    """
    shards = {name: info.shard_lengths for name, info in builder.info.splits.items()}
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        # Of a set that is not prepared there are none: opening it says so.
        parts = slices_of(split, shards) if shards else []
        records: Sequence[bytes] = builder.as_data_source(split, deserialize_method=raw)
    except NotImplementedError as error:
        raise _not_prepared(builder) from error
    except (ValueError, AssertionError, KeyError) as error:
        raise UserError(
            f"expected a split {split!r} of {builder.name}, found {', '.join(shards)}"
            f" ({first_line(error)}): correct config.data.{key}"
        ) from error
    try:
        # A shard that is missing or cut off shows here and not in the middle of an epoch.
        for index in {0, len(records) - 1} if len(records) else ():
            records[index]
    except Exception as error:  # What array_record and file systems raise is not one family.
        raise UserError(
            f"expected the records of {builder.name} {split} in {builder.data_dir}, found files"
            f" that cannot be read ({first_line(error)}): copy or prepare the set again"
        ) from error
    return parts, records


def _not_prepared(builder: Any) -> UserError:
    root = builder.data_dir_root if hasattr(builder, "data_dir_root") else "DIR"
    if builder.name == "imagenet2012":
        how = f"python launch/prepare.py --dataset=imagenet2012 --source=TARS --data_dir={root}"
    else:
        how = (
            f"tfds build {builder.name} --data_dir={root} --file_format=array_record (with"
            " TensorFlow installed), or from class folders python launch/prepare.py"
            f" --dataset=folder --name={builder.name} --source=DIR --data_dir={root}"
        )
    found = "nothing"
    if builder.is_prepared():
        found = f"it only as {builder.info.file_format.value}, which has no random access"
        how += ", into another or an emptied folder"
    return UserError(
        f"expected {builder.name} as array_record in {builder.data_dir}, found {found}: prepare it"
        f" with {how}"
    )
