"""What of an image file is stored: the file itself where every reader understands it alike."""

import io

from PIL import ExifTags, Image, ImageOps

from didicm_jax.data.decode import (
    BrokenImage,
    check_jpeg,
    is_jpeg,
    is_turned,
    open_image,
    to_rgb,
)

# Where an image has to be encoded anew. Above 95 files grow much and images hardly improve.
_QUALITY = 95


def to_stored(
    data: bytes,
    *,
    keep_png: bool,
    upright: bool,
    shorter_side: int,
    max_pixels: int,
) -> bytes:
    """The bytes to store for the image file `data`: its own, or a JPEG in RGB.

    Kept as they are: JPEGs in colour or grey, and PNGs of that kind if `keep_png`. Everything else
    (CMYK, palettes, alpha, 16 bits, other formats, whatever the file is called) becomes an RGB JPEG
    of quality 95. Either way the whole file has been decoded, so that what is stored is sound.

    Args:
      data: of any format that Pillow reads.
      keep_png: whether PNGs stay.
      upright: whether to turn the image as its orientation tag says, which readers do not heed.
      shorter_side: shrink to so many pixels where the image is larger; 0 keeps its size.
      max_pixels: larger images are not decoded.

    Raises:
      BrokenImage: a file that is truncated or damaged, no image, or one of more than `max_pixels`.
    """
    turned = upright and is_turned(data, max_pixels)
    if is_jpeg(data) and not shorter_side and not turned:
        try:
            check_jpeg(data, max_pixels)
            return data
        except BrokenImage:
            raise
        except ValueError:
            pass  # Pillow tells broken files from CMYK and harmless warnings.
    try:
        return _with_pillow(data, keep_png, turned, shorter_side, max_pixels)
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into.
        raise BrokenImage.caused_by(error) from error


def _with_pillow(
    data: bytes, keep_png: bool, turned: bool, shorter_side: int, max_pixels: int
) -> bytes:
    with open_image(data, max_pixels) as image:
        size = image.size
        shrink = shorter_side / min(size) if shorter_side else 1.0
        if shrink < 1:
            # JPEG alone heeds this: decodes to no less than twice the size that is wanted.
            image.draft(None, tuple(int(2 * shrink * side) + 1 for side in size))  # type: ignore[arg-type]
        image.load()
        # Pillow turns a TIFF as it decodes it, and takes the tag away.
        turned = turned and ExifTags.Base.Orientation in image.getexif()
        kept = is_jpeg(data) or (keep_png and image.format == "PNG")
        plain = image.mode in ("RGB", "L") and "transparency" not in image.info
        if kept and plain and not turned and shrink >= 1:
            return data
        rgb = Image.fromarray(to_rgb(image))
        if shrink < 1:
            wanted = tuple(max(shorter_side, round(side * shrink)) for side in size)
            rgb = rgb.resize(wanted, Image.Resampling.BICUBIC)  # type: ignore[arg-type]
        if turned:
            tag = ExifTags.Base.Orientation
            rgb.getexif()[tag] = image.getexif()[tag]
            rgb = ImageOps.exif_transpose(rgb)
    buffer = io.BytesIO()
    rgb.save(buffer, "JPEG", quality=_QUALITY, exif=b"")
    return buffer.getvalue()
