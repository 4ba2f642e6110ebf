"""`idx`: MNIST-family folders, four IDX files, gzipped or not.

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a type code, the number of
dimensions D, D big-endian u32 sizes, then the values in C order and nothing after them.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from didicm_jax.data.memory import ArraySource
from didicm_jax.data.source import Dataset
from didicm_jax.errors import UserError

FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_DIR = Path("/usr/share/datasets/fashion-mnist")
# SHA-256 of its 60,000 training labels, a byte each.
_FASHION_MNIST_LABELS = "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_SPLIT_PREFIXES = ("train", "t10k")
_IMAGES_SUFFIX = "images-idx3-ubyte"
_LABELS_SUFFIX = "labels-idx1-ubyte"
_UBYTE = 0x08
# Of values in one file. The largest set of the family, InfiMNIST, has 6.4e9.
_MOST_BYTES = 8 << 30
# Deflate makes at most so many bytes out of one.
_MOST_TIMES = 1032
_TYPES = {_UBYTE: "u8", 0x09: "i8", 0x0B: "i16", 0x0C: "i32", 0x0D: "f32", 0x0E: "f64"}
_KINDS = {1: "labels (1 dimension)", 3: "images (3 dimensions)"}


def load_idx(data_dir: str | None = None) -> Dataset:
    """The MNIST-family set in `data_dir`: `train-…` for training, `t10k-…` for test.

    None is Fashion-MNIST as the Debian package `dataset-fashion-mnist` installs it. The files do
    not say what their classes are called: Fashion-MNIST is known by its training labels, in any
    folder; of others the classes are "0", "1", … up to the largest training label.

    Raises:
      UserError: a folder or file that is missing, damaged or mislabelled, images and labels that
        do not match, or test labels that do not occur in the range of the training labels.
    """
    folder = FASHION_MNIST_DIR if data_dir is None else Path(data_dir).expanduser()
    paths = _find_files(folder, is_default=data_dir is None)
    train, test = (
        _load_split(paths[f"{prefix}-{_IMAGES_SUFFIX}"], paths[f"{prefix}-{_LABELS_SUFFIX}"])
        for prefix in _SPLIT_PREFIXES
    )
    train_shape, test_shape = (
        split.batch(np.arange(1))["image"].shape[1:] for split in (train, test)
    )
    if train_shape != test_shape:
        raise UserError(
            f"expected training and test images of one size in {folder}, found"
            f" {train_shape[:2]} and {test_shape[:2]}: put files of one set there"
        )
    labels = hashlib.sha256(train.labels.astype(np.uint8).tobytes())
    if labels.hexdigest() == _FASHION_MNIST_LABELS:
        names: tuple[str, ...] = FASHION_MNIST_CLASSES
    else:
        names = tuple(str(label) for label in range(int(train.labels.max()) + 1))
    return Dataset(train=train, test=test, class_names=names, image_shape=train_shape)


def read_idx(path: Path, *, ndim: int) -> np.ndarray:
    """Reads the u8 array of rank `ndim` in the IDX file at `path`, gzipped or not.

    Whether it is gzipped is decided by its content, not its name: an IDX file starts with a zero
    byte, a gzip file never does.

    Raises:
      UserError: the file cannot be read, is not IDX, holds another type or rank, or is shorter or
        longer than its header says.
    """
    try:
        with path.open("rb") as file:
            most = os.fstat(file.fileno()).st_size
            if file.peek(2).startswith(b"\x1f\x8b"):
                with gzip.open(file) as unzipped:
                    return _parse(unzipped, path, ndim, _MOST_TIMES * most)
            return _parse(file, path, ndim, most)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _damaged(f"a whole gzip file in {path}", f"a damaged one ({error})") from error
    except OSError as error:
        raise UserError(
            f"expected a readable file at {path}, found {error.strerror or error}:"
            " check config.data.data_dir and its permissions"
        ) from error


def _parse(file: IO[bytes] | gzip.GzipFile, path: Path, ndim: int, most: int) -> np.ndarray:
    """The array in an open file, of which no more is read than its header promises.

    Args:
      file: at its start.
      path: what errors call it.
      ndim: the rank wanted.
      most: bytes that it cannot hold more of, so that memory is only taken for what may be there.
    """
    wanted = f"an IDX file of {_KINDS.get(ndim, f'{ndim} dimensions')} in {path}"
    head = file.read(4)
    if len(head) < 4:
        raise _damaged(wanted, f"only {len(head)} bytes")
    zeros, code, rank = struct.unpack(">HBB", head)
    if zeros != 0 or code not in _TYPES:
        raise _damaged(wanted, f"the first bytes {head.hex(' ')}, which are not IDX")
    if rank != ndim:
        raise UserError(
            f"expected {wanted}, found {_KINDS.get(rank, f'{rank} dimensions')}:"
            " check that the images and labels files have not been swapped"
        )
    if code != _UBYTE:
        raise _damaged(wanted, f"values of type {_TYPES[code]} instead of u8")
    sizes = file.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise _damaged(wanted, f"a header cut off after {4 + len(sizes)} of {4 + 4 * rank} bytes")
    shape = struct.unpack(f">{rank}I", sizes)
    size = math.prod(shape)
    if size > min(most, _MOST_BYTES):
        raise _damaged(
            wanted, f"a header that promises {size:,} bytes of values, a shape of {shape}"
        )
    # One more: what follows is a fault, however much it is. At its end gzip checks its sum.
    values = file.read(size + 1)
    if len(values) != size:
        state = "truncated" if len(values) < size else "followed by other bytes"
        raise _damaged(wanted, f"{len(values):,} bytes of values for a shape of {shape} ({state})")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _damaged(expected: str, found: str) -> UserError:
    return UserError(f"expected {expected}, found {found}: replace it with the original file")


def _find_files(folder: Path, *, is_default: bool) -> dict[str, Path]:
    """Where each of the four files is; the plain one is taken where both forms are there."""
    names = [
        f"{p}-{suffix}" for p in _SPLIT_PREFIXES for suffix in (_IMAGES_SUFFIX, _LABELS_SUFFIX)
    ]
    found = {
        name: path
        for name in names
        for path in (folder / f"{name}.gz", folder / name)
        if path.is_file()
    }
    missing = [name for name in names if name not in found]
    if not missing:
        return found
    what = f"no {', '.join(missing)}" if found else "none of them"
    folders = [name for name in missing if (folder / name).is_dir()]
    if folders:  # as some archives unpack
        what += f", but folders called {', '.join(folders)}"
    if not folder.is_dir():
        what = "no such folder"
    remedy = "set config.data.data_dir to the folder that holds them"
    if is_default:
        remedy = f"install Fashion-MNIST (apt-get install {FASHION_MNIST_PACKAGE}) or {remedy}"
    raise UserError(
        f"expected the files {', '.join(names)} (each plain or .gz) in {folder}, found {what}:"
        f" {remedy}"
    )


def _load_split(images_path: Path, labels_path: Path) -> ArraySource:
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise UserError(
            f"expected as many labels as images, found {len(images):,} images in {images_path} and"
            f" {len(labels):,} labels in {labels_path}: put files of one set there"
        )
    if 0 in images.shape:
        raise _damaged(f"at least one image in {images_path}", f"a shape of {images.shape}")
    return ArraySource(images[..., None], labels)
