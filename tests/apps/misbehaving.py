"""A plain WSGI application that does what the path says, right or wrong; standard library only, Python 3.8."""

import hashlib
import io
import json
import os
import sys
import tempfile
import threading
import time

closed = 0  # how many iterables were closed

TEXT = [("Content-Type", "text/plain")]


class Closing:
    """An iterable that counts its close()."""

    def __init__(self, blocks):
        self._blocks = blocks

    def __iter__(self):
        return iter(self._blocks)

    def close(self):
        global closed
        closed += 1


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/").replace("-", "_") or "hello"
    return globals()["do_" + name](environ, start_response)


def do_hello(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"hello\n"]


def do_environ(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    shown = {key: value for key, value in environ.items() if isinstance(value, (str, int, bool, tuple))}
    return [json.dumps(shown).encode()]


def do_empty(environ, start_response):
    start_response("200 OK", TEXT)
    return []


def do_no_content(environ, start_response):
    start_response("204 No Content", [("Content-Length", "5")])
    return [b"wrong"]


def do_not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"a"')])
    return [b"wrong"]


def do_stream(environ, start_response):
    start_response("200 OK", TEXT)
    return Closing([b"one ", b"", b"two ", b"three"])


def do_write(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"written ")
    return [b"returned"]


def do_lazy(environ, start_response):
    start_response("200 OK", TEXT)  # only when the first block is asked for
    yield b"lazy"


def do_closed(environ, start_response):
    start_response("200 OK", TEXT)
    return [str(closed).encode()]


def do_hop(environ, start_response):
    start_response("200 OK", [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("X-Kept", "yes")])
    return [b"framed by the host"]


def do_echo(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", TEXT)
    return [f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()]


def do_lines(environ, start_response):
    source = environ["wsgi.input"]
    first, some, rest = source.readline(), source.read(2), list(source)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([first.decode(), some.decode(), [line.decode() for line in rest]]).encode()]


def do_ignore_body(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"not read"]


def do_file(environ, start_response):
    source = tempfile.TemporaryFile()  # noqa: SIM115 - the host closes it
    source.write(b"skipped" + bytes(range(256)) * 2000)
    source.seek(7)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](source)


def do_file_like(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 100000), 8192)


def do_file_cut(environ, start_response):
    source = tempfile.TemporaryFile()  # noqa: SIM115 - the host closes it
    source.write(b"short")
    source.seek(0)
    start_response("200 OK", [("Content-Length", "100")])
    return environ["wsgi.file_wrapper"](source)


def do_raise(environ, start_response):
    raise RuntimeError("secret detail")


def do_exit(environ, start_response):
    sys.exit("the application wants to stop")


def do_raise_in_stream(environ, start_response):
    start_response("200 OK", TEXT)

    def blocks():
        yield b"first"
        raise RuntimeError("in the middle")

    return blocks()


def do_raise_in_close(environ, start_response):
    class Failing(Closing):
        def close(self):
            raise RuntimeError("in close")

    start_response("200 OK", TEXT)
    return Failing([b"whole"])


def do_replace(environ, start_response):
    start_response("200 OK", [("X-First", "1")])
    try:
        raise ValueError("changed its mind")
    except ValueError:
        start_response("503 Service Unavailable", [("X-Second", "2")], sys.exc_info())
    return [b"replaced"]


def do_replace_too_late(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"first")
    try:
        raise ValueError("too late")
    except ValueError:
        start_response("503 Service Unavailable", TEXT, sys.exc_info())
    return [b"never"]


def do_twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return [b""]


def do_no_start(environ, start_response):
    return [b"no start_response"]


def do_split_value(environ, start_response):
    start_response("200 OK", [("X-Bad", "a\r\nSet-Cookie: evil=1")])
    return [b""]


def do_split_name(environ, start_response):
    start_response("200 OK", [("X-Bad: a\r\nX", "b")])
    return [b""]


def do_split_status(environ, start_response):
    start_response("200 OK\r\nX-Bad: a", TEXT)
    return [b""]


def do_too_long(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    return [b"four and more"]


def do_too_short(environ, start_response):
    start_response("200 OK", [("Content-Length", "40")])
    return [b"less"]


def do_text_body(environ, start_response):
    start_response("200 OK", TEXT)
    return ["text in place of bytes"]


def do_endless(environ, start_response):
    start_response("200 OK", TEXT)

    def blocks():
        while True:
            yield b"x" * 65536

    return Closing(blocks())


def do_wait(environ, start_response):
    with open(environ["QUERY_STRING"], "rb") as pipe:  # a FIFO: waits until the test opens its other end
        pipe.read()
    start_response("200 OK", TEXT)
    return [b"waited"]


def do_who(environ, start_response):
    start_response("200 OK", TEXT)
    time.sleep(0.05)  # so that requests at the same time need several threads
    return [f"{os.getpid()} {threading.current_thread().name}".encode()]


def do_print(environ, start_response):
    print("to stdout")
    print("to wsgi.errors", file=environ["wsgi.errors"])
    start_response("200 OK", TEXT)
    return [b"printed"]


def make(greeting="made", mark="!"):
    """Make an application, as a factory does."""

    def made(environ, start_response):
        start_response("200 OK", TEXT)
        return [(greeting + mark).encode()]

    return made
