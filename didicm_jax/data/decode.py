"""From an encoded image to the pixels of one crop of it: the hot path of training on photos.

A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that still covers the crop (the
discrete cosine transform gives these almost for free), by the first of TurboJPEG 3 (only the crop),
simplejpeg, Pillow that can. Everything else goes through Pillow. All of it releases the GIL.

Orientation tags are not applied, as in tfds, torchvision and timm: `prepare` applies them to what
it stores.
"""

import io
import math
from collections.abc import Callable

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from didicm_jax.data import turbojpeg
from didicm_jax.data.crops import Box
from didicm_jax.data.options import MAX_PIXELS

try:
    import simplejpeg
except ImportError:  # No wheel for this machine: Pillow does it, at half the speed.
    simplejpeg = None

ChooseBox = Callable[[int, int], Box]
"""Gives the part to show from an image's width and height; it may be called more than once."""

_REDUCTIONS = (8, 4, 2)
_JPEG_MAGIC = b"\xff\xd8\xff"
_LIMIT, _REMEDY = "config.data.max_pixels", "shrink the image or raise that"

# The images of a batch are spread over threads already.
cv2.setNumThreads(0)


class BrokenImage(ValueError):
    """Bytes that no decoder makes an image of."""

    @classmethod
    def caused_by(cls, error: Exception) -> "BrokenImage":
        """What `error` says, in one line."""
        if isinstance(error, cls):
            return error
        if isinstance(error, UnidentifiedImageError):  # It names an address in memory.
            return cls("no image of a known format")
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            return cls(f"more pixels than {_LIMIT} allows: {_REMEDY}")
        return cls(f"{type(error).__name__}: {error}".splitlines()[0])


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuses an image by its header, before its pixels take any memory.

    Raises:
      BrokenImage: more than `max_pixels` pixels.
    """
    if width * height > max_pixels:
        raise BrokenImage(
            f"{width}x{height} pixels, more than {_LIMIT}={max_pixels} allows: {_REMEDY}"
        )


def check_bytes(count: int, max_pixels: int) -> None:
    """Refuses a file by its length, before it is read.

    Raises:
      BrokenImage: more bytes than an image of `max_pixels` pixels can need.
    """
    # Uncompressed, 16 bits and four channels are 8 bytes a pixel; and what stands beside them.
    if count > 8 * max_pixels + (64 << 20):
        raise BrokenImage(
            f"{count:,} bytes, more than {_LIMIT}={max_pixels} pixels can need: {_REMEDY}"
        )


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """The image of the file `data`, of which nothing but the header is read.

    Raises:
      BrokenImage: more than `max_pixels` pixels, or values of a range that nobody knows.
      Exception: no image; what it is depends on the format.
    """
    # Pillow refuses by a limit that all of a process shares, and has no other. Who asks for larger
    # images raises it; it is never lowered.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    image = Image.open(io.BytesIO(data))
    check_pixels(*image.size, max_pixels)
    check_range(image)
    return image


def check_range(image: Image.Image) -> None:
    """Refuses pixels of which nobody knows what is white: floating-point and 32-bit ones.

    Raises:
      BrokenImage: they are such.
    """
    # Pillow opens PGM files of 16 bits as 32-bit integers, which it has scaled to 65535.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise BrokenImage(f"{kind} pixels, of which nobody knows what is white")


def is_turned(data: bytes, max_pixels: int) -> bool:
    """Whether the orientation tag of the file `data` asks to turn it; False where it is broken."""
    try:
        with open_image(data, max_pixels) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # Broken, and found out when it is decoded.
        return False


def decode_crop(
    data: bytes, choose_box: ChooseBox, out: np.ndarray, *, max_pixels: int = MAX_PIXELS
) -> None:
    """Decodes the part of the image `data` that `choose_box` gives and resizes it into `out`.

    Grey, alpha, palette, 16-bit and CMYK images become RGB; alpha is dropped.

    Args:
      data: the file, of any format that Pillow reads.
      choose_box: called with the width and height of the image.
      out: u8[R,R,3], C order; written.
      max_pixels: larger images are not decoded.

    Raises:
      BrokenImage: a file that is truncated or damaged, no image, or one of more than `max_pixels`.
    """

    def choose(width: int, height: int) -> Box:
        # Every decoder asks when it has read the header, and nothing else.
        check_pixels(width, height, max_pixels)
        return choose_box(width, height)

    if is_jpeg(data):
        for decode in JPEG_DECODERS.values():
            try:
                resize(decode(data, choose, out.shape[0]), out)
                return
            except BrokenImage:  # Too large for any of them.
                raise
            except ValueError:
                # CMYK, a harmless warning, or broken: Pillow tells these apart.
                continue
    try:
        crop = with_pillow(data, choose, out.shape[0], max_pixels=max_pixels)
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into.
        raise BrokenImage.caused_by(error) from error
    resize(crop, out)


def is_jpeg(data: bytes) -> bool:
    """Whether `data` starts as a JPEG does, whatever its file is called."""
    return data.startswith(_JPEG_MAGIC)


def check_jpeg(data: bytes, max_pixels: int) -> None:
    """Reads the whole of the JPEG `data`, at the cheapest scale.

    Raises:
      BrokenImage: more than `max_pixels` pixels.
      ValueError: it is damaged or truncated, has colours other than RGB, YCbCr and grey, or reads
        with a warning; Pillow may still understand it.
    """

    def whole(width: int, height: int) -> Box:
        check_pixels(width, height, max_pixels)
        return Box(0, 0, width, height)

    if simplejpeg is None:
        raise ValueError("no simplejpeg on this machine")
    with_simplejpeg(data, whole, 1)


def resize(image: np.ndarray, out: np.ndarray) -> None:
    """Antialiased bilinear resize of `image` u8[H,W,C] into `out` u8[h,w,C], C 1 or 3.

    Bilinear interpolation alone aliases when it shrinks, and an exact antialiased resize costs more
    than decoding. Shrinking by f up to 2, the usual case after a reduced decode, is therefore a
    blur with weights (a, 1 - 2a, a), a = (f² - 1)/12, and then bilinear interpolation: the variance
    2a of the blur and 1/6 of the interpolation add up to the f²/6 of the antialiased bilinear
    filter (Pillow, timm). Beyond 2 it is the mean over the area of each output pixel.
    """
    height, width = image.shape[:2]
    size = (out.shape[1], out.shape[0])
    if image.shape[2] == 1:
        image, out = image[..., 0], out[..., 0]
    down_y, down_x = height / size[1], width / size[0]
    if max(down_x, down_y) > 2:
        # A side that grows waits: with one OpenCV would interpolate where it is to average.
        smaller = (min(width, size[0]), min(height, size[1]))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    elif max(down_x, down_y) > 1:
        image = cv2.sepFilter2D(
            image, -1, _blur(down_x), _blur(down_y), borderType=cv2.BORDER_REPLICATE
        )
    result = cv2.resize(image, size, dst=out, interpolation=cv2.INTER_LINEAR)
    if not np.may_share_memory(
        result, out
    ):  # OpenCV writes in place only where the memory layout suits it.
        np.copyto(out, result)


def resize_all(images: np.ndarray, resolution: int) -> np.ndarray:
    """`images` u8[N,H,W,C] resized to u8[N,R,R,C], R = `resolution`, each as by `resize`."""
    out = np.empty((len(images), resolution, resolution, images.shape[-1]), np.uint8)
    for image, small in zip(images, out, strict=True):
        resize(image, small)
    return out


def _blur(factor: float) -> np.ndarray:
    side = max(0.0, (factor**2 - 1) / 12)
    return np.array([side, 1 - 2 * side, side], np.float32)


def to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a loaded image, one that `check_range` has passed, as u8[H,W,3]."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255.
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def reduction_of(box: Box, resolution: int) -> int:
    """The largest of 8, 4, 2, 1 by which `box` can be reduced and still cover the output."""
    for reduction in _REDUCTIONS:
        if min(box.width, box.height) >= reduction * resolution:
            return reduction
    return 1


def _edges(box: Box, scale_x: float, scale_y: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of `box` in the reduced image, at least one pixel apart."""
    left, top = math.floor(box.left * scale_x + 0.5), math.floor(box.top * scale_y + 0.5)
    right = math.floor((box.left + box.width) * scale_x + 0.5)
    bottom = math.floor((box.top + box.height) * scale_y + 0.5)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def with_simplejpeg(data: bytes, choose_box: ChooseBox, resolution: int) -> np.ndarray:
    """The crop u8[h,w,3], at a scale that covers `resolution`; raises ValueError."""
    height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    if colors not in ("YCbCr", "RGB", "Gray"):
        raise ValueError(f"colours that are {colors}")
    box = choose_box(width, height)
    reduction = reduction_of(box, resolution)
    image = simplejpeg.decode_jpeg(
        data, min_height=-(-height // reduction), min_width=-(-width // reduction)
    )
    left, top, right, bottom = _edges(box, 1 / reduction, 1 / reduction)
    return image[top:bottom, left:right]


def with_turbojpeg(
    decoder: turbojpeg.Decoder, data: bytes, choose_box: ChooseBox, resolution: int
) -> np.ndarray:
    """As `with_simplejpeg`, decoding only the crop."""
    box = choose_box(*decoder.read_size(data))
    reduction = reduction_of(box, resolution)
    left, top, right, bottom = _edges(box, 1 / reduction, 1 / reduction)
    return decoder.decode(data, left, top, right, bottom, reduction)


def with_pillow(
    data: bytes, choose_box: ChooseBox, resolution: int, *, max_pixels: int
) -> np.ndarray:
    """As `with_simplejpeg`, for any format; what it raises depends on the format."""
    with open_image(data, max_pixels) as image:
        width, height = image.size
        box = choose_box(width, height)
        reduction = reduction_of(box, resolution)
        # JPEG alone heeds this. It reduces by what the whole-numbered quotient of the sizes allows.
        image.draft(None, (max(1, width // reduction), max(1, height // reduction)))
        image.load()
        pixels = to_rgb(image)
    left, top, right, bottom = _edges(box, pixels.shape[1] / width, pixels.shape[0] / height)
    return pixels[top:bottom, left:right]


def _jpeg_decoders() -> dict[str, Callable[[bytes, ChooseBox, int], np.ndarray]]:
    found: dict[str, Callable[[bytes, ChooseBox, int], np.ndarray]] = {}
    library = turbojpeg.find_library()
    if library is not None:
        decoder = turbojpeg.Decoder(library)
        found["turbojpeg3"] = lambda data, choose, size: with_turbojpeg(decoder, data, choose, size)
    if simplejpeg is not None:
        found["simplejpeg"] = with_simplejpeg
    return found


JPEG_DECODERS = _jpeg_decoders()
"""What this machine decodes JPEG with before Pillow, in order of preference."""
