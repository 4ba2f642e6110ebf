"""Images of a data set as parts of a page."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

# Up to this side an image is kept pixel by pixel; a photo is shrunk to `_SIDE` and compressed, so
# that a page of some dozens stays below a few megabytes.
_SMALL = 64
_SIDE = 192


class Picture(NamedTuple):
    """A small image on a page."""

    uri: str  # a `data:` URI
    small: bool  # of so few pixels that each is to be seen


def picture(image: np.ndarray) -> Picture:
    """An image u8[H, W, C], to be part of a page: its first three channels, or its first one."""
    shown = Image.fromarray(image[..., :3] if image.shape[-1] >= 3 else image[..., 0])
    small = max(shown.size) <= _SMALL
    content = io.BytesIO()
    if small:
        shown.save(content, "PNG")
    else:
        shown.thumbnail((_SIDE, _SIDE))
        shown.save(content, "JPEG", quality=85)
    return Picture(data_uri(content.getvalue(), "png" if small else "jpeg"), small)


def data_uri(content: bytes, kind: str) -> str:
    """The bytes of an image file of some kind, as an address that needs no network."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
