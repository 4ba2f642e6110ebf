"""Predictions of a trained run: images of any size in, classes and posteriors out.

Shapes: `N` images, `K` classes, `S` steps of the sampler.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from didicm_jax.data import inputs
from didicm_jax.data.options import cores
from didicm_jax.errors import UserError
from didicm_jax.inference import network, program, sweep
from didicm_jax.inference.buckets import BUCKETS, Part, batches
from didicm_jax.inference.sampling import Posterior
from didicm_jax.parallel import make_mesh, one_device, replicated, round_up
from didicm_jax.run import RunFolder, bundle


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a `Predictor` says of N images, in their order."""

    classes: tuple[str, ...]
    """The name of the most probable class of each."""
    labels: np.ndarray
    """i32[N], its number; the lowest where several classes are equally probable."""
    probs: np.ndarray
    """f32[N, K], the posterior."""
    trajectory: np.ndarray | None
    """f32[N, S + 1, K], the probabilities from the uniform start to the posterior; None for a
    classifier and for samplers that diffuse no probabilities (`cl`, `one_shot`)."""
    steps_used: np.ndarray | None
    """i32[N], the steps after which each was decided, S without `sampler.tolerance`; None where
    there is no trajectory to have."""


class Predictor:
    """Posteriors of one network for images as they come.

    Compiles one program for each of a few batch sizes, when it is first needed, and none after: a
    call is cut and padded to these. Its results are those of `--mode=evaluate` on the same images.
    It can be pickled, for pools of processes; what is made of that is on the first device there.
    """

    def __init__(
        self,
        run: network.Network,
        *,
        buckets: Sequence[int] = BUCKETS,
        trajectory: bool = True,
        mesh: Mesh | None = None,
    ) -> None:
        """Takes a trained network.

        Args:
          run: from `network.load`.
          buckets: the batch sizes to compile for.
          trajectory: also return the way to each posterior, S + 1 times as many numbers.
          mesh: the devices to use, from `parallel.make_mesh`; None for the first alone.

        Raises:
          UserError: a bucket is no batch size.
        """
        if not buckets or any(type(size) is not int or size < 1 for size in buckets):
            raise UserError(
                f"buckets: expected batch sizes of 1 or more, found {buckets!r}; give some, such "
                f"as {BUCKETS}"
            )
        mesh = one_device() if mesh is None else mesh
        self._run = run._replace(variables=jax.device_put(run.variables, replicated(mesh)))
        self._buckets = sorted({round_up(size, mesh.size) for size in buckets})
        self._trajectory = trajectory
        self._program = program.create(
            run.config, run.graphdef, run.description.num_classes, mesh, trajectory=trajectory
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and other processes: there it uses the first device alone."""
        run = self._run._replace(variables=jax.device_get(self._run.variables))
        return partial(type(self), buckets=self._buckets, trajectory=self._trajectory), (run,)

    @classmethod
    def from_workdir(
        cls,
        path: str | os.PathLike,
        *,
        checkpoint: str = "latest",
        sampler: Mapping[str, Any] | None = None,
        buckets: Sequence[int] = BUCKETS,
        trajectory: bool = True,
        devices: Sequence[jax.Device] | None = None,
    ) -> "Predictor":
        """The network of a run, with the averaged weights where it keeps them.

        The workdir is only read, and its data set is not needed.

        Args:
          path: the workdir.
          checkpoint: `latest`, or `best`, by `config.evaluation.best`.
          sampler: settings of `config.sampler` to change, such as `{"steps": 2}`.
          buckets: the batch sizes to compile for; the largest says how much memory a call takes.
          trajectory: also return the way to each posterior, S + 1 times as many numbers.
          devices: of this process, to share each batch out over; None for the first alone.

        Raises:
          UserError: there is no run or no such checkpoint, it is damaged, or a setting is wrong.
        """
        mesh = _mesh(devices)
        run = network.load(_sampled(RunFolder.open(path), sampler), checkpoint, mesh)
        return cls(run, buckets=buckets, trajectory=trajectory, mesh=mesh)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        sampler: Mapping[str, Any] | None = None,
        buckets: Sequence[int] = BUCKETS,
        trajectory: bool = True,
        devices: Sequence[jax.Device] | None = None,
    ) -> "Predictor":
        """A network that was given away: one of this package, a folder, one of the Hub.

        Args:
          source: as for `run.bundle.find`: one of `run.bundle.names()`, a folder of
            `model.safetensors` and `config.json`, or `hf://user/name`.
          sampler: as for `from_workdir`, as all that follow.
          buckets: the batch sizes to compile for.
          trajectory: also return the way to each posterior.
          devices: of this process; None for the first alone.

        Raises:
          UserError: there is no such network, it is damaged, or a setting is wrong.
        """
        mesh = _mesh(devices)
        run = network.load(_sampled(bundle.find(source), sampler), "latest", mesh)
        return cls(run, buckets=buckets, trajectory=trajectory, mesh=mesh)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes."""
        return self._run.description.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that images are brought to."""
        return self._run.description.image_shape

    def __call__(self, images: Any) -> Prediction:
        """Predicts N images, at most two batches of them in memory at a time.

        Photos are cropped and resized as the run's evaluation does it (`config.data.eval_crop`);
        for `digits` and `idx` the whole image is resized. Grey and colour become what the network
        takes, alpha is dropped, and files are turned upright as their orientation tag says.

        Args:
          images: an array [N, H, W, C] or [N, H, W], one image [H, W, C] or [H, W], the path or
            the bytes of an image file, a Pillow image, or a list or iterator of single ones of any
            size. Integers are levels in 0..255, floats in [0, 1]. An array of rank 3 whose last
            axis is 1, 3 or 4 is one image.

        Returns:
          `Prediction`, of N = 1 for one image and of N = 0 for none. What a sampler draws is a
          function of the run's seed and of the place in this call.

        Raises:
          UserError: some cannot be read or are no images (all are named), or the network's
            posteriors are not finite.
        """
        given = inputs.listed(images)
        faults: list[str] = []

        def read(part: Part) -> np.ndarray | None:
            pixels, found = self.load(given[part.start : part.start + part.images])
            for row, fault in found.items():
                image = given[part.start + row]
                named = isinstance(image, str | os.PathLike)
                faults.append(f"{image if named else f'image {part.start + row}'} ({fault})")
            return None if faults else pixels  # then only to name the others

        answers = list(self._answers(batches(len(given), self._buckets), read))
        if faults:
            raise UserError(
                f"expected images, found {len(faults)} of {len(given)} that cannot be used: "
                f"{'; '.join(faults)}; mend them or leave them out"
            )
        return self._prediction(answers)

    def load(self, images: Sequence[Any]) -> tuple[np.ndarray, dict[int, str]]:
        """What the network is shown of images.

        Args:
          images: single ones, as `__call__` takes them.

        Returns:
          The pixels u8[N, H, W, C], and of those that cannot be used, which stay black, what is
          wrong with them.
        """
        pixels = np.zeros((len(images), *self.image_shape), np.uint8)

        def one(row: int) -> str | None:
            try:
                inputs.show(
                    images[row],
                    pixels[row],
                    eval_crop=self._run.eval_crop,
                    max_pixels=self._run.config.data.max_pixels,
                )
            except ValueError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(cores()) as pool:
            found = enumerate(pool.map(one, range(len(images))))
            return pixels, {row: fault for row, fault in found if fault is not None}

    def predict(self, pixels: np.ndarray, *, first: int = 0) -> Prediction:
        """Predicts images that are as the network takes them.

        Args:
          pixels: u8[N, H, W, C], from `load`.
          first: the number of the first image. What a sampler draws for an image is a function of
            its number, so who asks for a long row of images in parts numbers them through, and gets
            what one call for all of them gives.

        Raises:
          UserError: they are not, or the network's posteriors are not finite.
        """
        # Numbers of another type or shape would be taken for levels: floats in [0, 1] for black.
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.image_shape:
            expected = ",".join(map(str, self.image_shape))
            raise UserError(
                f"pixels: expected levels uint8[N,{expected}], as `load` gives them, found "
                f"{pixels.dtype}{list(pixels.shape)}; call the predictor itself with other images"
            )
        parts = batches(len(pixels), self._buckets)
        read = lambda part: pixels[part.start : part.start + part.images]  # noqa: E731
        return self._prediction(list(self._answers(parts, read, first)))

    def _answers(
        self,
        parts: Iterable[Part],
        read: Callable[[Part], np.ndarray | None],
        first: int = 0,
    ) -> Iterator[Posterior]:
        """The answers to each part, numbered from `first`; none to one that is not there."""
        waiting: tuple[Any, int] | None = None
        for part in parts:
            pixels = read(part)
            if pixels is None:
                continue
            padded = np.zeros((part.size, *self.image_shape), np.uint8)
            padded[: part.images] = pixels
            index = first + part.start + np.arange(part.size)
            running = self._program(self._run.variables, {"image": padded, "index": index})
            # The device works on this batch while the host fetches the last and reads the next.
            if waiting is not None:
                yield _fetch(*waiting)
            waiting = running, part.images
        if waiting is not None:
            yield _fetch(*waiting)

    def _prediction(self, answers: Sequence[Posterior]) -> Prediction:
        answer = jax.tree.map(lambda *parts: np.concatenate(parts), *answers)
        finite = np.isfinite(answer.probs).all(-1)
        if not finite.all():
            raise UserError(
                f"expected finite probabilities, found NaN or infinity in {np.sum(~finite)} of "
                f"{len(finite)} posteriors: the model has diverged; use another checkpoint"
            )
        labels = np.argmax(answer.probs, axis=-1).astype(np.int32)
        classes = tuple(self.class_names[label] for label in labels)
        return Prediction(classes, labels, *answer)


def _mesh(devices: Sequence[jax.Device] | None) -> Mesh:
    if devices is not None and not devices:
        raise UserError("devices: expected one or several, found none; leave it out")
    return one_device() if devices is None else make_mesh(devices)


def _sampled(folder: network.Trained, sampler: Mapping[str, Any] | None) -> network.Trained:
    """With other settings of the sampler."""
    if not sampler:
        return folder
    return replace(folder, config=sweep.changed(folder.config, sampler))


def _fetch(running: Any, count: int) -> Posterior:
    """The first `count` rows of a batch, on the host."""
    return jax.tree.map(lambda x: np.asarray(x)[:count], running)
