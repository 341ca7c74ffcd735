"""A web server that answers by a script: a fake, for what no real archive does on demand."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Fake(BaseHTTPRequestHandler):
    """Answers by `script(handler, path)`; keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    script: Callable[["Fake"], None]
    seen: list["Fake"]

    def do_GET(self) -> None:
        self.seen.append(self)
        type(self).script(self)

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def reply(
        self, code: int, body: bytes = b"", kind: str = "application/dicom+json", **headers: str
    ) -> None:
        self.send_response(code)
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), **headers}
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def fake(script: Callable[[Fake], None]) -> Iterator[tuple[str, list[Fake]]]:
    """Give the address of a server that answers so, and the requests that it got."""
    seen: list[Fake] = []
    handler = type("Handler", (Fake,), {"script": staticmethod(script), "seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
