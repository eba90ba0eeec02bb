"""An object store: moto's S3 server, which fails as often as it is told.

python faulty_store.py SEED SHARE    # prints its port

Of all requests but those that make the bucket the given share is answered with status 500, late,
or not at all: the connection is reset. Whenever it reads a line it prints how many requests of each
kind it had; it ends with its standard input.
"""

import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
LATE_S = 4.0
"""Longer than the 3 s that Amazon's client waits."""


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


class Faulty:
    def __init__(self, application, seed, share):
        self.application = application
        self.chance = random.Random(seed)
        self.share = share
        self.counts = Counter()
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        makes_bucket = method == "PUT" and path.strip("/") == BUCKET
        with self.lock:
            self.counts[method] += 1
            kind = self.chance.choice(["error", "late", "reset"])
            failing = not makes_bucket and self.chance.random() < self.share
            self.counts[kind] += failing
        if failing and kind == "error":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>try again</Message></Error>"]
        if failing and kind == "reset":
            connection = environ["werkzeug.socket"]
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
            raise ConnectionResetError
        if failing:
            time.sleep(LATE_S)
        return self.application(environ, start_response)


def main():
    seed, share = int(sys.argv[1]), float(sys.argv[2])
    faulty = Faulty(DomainDispatcherApplication(create_backend_app), seed, share)
    server = make_server("127.0.0.1", 0, faulty, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    for _ in sys.stdin:
        print(json.dumps(faulty.counts), flush=True)


if __name__ == "__main__":
    main()
