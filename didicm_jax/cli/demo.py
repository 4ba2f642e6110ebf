"""A page to play with: images in, their posteriors step by step out.

    python launch/demo.py
    python launch/demo.py --workdir=runs/digits
    python launch/demo.py --pretrained=FOLDER

The first shows a network that comes with the package. The page is served to this machine alone, at
the address that is printed, until Ctrl-C. What is uploaded stays on this machine and is gone when
the page is.
"""

import errno
import importlib.util
import os
import signal
import socket
import sys

from absl import flags

from didicm_jax.cli import entry, options
from didicm_jax.cli.command_line import flagged, read
from didicm_jax.errors import UserError

# Of the networks that come with the package.
_USUAL = "cifar10"


def main(argv: list[str]) -> int:
    """Parses and serves; returns the exit status."""
    values = _flags()

    def body() -> None:
        if entry.asks_for_help(argv):
            print(f"{__doc__}\n{values.get_help()}")
            return
        with flagged():
            read(values, argv)
            options.check_pretrained(values)
            _check(values)
            _serve(values)

    return entry.guarded(body, advice="start the same command again")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Folder of a run.", flag_values=values)
    flags.DEFINE_string(
        "pretrained", None,
        "Instead of a workdir a network that comes with the package, by its name, a folder of one, "
        f"or hf://user/name; with neither, {_USUAL}.",
        flag_values=values,
    )  # fmt: skip
    options.define_some(values, ["checkpoint"])
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


def _check(values: flags.FlagValues) -> None:
    """Refuses to begin without what is only needed in the end.

    Raises:
      UserError: a checkpoint of no run, Gradio is not installed, or the port cannot be had.
    """
    if values["checkpoint"].present and not values.workdir:
        raise UserError(
            "--checkpoint: expected with --workdir, of which it names one, found without; add "
            "--workdir=DIR or leave it out"
        )
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "expected Gradio, found none; install it with pip install 'didicm-jax[demo]'"
        )
    # Gradio, whatever it is to listen on, asks for the port of 127.0.0.1 too.
    for host in dict.fromkeys([_host(values), "127.0.0.1"]):
        try:
            family, *_ = socket.getaddrinfo(host, values.port, type=socket.SOCK_STREAM)[0]
            with socket.create_server((host, values.port), family=family):
                pass
        except (OSError, UnicodeError) as error:  # the latter of what cannot be a name
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            raise UserError(
                f"--port: expected a free port of {host}, found that {values.port} is not "
                f"({getattr(error, 'strerror', '') or error}); choose another with --port"
                + ("" if taken else " or --host")
            ) from error


def _host(values: flags.FlagValues) -> str:
    """The address to listen on: of IPv6 without the brackets that it has in a browser."""
    return str(values.host).strip("[]")


def _serve(values: flags.FlagValues) -> None:
    # Only now: it starts jax, which takes seconds.
    from didicm_jax.demo import about
    from didicm_jax.demo.model import Model
    from didicm_jax.inference import network
    from didicm_jax.parallel import one_device
    from didicm_jax.run import RunFolder, bundle

    trained: network.Trained = (
        RunFolder.open(values.workdir)
        if values.workdir
        else bundle.find(values.pretrained or _USUAL)
    )
    found = network.load(trained, values.checkpoint, one_device())
    words = about.sentences(found, trained)
    model = Model(found)
    model.warm()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read while it is imported
    from didicm_jax.demo import serving

    # Ended rather than killed, so that what was uploaded goes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    serving.serve(model, words, host=_host(values), port=values.port)
