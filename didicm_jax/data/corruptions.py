"""The corruptions of ImageNet-C at five severities, made as they are asked for, of any source.

Hendrycks and Dietterich 2019, arXiv 1903.12261, through the package `imagecorruptions-imaug`. It
takes images of 32 pixels or more and has its constants for 224. What smaller images get is our
choice (CIFAR-10-C has constants of its own): what acts on the grid of pixels (noise, brightness,
contrast, pixelate, JPEG) acts on theirs; what has an extent (blurs, weather, elastic) acts on the
image enlarged to 224 and is shrunk back, so that it is as large within the image as in ImageNet-C.

Shapes: HxW pixels of C channels, B images.
"""

import difflib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from typing import Any

import cv2
import numpy as np

from didicm_jax.data.decode import resize
from didicm_jax.data.options import cores
from didicm_jax.data.source import Batch, Part, Source
from didicm_jax.errors import UserError

# In the order of the paper: noise, blur, weather, digital.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
SEVERITIES = (1, 2, 3, 4, 5)

_ON_THE_GRID = (*CORRUPTIONS[:3], "brightness", "contrast", "pixelate", "jpeg_compression")
# These have a generator of their own; the others draw from NumPy's global one.
_TAKE_A_SEED = ("glass_blur", "impulse_noise")
_SMALLEST, _SCALE = 32, 224
_LOCK = threading.Lock()
_GRACE = 30  # seconds that a process goes on behind a SIGTERM


def check(name: str, severity: int = 1) -> None:
    """Refuses what is no corruption, and a machine that cannot make them.

    Raises:
      UserError: for either.
    """
    if name not in CORRUPTIONS:
        close = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(CORRUPTIONS)}"
        raise UserError(f"expected names of corruptions, found {name!r}; {hint}")
    if severity not in SEVERITIES:
        raise UserError(f"expected severities from 1 to 5, found {severity}; change it")
    _library()


def corrupted(
    source: Source, name: str, severity: int, *, seed: int = 0, workers: int = 0, keep: bool = False
) -> "Corrupted":
    """The same examples with corrupted images.

    Args:
      source: of images u8[B,H,W,C] of 1 or 3 channels.
      name: one of `CORRUPTIONS`.
      severity: 1 to 5.
      seed: of what is drawn; what an example gets is a function of it, the example's place in the
        source, the corruption and the severity.
      workers: processes; 0 for one per core, 1 for none but this.
      keep: hold what was asked for in memory, for a source whose same batches are read again.

    Raises:
      UserError: no such corruption, or the package that makes it is not installed.
    """
    check(name, severity)
    return Corrupted(source, name, severity, seed=seed, workers=workers or cores(), keep=keep)


class Corrupted(Part):
    """All examples of a source, shown corrupted; made by `corrupted`."""

    def __init__(
        self, source: Source, name: str, severity: int, *, seed: int, workers: int, keep: bool
    ) -> None:
        super().__init__(source, np.arange(len(source)))
        self._what = (name, severity, seed)
        self._workers = workers
        self._keep = keep
        self._held: dict[bytes, np.ndarray] = {}  # images, by the indices that they were asked by

    def batch(self, indices: np.ndarray, draws: np.ndarray | None = None) -> Batch:
        """The examples at `indices` i64[B]: `image` u8[B,H,W,C], corrupted, and `label` i32[B]."""
        batch = super().batch(indices, draws)
        request = np.asarray(indices).tobytes()
        if request in self._held:
            return batch | {"image": self._held[request]}
        # The padding of a last batch repeats an example.
        different, rows, back = np.unique(indices, return_index=True, return_inverse=True)
        images = self._corrupt(batch["image"][rows], different)[back]
        if self._keep:
            self._held[request] = images
        return batch | {"image": images}

    def with_labels(self, labels: np.ndarray) -> "Corrupted":
        """The same corrupted images under other labels, integers [N]."""
        name, severity, seed = self._what
        return Corrupted(
            self._source.with_labels(labels),
            name,
            severity,
            seed=seed,
            workers=self._workers,
            keep=self._keep,
        )

    def _corrupt(self, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if self._workers == 1:
            return _corrupt_all(images, indices.tolist(), self._what)
        parts = np.array_split(np.arange(len(images)), min(len(images), 2 * self._workers))
        results = _pool(self._workers).map(
            _corrupt_all,
            [images[part] for part in parts],
            [indices[part].tolist() for part in parts],
            [self._what] * len(parts),
        )
        return np.concatenate(list(results))


def corrupt(image: np.ndarray, name: str, severity: int, *, seed: Iterable[int]) -> np.ndarray:
    """One image u8[H,W,C], corrupted; `seed` are the numbers that its draws are a function of."""
    height, width, channels = image.shape
    shorter = min(height, width)
    color = np.repeat(image, 3, axis=-1) if channels == 1 else image
    if name in _ON_THE_GRID:
        # Repeated, a small image keeps its mean, which `contrast` turns on.
        times = -(-_SMALLEST // shorter)
        result = _apply(np.tile(color, (times, times, 1)), name, severity, seed)[:height, :width]
    elif shorter < _SCALE:
        size = (-(-_SCALE * width // shorter), -(-_SCALE * height // shorter))
        # Nearest, so that shrinking gives back what was not changed.
        large = cv2.resize(color, size, interpolation=cv2.INTER_NEAREST)
        result = np.empty_like(color)
        resize(_apply(large, name, severity, seed), result)
    else:
        result = _apply(color, name, severity, seed)
    if channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(result), cv2.COLOR_RGB2GRAY)[..., None]
    return result


def _corrupt_all(images: np.ndarray, indices: list[int], what: tuple[str, int, int]) -> np.ndarray:
    name, severity, seed = what
    place = CORRUPTIONS.index(name)
    return np.stack(
        [
            corrupt(image, name, severity, seed=(seed, place, severity, index))
            for image, index in zip(images, indices, strict=True)
        ]
    )


def _apply(image: np.ndarray, name: str, severity: int, seed: Iterable[int]) -> np.ndarray:
    number = int(np.random.SeedSequence(tuple(seed)).generate_state(1)[0] >> 1)
    given = {"seed": number} if name in _TAKE_A_SEED else {}
    # The package draws from the state that all of NumPy shares: one at a time, and put back.
    with _LOCK:
        before = np.random.get_state()
        np.random.seed(number)
        try:
            return _library().corrupt(
                np.ascontiguousarray(image), severity=severity, corruption_name=name, **given
            )
        finally:
            np.random.set_state(before)


def _library() -> Any:
    try:
        import imagecorruptions
    except ImportError as error:
        raise UserError(
            "expected the package imagecorruptions-imaug, which makes corruptions, found "
            f"{' '.join(str(error).split())}; install it with pip install -e '.[corruptions]'"
        ) from error
    return imagecorruptions


@functools.cache
def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes, each with a random state of its own; they end with this one."""
    # Not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    # A Ctrl-C reaches all processes, as does the SIGTERM of a scheduler, and is the affair of the
    # one that started them: a training that it stops saves first, and may still evaluate.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not ignored: by it the pool ends those that are left, and waits for them, when one has died.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it has ended without a word, such as killed.

    It would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(0)
