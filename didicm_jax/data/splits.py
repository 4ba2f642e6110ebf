"""Parts of splits, written as tensorflow-datasets writes them: `train[:90%]`, `train+test`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from didicm_jax.data.source import ArraySource, Dataset, Source
from didicm_jax.errors import UserError


class Slice(NamedTuple):
    """Some examples of one split."""

    split: str
    total: int  # examples of the whole split
    rows: np.ndarray  # i64[M], which of them, in this order


def slices_of(spec: str, totals: Mapping[str, int]) -> list[Slice]:
    """What `spec` is made of, in its order.

    Args:
      spec: `train`, `train[:90%]`, `train[1000:]`, `train+test`, …, as
        https://www.tensorflow.org/datasets/splits describes.
      totals: how many examples each split has.

    Raises:
      ValueError: no such split, or no example, in a few words.
    """
    # Here and not above: it takes a second to import.
    import tensorflow_datasets as tfds

    infos = {
        split: tfds.core.SplitInfo(
            name=split, shard_lengths=[total], num_bytes=0, filename_template=None
        )
        for split, total in totals.items()
    }
    parts = [
        Slice(each.splitname, total, np.arange(total)[each.from_ : each.to])
        for each in tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
        for total in [totals[each.splitname]]
    ]
    if not any(len(part.rows) for part in parts):
        raise ValueError("no example in it")
    return parts


def choose(dataset: Dataset, train_split: str, eval_split: str) -> Dataset:
    """The data set, held in memory, with these parts for training and for evaluation.

    Args:
      dataset: its `train` and `test` are the splits of these names.
      train_split: see `slices_of`.
      eval_split: the same; empty is `test`.

    Raises:
      UserError: no such split, or an empty part.
    """
    sources = {"train": dataset.train, "test": dataset.test}
    return replace(
        dataset,
        train=_part(sources, train_split, "train_split"),
        test=_part(sources, eval_split or "test", "eval_split"),
    )


def _part(sources: dict[str, Source], split: str, key: str) -> Source:
    if split in sources:
        return sources[split]
    try:
        parts = slices_of(split, {name: len(source) for name, source in sources.items()})
    except ValueError as error:
        raise UserError(
            f"config.data.{key}: expected a part of {' or '.join(sources)}, such as train[:90%], "
            f"found {split!r} ({str(error).splitlines()[-1]}); change it"
        ) from error
    batches = [sources[part.split].batch(part.rows) for part in parts]
    return ArraySource(
        *(np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    )
