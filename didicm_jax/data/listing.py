"""What a source of images holds, before any image is read: the two official ImageNet tars, or a
tree of class folders."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from didicm_jax.data import tree
from didicm_jax.data.progress import show_progress
from didicm_jax.errors import UserError

# Headers of a tar are 512 bytes; what extends them, such as a long name, has a length of its own.
_HEADER_BYTES = 1 << 20
TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class Item(NamedTuple):
    """One encoded image: where its bytes are."""

    name: str
    label: int
    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes; from any number of threads at once."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Listing:
    """The images of each split, class by class, and how they are treated."""

    name: str
    version: str
    class_names: tuple[str, ...]
    splits: dict[str, list[Item]]
    keep_png: bool
    upright: bool

    def digest(self) -> str:
        """Of the classes, of name, size and label of every image, and how they are treated."""
        joined = hashlib.sha256()
        head = [self.class_names, self.keep_png, self.upright]
        joined.update(json.dumps(head).encode())
        for split, items in self.splits.items():
            joined.update(json.dumps([split, len(items)]).encode())
            for item in items:
                joined.update(json.dumps([item.name, item.size, item.label]).encode())
        return joined.hexdigest()


def list_imagenet(source: Path, *, name: str = "imagenet2012") -> Listing:
    """ImageNet 2012 in `source`, the folder of `ILSVRC2012_img_train.tar` and `…_val.tar`.

    The order of the classes and the labels of the validation images are those that come with
    tensorflow-datasets, which are the official ones.

    Raises:
      UserError: a tar that is missing, cut off or holds something else.
    """
    for file in (TRAIN_TAR, VALIDATION_TAR):
        if not (source / file).is_file():
            raise UserError(
                f"expected the official tars {TRAIN_TAR} and {VALIDATION_TAR} in {source}, found no"
                f" {file}: download both from image-net.org, give their folder as the source"
            )
    class_names = imagenet_class_names()
    val_labels = (_imagenet_folder() / "validation_labels.txt").read_text().split()
    labels = {name: label for label, name in enumerate(class_names)}
    train = list(_train_items(source / TRAIN_TAR, labels))
    validation = [
        Item(item.name, labels[val_labels[_validation_number(item, len(val_labels))]], *item[2:])
        for item in _tar_items(source / VALIDATION_TAR)
    ]
    splits = {"train": train, "validation": sorted(validation)}
    _check_some(splits, source)
    return Listing(name, "5.1.0", class_names, splits, keep_png=False, upright=False)


def imagenet_class_names() -> tuple[str, ...]:
    """The synsets of ImageNet's 1,000 classes in their order, `n01440764` first."""
    return tuple((_imagenet_folder() / "labels.txt").read_text().split())


def _imagenet_folder() -> Path:
    import tensorflow_datasets as tfds  # which takes a second to import

    return Path(tfds.core.tfds_path("datasets/imagenet2012"))


def _train_items(path: Path, labels: dict[str, int]) -> Iterator[Item]:
    """The images of the class tars within the tar at `path`, class by class."""
    classes = {}
    for member in _tar_items(path):
        wnid = member.name.removesuffix(".tar")
        if wnid not in labels or wnid == member.name:
            raise UserError(
                f"expected {path} to hold one tar for each class, such as n01440764.tar, found"
                f" {member.name!r}: use the official training tar of ImageNet 2012"
            )
        classes[labels[wnid]] = member
    ordered = sorted(classes.items())
    for label, member in show_progress(ordered, total=len(ordered), what="listing classes"):
        for item in _tar_items(path, member.offset, member.size):
            yield item._replace(label=label)


