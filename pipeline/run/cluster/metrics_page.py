"""Serves the metrics of a local cluster at another address than Ray, which keeps to the loopback address."""

import http.client
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.run.cluster.resources import LOOPBACK
from pipeline.support.errors import ConfigError

_PATIENCE_S = 10.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever HTTP_PROXY says


def serve_metrics(host: str, port: int, ray_port: int) -> ThreadingHTTPServer:
    """Answer `GET /metrics` with what Ray answers at `ray_port`, in a thread, until the process ends.

    Whoever reaches the address can read the metrics: names of stages and arms, counts and times, no data.

    Raises:
        ConfigError: the address or the port cannot be used.
    """
    source = f"http://{LOOPBACK}:{ray_port}/metrics"

    class Page(BaseHTTPRequestHandler):
        timeout = _PATIENCE_S

        def do_GET(self) -> None:
            status, body = _read(source) if self.path == "/metrics" else (404, b"")
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write no line for each request to stderr."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    try:
        server = Server((host, port), Page)
    except (OSError, ValueError, TypeError) as error:  # TypeError: a zero character in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"metrics_host={host} metrics_port={port}: {reason}") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def _read(source: str) -> tuple[int, bytes]:
    try:
        with _DIRECT.open(source, timeout=_PATIENCE_S) as answer:
            return 200, answer.read()
    except (OSError, http.client.HTTPException):  # Ray does not answer yet, or any more
        return 503, b""
