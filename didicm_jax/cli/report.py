"""`--mode=report`: the curves of one run or several, as a picture and as a page."""

from absl import flags

from didicm_jax import files
from didicm_jax.cli.command_line import paths, writable
from didicm_jax.errors import UserError
from didicm_jax.evaluation import report


def run(values: flags.FlagValues) -> None:
    """Draws the runs that `--workdir=A,B` names.

    Raises:
      UserError: none is named, or one holds no records.
    """
    folders = paths([values.workdir or ""])
    if not folders:
        raise UserError("--workdir: expected one folder of a run or several, found none; add A,B")
    output = files.place(values.output, "--output") if values.output else folders[0]
    if values.output or output.is_dir():  # a workdir that is none is told as such
        writable("output", output)
    written = report.write(folders, output)
    print(f"wrote {', '.join(path.name for path in written)} in {output}")
