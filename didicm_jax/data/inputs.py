"""Images as a user has them, arrays and files of any size, to what evaluation shows the network.

Shapes: HxW pixels of C channels, as the network takes them; hxw those of an image given.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from didicm_jax.data.crops import Box, center_box
from didicm_jax.data.decode import (
    BrokenImage,
    check_bytes,
    check_pixels,
    check_range,
    decode_crop,
    is_turned,
    open_image,
    resize,
    to_rgb,
)
from didicm_jax.data.options import MAX_PIXELS
from didicm_jax.errors import UserError

# One image: u8 or float [h, w] or [h, w, c], a file's path or its bytes, or a Pillow image.
Given = Any

_CHANNELS = (1, 3, 4)
_SEEN = (1, 3)  # channels of a network for images as files and screens have them
# Floats that resizing left this far outside [0, 1] are not in another unit.
_OVERSHOOT = 0.1


def listed(images: Any) -> Sequence[Given]:
    """One image or many as a sequence of single ones, none of them looked into.

    Args:
      images: an array [N, h, w, c] or [N, h, w]; a list or iterator of images; one image. An array
        of rank 3 whose last axis is 1, 3 or 4 is one image.

    Raises:
      UserError: something else.
    """
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return [images]
    if isinstance(images, list | tuple):
        return images
    if isinstance(images, Iterator):
        return list(images)
    array = np.asarray(images)
    if array.dtype.kind in "OUS" and array.ndim == 1:
        return array.tolist()
    if array.dtype.kind not in "OUS":
        if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in _CHANNELS):
            return [array]
        if array.ndim in (3, 4) or array.size == 0:
            return array  # type: ignore[return-value]
    raise UserError(
        "expected images as an array [N,H,W,C], [N,H,W] or [H,W,C], a file, or a list of those, "
        f"found {type(images).__name__} of {array.dtype}{list(array.shape)}; give one of them"
    )


def show(
    image: Given, out: np.ndarray, *, eval_crop: float | None, max_pixels: int = MAX_PIXELS
) -> None:
    """Writes what evaluation shows of an image.

    Integers are levels in 0..255, floats in [0, 1]. An array of as many channels as `out` is taken
    as it is; of others the last of two or four channels is alpha and dropped, and grey and colour
    become what `out` has, one or three channels. Files and Pillow images are turned upright as
    their orientation tag says.

    Args:
      image: see `Given`.
      out: u8[H,W,C], C order; written.
      eval_crop: how much of the shorter side the centred square shows that is resized; None
        resizes all of the image, whatever its shape.
      max_pixels: larger images are refused, files by their header.

    Raises:
      ValueError: it is no image, or too large a one, in a few words.
    """
    if isinstance(image, str | os.PathLike):
        image = _read_file(Path(image), max_pixels)
    if isinstance(image, bytes):
        if not is_turned(image, max_pixels):
            _show_file(image, out, eval_crop, max_pixels)
            return
        image = open_image(image, max_pixels)
    pixels = _levels(_pixels(image, max_pixels), out.shape[-1])
    box = _box(pixels.shape[1], pixels.shape[0], out.shape[0], eval_crop)
    crop = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    resize(_with_channels(crop, out.shape[-1]), out)


def _read_file(path: Path, max_pixels: int) -> bytes:
    """The bytes of an image file.

    Raises:
      BrokenImage: it cannot be read, or has more bytes than any image of `max_pixels`.
    """
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise BrokenImage("a device or pipe, which may have no end")
        check_bytes(status.st_size, max_pixels)
        return path.read_bytes()
    except OSError as error:
        raise BrokenImage(error.strerror or str(error)) from error


def _pixels(image: Any, max_pixels: int) -> np.ndarray:
    """What a Pillow image or an array holds, as it is.

    Raises:
      BrokenImage: it is too large, or cannot be loaded.
    """
    try:
        if isinstance(image, Image.Image):
            check_pixels(*image.size, max_pixels)
            check_range(image)
            return to_rgb(ImageOps.exif_transpose(image))
        array = np.asarray(image)
    except Exception as error:  # An image opened from a file is decoded here.
        raise BrokenImage.caused_by(error) from error
    if array.ndim >= 2:
        check_pixels(array.shape[1], array.shape[0], max_pixels)
    return array


def _show_file(data: bytes, out: np.ndarray, eval_crop: float | None, max_pixels: int) -> None:
    def choose_box(width: int, height: int) -> Box:
        return _box(width, height, out.shape[0], eval_crop)

    rgb = out if out.shape[-1] == 3 else np.empty((*out.shape[:2], 3), np.uint8)
    if out.shape[-1] not in _SEEN:
        raise ValueError(_no_colors(out.shape[-1], "an image file"))
    decode_crop(data, choose_box, rgb, max_pixels=max_pixels)
    if rgb is not out:
        np.copyto(out, _with_channels(rgb, out.shape[-1]))


def _box(width: int, height: int, resolution: int, eval_crop: float | None) -> Box:
    if eval_crop is None:
        return Box(0, 0, width, height)
    return center_box(width, height, resolution=resolution, crop=eval_crop)


def _levels(array: np.ndarray, channels: int) -> np.ndarray:
    """An image u8[h,w,c] of these channels; for 1 or 3 of them, of 1 or 3."""
    if array.ndim == 2:
        array = array[..., None]
    usable = (1, 2, 3, 4) if channels in _SEEN else (channels,)
    if array.ndim != 3 or array.shape[-1] not in usable or 0 in array.shape:
        if channels not in _SEEN:
            raise ValueError(_no_colors(channels, list(array.shape)))
        raise ValueError(f"expected [H,W] or [H,W,C] of 1 to 4 channels, found {list(array.shape)}")
    if array.shape[-1] != channels:
        array = array[..., : array.shape[-1] - (array.shape[-1] + 1) % 2]
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "uif" and array.dtype.name != "bfloat16":
        raise ValueError(f"expected integers in 0..255 or floats in [0, 1], found {array.dtype}")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        # Also false for NaN.
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):
            raise ValueError(f"expected floats in [0, 1], found {low:g} to {high:g}")
        return np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8)
    if array.dtype.kind in "ui" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        f"expected integers in 0..255 or floats in [0, 1], found {array.dtype} {low} to {high}"
    )


def _no_colors(channels: int, found: Any) -> str:
    return (
        f"expected an array [H,W,{channels}] of the channels that the network takes, found {found}"
    )


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """The same image in colour or in grey (ITU-R 601, as Pillow)."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., None]
    return np.repeat(pixels, channels, axis=-1)
