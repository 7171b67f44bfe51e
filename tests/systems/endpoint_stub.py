"""A chat-completions server on this machine that also fails, stalls and answers garbage; real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(content, finish="stop", usage=(100, 10), **message):
    """Return a chat completion as OpenAI's servers make it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return {"id": "x", "object": "chat.completion", "model": "stub", "choices": [choice], "usage": counts}


class Stub:
    """What the server was asked, and what it is to do next.

    Attributes:
        requests: (headers, body) of every request, in order.
        plan: what to do with the next requests, one each: (status, headers, body), seconds to stall, or None to
            answer; when it is empty every request is answered.
        most: the most requests that were under way at a time.
    """

    def __init__(self):
        self.requests, self.plan, self.most, self.now, self.slow = [], [], 0, 0, 0.0
        self.answer = lambda body: reply(said(body).upper())
        self.lock = threading.Lock()
        self.open = threading.Event()


def said(body) -> str:
    """Return the last line of the text of a request: the source text where it is shown."""
    return body["messages"][0]["content"][-1]["text"].splitlines()[-1]


@contextmanager
def serving():
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                stub.requests.append((self.path, dict(self.headers), body))
                todo = stub.plan.pop(0) if stub.plan else None
                stub.now += 1
                stub.most = max(stub.most, stub.now)
            try:
                if isinstance(todo, float | int):
                    stub.open.wait(todo)
                    todo = None
                time.sleep(stub.slow)
                status, headers, content = todo or (200, {}, json.dumps(stub.answer(body)))
                content = content.encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has gone
                self.close_connection = True
            finally:
                with stub.lock:
                    stub.now -= 1

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        stub.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def raw_serving(parts):
    """Serve bytes as they are: `parts()` gives what is sent on a connection, piece by piece, until the client goes."""
    listener = socket.create_server(("127.0.0.1", 0))
    left = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(2**16)
                    for part in parts():
                        connection.sendall(part)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)
                except OSError:
                    left.append("the client went")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", left
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
