"""A chat server on loopback that answers as a test says."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": ""}]}


def said(content, finish="stop", **message):
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content, **message}
    return {
        "id": "1",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": finish, "message": message}],
    }


@contextmanager
def serving(answer, models=MODELS, context=None, queue=128):
    """The address of a server: `answer(question, body)` gives the reply to a question, `models` that to
    the list of models.

    A reply is an object, bytes (a web page), or a pair of a status and one of these; a float is a reply that
    drips for so many seconds. `queue` is how many connections wait for it. `asked` holds the questions,
    `left` the times at which a client left a reply that dripped.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(models(self.path) if callable(models) else models)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = body["messages"][0]["content"] if body["messages"] else ""
            text = content if isinstance(content, str) else content[-1]["text"]
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append({**body, "path": self.path, "headers": headers})
            self.reply(answer(text, body))

        def reply(self, what):
            if isinstance(what, float):
                return self.drip(what)
            status, what = what if isinstance(what, tuple) else (200, what)
            page = isinstance(what, bytes)
            body = what if page else json.dumps(what).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if page else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def drip(self, seconds):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            try:
                for _ in range(int(seconds * 10)):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.1)
            except OSError:
                server.left.append(time.monotonic())

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = queue

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.asked, server.left = True, [], []
    server.handle_error = lambda *args: None
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http{'s' if context else ''}://127.0.0.1:{server.server_port}/v1"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
