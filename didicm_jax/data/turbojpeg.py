"""TurboJPEG 3, where the machine has it: decodes the rows and columns of a crop, not the photo.

No package on PyPI both is well kept and offers this call, so it is bound here to the shared library
of the system (`libturbojpeg` 3.0 or later: Ubuntu from 26.04, Fedora, conda-forge, Homebrew), or to
the copy in the PyPI package `turbojpeg`. Constants and prototypes: `turbojpeg.h` of that release.
"""

import ctypes
import threading
from importlib import metadata
from typing import Any

import numpy as np

_DECOMPRESS = 1
_PIXELS_RGB = 0
# Parameters of tj3Set and tj3Get.
_STOP_ON_WARNING, _SUBSAMPLING, _WIDTH, _HEIGHT, _COLORSPACE = 0, 4, 5, 6, 8
_COLORSPACES = (0, 1, 2)  # RGB, YCbCr, grey. The others are CMYK and YCCK.
# Width of a block of the file, in pixels: 4:4:4, 4:2:2, 4:2:0, grey, 4:4:0, 4:1:1, 4:4:1.
_BLOCK_WIDTHS = (8, 16, 16, 8, 8, 32, 8)
_NAMES = ("libturbojpeg.so.0", "libturbojpeg.0.dylib", "turbojpeg.dll")


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


class _Factor(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("num", "denom")]


_WHOLE = _Region(0, 0, 0, 0)
_SOURCE = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "tj3Init": (ctypes.c_void_p, (ctypes.c_int,)),
    "tj3Destroy": (None, (ctypes.c_void_p,)),
    "tj3Set": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int, ctypes.c_int)),
    "tj3Get": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "tj3GetErrorStr": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "tj3DecompressHeader": (ctypes.c_int, _SOURCE),
    "tj3SetScalingFactor": (ctypes.c_int, (ctypes.c_void_p, _Factor)),
    "tj3SetCroppingRegion": (ctypes.c_int, (ctypes.c_void_p, _Region)),
    "tj3Decompress8": (
        ctypes.c_int,
        (*_SOURCE, ctypes.c_void_p, ctypes.c_int, ctypes.c_int),
    ),
}


def find_library() -> ctypes.CDLL | None:
    """The TurboJPEG library, if one of release 3 or later is there."""
    for path in (*_NAMES, *_wheel_copies()):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if hasattr(library, "tj3SetCroppingRegion"):  # Release 2 has the same file name.
            for name, (result, arguments) in _PROTOTYPES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
            return library
    return None


def _wheel_copies() -> list[str]:
    try:
        files = metadata.files("turbojpeg") or []
    except metadata.PackageNotFoundError:
        return []
    return [str(f.locate()) for f in files if f.name.startswith("libturbojpeg")]


class Decoder:
    """One decompressor for each thread that uses it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Takes the library that `find_library` gives."""
        self._library = library
        self._local = threading.local()

    def read_size(self, data: bytes) -> tuple[int, int]:
        """Width and height of the JPEG `data`, which the next `decode` of this thread is about.

        Raises:
          ValueError: damaged, or colours that are not RGB, YCbCr or grey.
        """
        library, handle = self._library, self._handle()
        self._check(library.tj3DecompressHeader(handle, data, len(data)))
        if library.tj3Get(handle, _COLORSPACE) not in _COLORSPACES:
            raise ValueError("colours that are not RGB, YCbCr or grey")
        return library.tj3Get(handle, _WIDTH), library.tj3Get(handle, _HEIGHT)

    def decode(
        self, data: bytes, left: int, top: int, right: int, bottom: int, reduction: int
    ) -> np.ndarray:
        """Pixels u8[bottom-top,right-left,3] of `data` at 1/`reduction` of its size.

        Args:
          data: what `read_size` was called with.
          left: edges of the part, in pixels of the reduced image, within it.
          top: see left.
          right: see left.
          bottom: see left.
          reduction: 1, 2, 4 or 8.

        Raises:
          ValueError: damaged before the last row of the part.
        """
        library, handle = self._library, self._handle()
        subsampling = library.tj3Get(handle, _SUBSAMPLING)
        if subsampling not in range(len(_BLOCK_WIDTHS)):
            raise ValueError("an unknown chroma subsampling")
        # The library starts at whole blocks. Where it smooths chroma at the edge of a region, it
        # takes what an earlier image left in its buffers for the columns beyond: one block more on
        # each side makes the part what decoding the whole image gives, to the bit.
        block = max(1, _BLOCK_WIDTHS[subsampling] // reduction)
        start = max(0, (left // block - 1) * block)
        end = min(-(-library.tj3Get(handle, _WIDTH) // reduction), (right // block + 2) * block)
        pixels = np.empty((bottom - top, end - start, 3), np.uint8)
        region = _Region(start, top, end - start, bottom - top)
        try:
            self._check(library.tj3SetScalingFactor(handle, _Factor(1, reduction)))
            self._check(library.tj3SetCroppingRegion(handle, region))
            self._check(
                library.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, 0, _PIXELS_RGB)
            )
        finally:
            library.tj3SetCroppingRegion(handle, _WHOLE)  # It would outlive this image.
        return pixels[:, left - start : right - start]

    def _handle(self) -> int:
        if not hasattr(self._local, "owner"):
            self._local.owner = _Handle(self._library)
        return self._local.owner.handle

    def _check(self, code: int) -> None:
        if code:
            raise ValueError(self._library.tj3GetErrorStr(self._handle()).decode(errors="replace"))


class _Handle:
    """Frees the decompressor when its thread ends."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._destroy = library.tj3Destroy
        self.handle = library.tj3Init(_DECOMPRESS)
        # A truncated file is then an error here, as it is with the other decoders.
        library.tj3Set(self.handle, _STOP_ON_WARNING, 1)

    def __del__(self) -> None:
        self._destroy(self.handle)