def _tar_items(path: Path, offset: int = 0, size: int | None = None) -> Iterator[Item]:
    """The files in the tar that is `size` bytes of `path` from `offset`; all of it by default."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2) if size is None else offset + size
            file.seek(offset)
            # Headers alone are read, so this takes no longer on 140 GB than seeking does.
            with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
                for member in tar:
                    name = _printable(member.name)
                    if not 0 <= member.size <= end - member.offset_data:
                        raise tarfile.ReadError(f"{name} ends beyond it")
                    if member.isfile():
                        base = name.rsplit("/", 1)[-1]
                        yield Item(base, 0, path, member.offset_data, member.size)
                # Without the block of zeros, one cut off between two files would look whole.
                file.seek(tar.offset)
                if file.read(512) != bytes(512):
                    raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError, RecursionError) as error:
        raise UserError(
            f"expected a whole tar in {path}, found one that cannot be read ({error}):"
            " download it again"
        ) from error


class _Headers:
    """A tar of which the headers are read, and nothing that claims to be one and is large."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _printable(name: str) -> str:
    """A file's name in one line of UTF-8, as records and reports need it; the rest is spelt out."""
    text = name.encode(errors="backslashreplace").decode()
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda c: c[0].encode("unicode_escape").decode(), text
    )


def _validation_number(item: Item, count: int) -> int:
    stem = item.name.removesuffix(".JPEG")
    digits = stem.removeprefix("ILSVRC2012_val_")
    named = stem != item.name and digits != stem and digits.isdecimal()
    number = int(digits) if named else 0
    if not 1 <= number <= count:
        raise UserError(
            f"expected images called ILSVRC2012_val_00000001.JPEG and so on to {count:08d} in"
            f" {item.path}, found {item.name!r}: use the official validation tar"
        )
    return number - 1


def list_folder(source: Path, *, name: str) -> Listing:
    """The tree `source`/train/CLASS/…, `source`/val/CLASS/… (or valid, validation, test).

    The classes are the folders of `train`, sorted. Images may lie deeper within them; names that
    start with a dot are passed over, every other file in a class folder is taken for an image.
    Beside class folders there may be notes, and no images.

    Raises:
      UserError: no such tree, one split under two names, no images or none for a class to train on,
        images that are in no class folder, or a class in another split that training lacks.
    """
    found = tree.split_folders(source)
    if found["train"] is None or (found["validation"] is None and found["test"] is None):
        inside = sorted(p.name for p in source.iterdir())[:5] if source.is_dir() else None
        what = "no such folder" if inside is None else ", ".join(inside) or "nothing"
        raise UserError(
            f"expected the folders train and val (or valid, validation, test) in {source}, found"
            f" {what}: give the folder that holds them as the source"
        )
    tree.check([folder for folder in found.values() if folder is not None])
    class_names = tuple(tree.class_folders(found["train"]))
    if len(class_names) < 2:
        raise UserError(
            f"expected at least 2 class folders in {found['train']}, found {len(class_names)}:"
            " put the images of each class in a folder of its own"
        )
    splits = {
        split: list(_folder_items(folder, class_names))
        for split, folder in found.items()
        if folder is not None
    }
    _check_some(splits, source)
    # A download that ended early leaves such a folder, and some folders are no class at all.
    empty = set(range(len(class_names))) - {item.label for item in splits["train"]}
    if empty:
        raise UserError(
            f"expected an image or more of each class in {found['train']}, found none in"
            f" {class_names[min(empty)]!r}: put some there, or take the folder away"
        )
    return Listing(name, "1.0.0", class_names, splits, keep_png=True, upright=True)


def _folder_items(folder: Path, class_names: tuple[str, ...]) -> Iterator[Item]:
    labels = {name: label for label, name in enumerate(class_names)}
    present = tree.class_folders(folder)
    extra = set(present) - set(labels)
    if extra:
        raise UserError(
            f"expected the classes of training in {folder}, found {min(extra)!r} beside them:"
            " give train a folder of that name or take it away"
        )
    for class_name in present:
        for path in tree.below(folder / class_name):
            relative = path.relative_to(folder)
            if path.is_file():
                name = _printable(relative.as_posix())
                yield Item(name, labels[class_name], path, 0, path.stat().st_size)
            else:
                raise UserError(
                    f"expected files and folders in {folder / class_name}, found"
                    f" {_printable(str(relative))!r}, a link to a folder or to nothing, or no file:"
                    " remove it, or put there what it stands for"
                )


def _check_some(splits: dict[str, list[Item]], source: Path) -> None:
    for split, items in splits.items():
        if not items:
            raise UserError(
                f"expected at least one image for {split} in {source}, found none: give another"
            )
