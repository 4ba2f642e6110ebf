"""Sources in their official shapes, made of scikit-learn's two photos and generated images."""

import errno
import functools
import io
import os
import tarfile

import numpy as np
from PIL import Image


def encode(pixels, file_format="JPEG", mode=None, **options):
    """The bytes of an image file."""
    image = Image.fromarray(pixels)
    image = image.convert(mode) if mode else image
    buffer = io.BytesIO()
    if file_format == "JPEG":
        options = {"quality": 90, **options}
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def small(pixels, width=150, height=100):
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


def odd_images(pixels):
    """One of each kind that has to be repaired, by file name."""
    return {
        "cmyk.JPEG": encode(pixels, mode="CMYK"),
        "png_in_disguise.JPEG": encode(pixels, "PNG"),
        "grey.JPEG": encode(pixels, mode="L"),
        "alpha.png": encode(pixels, "PNG", mode="RGBA"),
        "palette.png": encode(pixels, "PNG", mode="P"),
    }


def make_tar(path, files):
    """A tar of {name: bytes}, as GNU tar writes it."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


# Classes 0, 1 and 999 of the official order; n15075141 comes first in the tar all the same.
WNIDS = {"n15075141": 999, "n01440764": 0, "n01443537": 1}


def make_imagenet(folder, photos, *, broken=False):
    """The two official tars with 3 classes of 8 training images and 10 validation images."""
    folder.mkdir(parents=True, exist_ok=True)
    views = [small(photos[n % 2][10 * n :, 20 * n :]) for n in range(8)]
    outer = {}
    for wnid in WNIDS:
        files = {f"{wnid}_{n}.JPEG": encode(view) for n, view in enumerate(views)}
        if wnid == "n01440764":
            files[f"{wnid}_0.JPEG"] = encode(views[0], mode="CMYK")
            files[f"{wnid}_1.JPEG"] = encode(views[1], "PNG")
            files[f"{wnid}_2.JPEG"] = encode(views[2], mode="L")
        if wnid == "n15075141" and broken:
            files[f"{wnid}_5.JPEG"] = files[f"{wnid}_5.JPEG"][:900]
        make_tar(folder / "inner.tar", files)
        outer[f"{wnid}.tar"] = (folder / "inner.tar").read_bytes()
    (folder / "inner.tar").unlink()
    make_tar(folder / "ILSVRC2012_img_train.tar", outer)
    validation = {
        f"ILSVRC2012_val_{n:08d}.JPEG": encode(views[n % 8]) for n in (3, 1, 2, *range(4, 11))
    }
    make_tar(folder / "ILSVRC2012_img_val.tar", validation)
    return folder


def make_tree(folder, photos, *, broken=False):
    """Class folders `crane` (odd images among them) and `boat`, for train and val."""
    for split, count in (("train", 12), ("val", 5)):
        for label, name in enumerate(("crane", "boat")):
            (folder / split / name).mkdir(parents=True)
            for n in range(count):
                view = small(photos[label][10 * n :, 20 * n :])
                (folder / split / name / f"{n:02d}.jpg").write_bytes(encode(view))
    for name, content in odd_images(small(photos[0])).items():
        (folder / "train" / "crane" / name).write_bytes(content)
    (folder / "train" / ".DS_Store").write_bytes(b"no class")
    (folder / "train" / "boat" / ".hidden").write_bytes(b"no image")
    if broken:
        whole = (folder / "train" / "boat" / "00.jpg").read_bytes()
        (folder / "train" / "boat" / "03.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def close(folder, monkeypatch):
    """Makes a folder one that may not be read, also to root, which a test may be."""
    lists = {name: getattr(os, name) for name in ("listdir", "scandir")}

    def read(name, path):
        if os.fspath(path) == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return lists[name](path)

    for name in lists:
        monkeypatch.setattr(os, name, functools.partial(read, name))
