"""The HTTP side of the stand-in for Kaggle: takes calls, sends answers, and fails where told to."""

import contextlib
import json
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from kaggle_objects import Answer, RefusalError


class Handler(BaseHTTPRequestHandler):
    """Takes a call, has the stand-in answer it unless a fault is due, and sends the answer."""

    def do_POST(self):
        path, body = urlsplit(self.path).path, json.loads(self._content())
        login = self.headers.get("Authorization")
        name = path.rpartition("/")[2]
        self._answer(name, body, lambda stand_in, _: stand_in.call(path, login, body))

    def do_PUT(self):
        token, data = self.path.rpartition("/")[2], self._content()
        span = self.headers.get("Content-Range")
        fields = {"token": token, "span": span, "length": len(data)}
        self._answer("PUT", fields, lambda stand_in, kept: stand_in.put(token, span, data, kept))

    def do_GET(self):
        path = urlsplit(self.path).path
        self._answer("GET", {"path": path}, lambda stand_in, _: stand_in.get(path))

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = iter(lambda: self.rfile.read(int(self.rfile.readline(), 16) + 2)[:-2], b"")
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, name: str, body: dict, work) -> None:
        stand_in = self.server.stand_in
        with stand_in.lock:
            stand_in.requests.append((name, body))
            queue = stand_in.faults.get(name)
            fault = queue.pop(0) if queue else None
            kept = fault.kept if fault and not fault.done else None
            try:
                answer = work(stand_in, kept) if kept is None or name == "PUT" else None
            except RefusalError as error:
                answer = Answer(*error.args)
        self._send(fault or answer)

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        if not answer.status:
            return
        body, kind = answer.body, "application/octet-stream"
        if isinstance(body, str):
            body = {"code": answer.status, "message": body}
        if isinstance(body, dict):
            body, kind = json.dumps(body).encode(), "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(body))}
        self.send_response(answer.status)
        for name, value in (headers | answer.headers).items():
            self.send_header(name, value)
        with contextlib.suppress(ConnectionError):  # a client that did not wait
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass
