"""Stands in for frpc, the program of Gradio's tunnel: its command line, its words, its relaying.

Run by the tests' `ShareServer` as a script of its own; the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path


def say(words: str) -> None:
    sys.stdout.write(f"2024/05/01 10:00:00 [I] [service.go:299] {words}\n")
    sys.stdout.flush()


def read_line(peer: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = peer.recv(1)  # not more: what follows is the visitor's
        if not piece:
            return b""
        line += piece
    return line


def relay(a: socket.socket, b: socket.socket) -> None:
    """Both ways, until both have ended."""

    def one_way(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=one_way, args=(b, a), daemon=True)
    back.start()
    one_way(a, b)
    back.join()
    a.close()
    b.close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["http"])
    parser.add_argument("-n", dest="name", required=True)
    parser.add_argument("-l", dest="port", type=int, required=True)
    parser.add_argument("-i", dest="host", required=True)
    parser.add_argument("--uc", action="store_true", required=True)
    parser.add_argument("--ue", action="store_true", required=True)
    parser.add_argument("--sd", choices=["random"], required=True)
    parser.add_argument("--server_addr", required=True)
    parser.add_argument("--disable_log_color", action="store_true", required=True)
    parser.add_argument("--tls_enable", action="store_true")
    parser.add_argument("--tls_trusted_ca_file", type=Path)
    given = parser.parse_args()
    mood = os.environ.get("SHARE_FRPC", "")

    if mood == "dumb":  # says nothing, and minds no polite signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
    if mood == "broken":
        sys.stderr.write(f"panic: no route for {given.name}\n")
        return 3
    if mood == "babbling":
        while True:
            sys.stdout.buffer.write(b"\xff\x00 start proxy success" * 4096)
    say(f"proxy added: [{given.name}]")
    if mood == "garbage":
        sys.stdout.buffer.write(b"\xff\xfe\x00\x1b[31m" + os.urandom(300_000) + b"\n")
        say("start proxy success: javascript:alert(1)")
        signal.pause()

    host, _, port = given.server_addr.rpartition(":")
    server = (host, int(port))
    ca = given.tls_trusted_ca_file
    login = {
        "name": given.name,
        "tls": given.tls_enable,
        "ca": hashlib.sha256(ca.read_bytes()).hexdigest() if ca else None,
        "pid": os.getpid(),
        "cwd": str(Path.cwd()),
    }
    try:
        control = socket.create_connection(server, 10)
        control.settimeout(None)
        control.sendall(json.dumps(login).encode() + b"\n")
        answer = json.loads(read_line(control) or b'{"error": "EOF"}')
    except OSError as error:
        answer = {"error": f"dial tcp {given.server_addr}: connect: {error.strerror}"}
    if "error" in answer:
        say(f"login to server failed: {answer['error']}")
        return 1
    say("login to server success, get run id [6f1]")
    say(f"[{given.name}] start proxy success: {answer['url']}")

    def work(number: int) -> None:
        up = socket.create_connection(server)
        up.sendall(json.dumps({"work": number}).encode() + b"\n")
        try:
            local = socket.create_connection((given.host, given.port))
        except OSError as error:
            say(f"connect to local service [{given.host}:{given.port}] error: {error}")
            up.close()
            return
        relay(up, local)

    while line := read_line(control):
        told = json.loads(line)
        if "say" in told:
            say(told["say"] * told.get("times", 1))
        else:
            threading.Thread(target=work, args=(told["work"],), daemon=True).start()
    if mood == "stubborn":  # as the real one, which goes on by itself
        say("try to reconnect to server...")
        signal.pause()
    return 0


if __name__ == "__main__":
    os._exit(main())  # at once, whatever its threads are doing
