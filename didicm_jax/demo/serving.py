"""Serves the page. It needs Gradio.

Nothing on it comes from or goes to another server, and what is uploaded is gone when it ends.
"""

import os
import tempfile
import threading
from collections.abc import Sequence

import gradio as gr

from didicm_jax.demo.model import Model
from didicm_jax.demo.page import build

_LARGEST = "32mb"  # of an upload
# Fonts of the reader's machine: the themes' own come from the web.
_FONTS = ["system-ui", "sans-serif"]
_FIXED_FONTS = ["ui-monospace", "monospace"]
# As many thumbnails side by side as there is room for, with captions as wide as they are.
_CSS = """
.grid-container {grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)) !important}
.grid-wrap {height: auto !important; min-height: 0 !important; max-height: 24rem}
.caption-label {max-width: calc(100% - 8px) !important}
"""


def serve(model: Model, about: Sequence[str], *, host: str, port: int) -> None:
    """Serves the page until it is interrupted.

    Args:
      model: the network.
      about: what it is, in sentences.
      host: the address to listen on; `127.0.0.1` can be reached from this machine alone.
      port: a free one.
    """
    with tempfile.TemporaryDirectory(prefix="didicm_demo_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of whatever is uploaded or shown
        page = build(model, about)
        page.launch(
            server_name=f"[{host}]" if ":" in host else host,  # which its addresses begin with
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=_LARGEST,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            theme=gr.themes.Soft(font=_FONTS, font_mono=_FIXED_FONTS),
            css=_CSS,
        )
        try:
            print(f"serving at {page.local_url} until Ctrl-C", flush=True)
            threading.Event().wait()
        finally:
            page.close(verbose=False)
