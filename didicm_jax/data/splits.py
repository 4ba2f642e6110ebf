"""Parts of a data set that is held in memory, named as tensorflow-datasets names them."""

from dataclasses import replace

import numpy as np

from didicm_jax.data.source import ArraySource, Dataset, Source
from didicm_jax.errors import UserError


def choose(dataset: Dataset, train_split: str, eval_split: str) -> Dataset:
    """The data set with these parts for training and for evaluation.

    Args:
      dataset: its `train` and `test` are the splits of these names.
      train_split: `train`, `train[:90%]`, `train[1000:]`, `train+test`, …, as
        https://www.tensorflow.org/datasets/splits describes.
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
    # Here and not above: it takes a second to import.
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(
            name=name, shard_lengths=[len(source)], num_bytes=0, filename_template=None
        )
        for name, source in sources.items()
    }
    try:
        ranges = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
        rows = [(each.splitname, slice(each.from_, each.to)) for each in ranges]
        parts = [(name, np.arange(len(sources[name]))[where]) for name, where in rows]
        if not sum(len(indices) for _, indices in parts):
            raise ValueError("no example in it")
    except ValueError as error:
        raise UserError(
            f"config.data.{key}: expected a part of {' or '.join(sources)}, such as train[:90%], "
            f"found {split!r} ({str(error).splitlines()[-1]}); change it"
        ) from error
    batches = [sources[name].batch(indices) for name, indices in parts]
    return ArraySource(
        *(np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    )
