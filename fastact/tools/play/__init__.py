"""`python -m fastact play`: a local page on which small networks train. Needs `fastact[play]`."""

from __future__ import annotations

import logging
from pathlib import Path


def serve(host: str, port: int, browser: bool, file: Path | None) -> None:
    """Serve the page until Ctrl-C. Raises `ImportError` where a library is missing, `OSError` where the port is taken
    or the file cannot be read, and `ValueError` where it is none of a Monitor's statistics."""
    try:
        import sklearn.datasets  # noqa: F401  takes seconds: before the first page
        from bokeh.application import Application
        from bokeh.application.handlers.function import FunctionHandler
        from bokeh.document import Document
        from bokeh.server.server import Server
    except ImportError as error:
        raise ImportError("this page needs Bokeh and scikit-learn: pip install 'fastact[play]'") from error
    import torch

    from .experiment import recorded
    from .page import Page

    torch.set_num_threads(1)  # the networks are small
    logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)  # it warns of each tab that is closed
    history = recorded(file.read_text()) if file else []

    def show(document: Document) -> None:
        Page(document, history)

    application = Application(FunctionHandler(show))
    # Only pages that come from here may connect.
    origins = [f"{name}:{port}" for name in {host, "localhost", "127.0.0.1"}]
    try:
        server = Server(application, address=host, port=port, allow_websocket_origin=origins)
    except OSError as error:
        raise OSError(f"port {port} of {host} cannot be had ({error.strerror}); --port takes another") from error
    url = f"http://{host}:{port}"
    print(f"{url} (Ctrl-C ends it)", flush=True)
    if browser:
        server.io_loop.add_callback(server.show, "/")
    server.run_until_shutdown()
