"""A page to play with: images in, their posteriors step by step out.

    python launch/demo.py --workdir=runs/digits

It is served to this machine alone, at the address that is printed, until Ctrl-C. What is uploaded
stays on this machine and is gone when the page is.
"""

import os
import signal
import sys

from absl import flags

from didicm_jax.cli import entry
from didicm_jax.cli.command_line import flagged
from didicm_jax.errors import UserError


def main(argv: list[str]) -> int:
    """Parses and serves; returns the exit status."""
    values = _flags()

    def body() -> None:
        if entry.asks_for_help(argv):
            print(f"{__doc__}\n{values.get_help()}")
            return
        with flagged():
            _parse(values, argv)
            _serve(values)

    return entry.guarded(body, advice="start the same command again")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Which one to read.", flag_values=values
    )
    flags.DEFINE_string(
        "host", "127.0.0.1",
        "Address to listen on. Whoever can reach another than this one can use the page.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "port", 7860, "Port to listen on.",
        lower_bound=1, upper_bound=65535, flag_values=values,
    )  # fmt: skip
    return values


def _parse(values: flags.FlagValues, argv: list[str]) -> None:
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    if rest:
        raise UserError(f"expected flags alone, found {rest[0]!r}; write --name=value")
    if not values.workdir:
        raise UserError("--workdir: expected the folder of a run, found none; add --workdir=DIR")


def _serve(values: flags.FlagValues) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"expected Gradio, found {error}; install it with pip install 'didicm-jax[demo]'"
        ) from error
    import jax

    from didicm_jax import files
    from didicm_jax.demo import model, page
    from didicm_jax.inference import network
    from didicm_jax.parallel import make_mesh
    from didicm_jax.run import RunFolder

    folder = RunFolder.open(values.workdir)
    found = network.load(folder, values.checkpoint, make_mesh(jax.local_devices()[:1]))
    evaluation = (
        files.read_json(folder.evaluation_file) if folder.evaluation_file.exists() else None
    )
    # Not killed, but ended, so that its temporary files go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    shown = model.Model(found)
    shown.warm()
    page.serve(
        shown,
        model.about(found, folder.path.name, evaluation),
        host=values.host,
        port=values.port,
    )
