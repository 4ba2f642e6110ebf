"""Writes what a study found: a CSV file, tables, figures."""

from collections.abc import Collection, Sequence
from pathlib import Path

from didicm_jax import files, plots
from didicm_jax.study import figures, tables
from didicm_jax.study.folder import Record
from didicm_jax.study.rows import rows_of


def line(record: Record) -> str:
    """What a finished cell reached, in a few words."""
    first = record["samplers"][0]
    test = first["test"]
    return (
        f"{first['label']}, top-1 {100 * test['top1']:.2f} %, NLL {test['nll']:.3f}, "
        f"ECE {test['ece']:.3f}, {record['training']['seconds_of_last_start']:.0f} s"
    )


def write(records: Sequence[Record], folder: Path, following: Collection[str] = ()) -> list[Path]:
    """Writes `results.csv`, `results.md`, `samplers.md` and the figures; returns their paths.

    Args:
      records: of the cells that are done.
      folder: where to.
      following: axes that `coordinates.following` finds in the whole study: for the CSV file alone.
    """
    rows = rows_of(records, following)
    written = [folder / name for name in ("results.csv", "results.md", "samplers.md")]
    files.write_csv(written[0], tables.csv(records))
    for path, text in zip(written[1:], (tables.markdown(rows), tables.samplers(rows)), strict=True):
        files.write_bytes(path, text.encode())
    for name, figure in figures.of(rows).items():
        if figure is not None:
            written.append(folder / f"{name}.png")
            plots.save(figure, written[-1])
    return written
