"""The page: its command, and the page itself in a browser where there are Gradio and Chromium."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from didicm_jax.cli import demo
from tests.cli.looking import one_line

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
MISSING += ["chromium"] * (CHROMIUM is None)
# The command, which must know the network of the run.
COMMAND = """
from tests import shallow
from didicm_jax.cli import demo, entry
with shallow.registered():
    entry.run(demo.main)
"""


@pytest.fixture
def gradio(monkeypatch):
    """Says whether Gradio is installed."""
    return lambda there: monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if there else None
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=nowhere"], "--workdir: expected a run in nowhere"),
        (["--pretrained=nowhere"], "--pretrained: expected a network of this package"),
        (["--pretrained=x", "--workdir=x"], "--workdir: expected without --pretrained"),
        (["--pretrained=x", "--checkpoint=best"], "--checkpoint: expected without --pretrained"),
        (["--checkpoint=best"], "--checkpoint: expected with --workdir"),
        (["--workdir="], "--workdir: expected a value, found none"),
        (["--workdir=x", "--port=0"], "port"),
        (["--workdir=x", "--host=no.such.host.invalid"], "--port: expected a free port"),
        (["--workdir=x", "--host=a..b"], "--port: expected a free port of a..b"),
        (["--workdir=x", "more"], "found 'more'"),
        (["--workdirr=x"], "workdirr"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys, gradio):
    gradio(True)
    port = [] if "--port=0" in arguments else [f"--port={free_port()}"]
    assert demo.main(["demo.py", *arguments, *port]) == 2
    assert words in one_line(capsys)


def test_a_port_that_is_taken_is_one_line(capsys, gradio):
    gradio(True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo.main(["demo.py", "--workdir=x", f"--port={port}"]) == 2
    assert f"expected a free port of 127.0.0.1, found that {port} is not" in one_line(capsys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_port_that_gradio_would_not_have_is_refused_on_any_host(host, capsys, gradio):
    """It asks for that of 127.0.0.1 first, so another host is no advice."""
    gradio(True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--workdir=x", f"--port={port}", f"--host={host}"]
        assert demo.main(["demo.py", *arguments]) == 2
    said = one_line(capsys)
    assert f"expected a free port of 127.0.0.1, found that {port} is not" in said
    assert said.rstrip().endswith("choose another with --port")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="without IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_address_of_ipv6_is_one_to_listen_on(host, capsys, gradio, tmp_path):
    gradio(True)
    arguments = [f"--workdir={tmp_path}", f"--host={host}", f"--port={free_port()}"]
    assert demo.main(["demo.py", *arguments]) == 2
    assert "--workdir: expected a run in" in one_line(capsys)  # it comes after the port


def test_without_gradio_it_says_what_to_install(capsys, gradio):
    gradio(False)
    assert demo.main(["demo.py", "--workdir=x"]) == 2
    assert "pip install" in one_line(capsys)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def served(run, port, folder):
    """The command at work; what is temporary to it is in `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, f"--workdir={run}", f"--port={port}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def browser_page(asked):
    """A page of a browser that writes down what it asks for."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)  # of a machine with much else to do
        page.on("request", lambda request: asked.append(request.url))
        yield page
        browser.close()


@pytest.mark.skipif(bool(MISSING), reason=f"without {' and '.join(MISSING)}")
def test_an_image_goes_in_and_a_class_comes_out(run, folder, tmp_path):
    """And what is no image is told, nobody else is asked, and nothing is left behind."""
    port, asked = free_port(), []
    text = tmp_path / "text.png"
    text.write_text("not an image")
    kept = tmp_path / "kept"
    kept.mkdir()
    with served(run, port, kept) as process:
        address = f"http://127.0.0.1:{port}/"
        assert process.stdout.readline() == f"serving at {address} until Ctrl-C\n"
        with browser_page(asked) as page:
            page.goto(address)
            assert "top-1" in page.input_value("#about textarea")
            page.set_input_files("#files input", [str(folder / "digit0.png"), str(text)])
            page.wait_for_selector("#corrupted img")
            assert page.locator("#gallery img").count() == 1
            said = page.inner_text("#posterior").split()
            assert said[:1] == ["Posterior"]
            assert said[1] in "0123456789"
            assert said[3].endswith("%")
            assert page.input_value("#faults textarea").startswith("text.png: no image")
            assert page.input_value("#verdict textarea").startswith("Entropy ")
        assert list(kept.rglob("digit0.png"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (out, err) == ("", "interrupted: start the same command again\n")
        assert process.returncode == 130
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {f"127.0.0.1:{port}"}
    assert list(kept.rglob("*.png")) == []
