"""A process of keep-alive clients: `http_asker.py PORT CONNECTIONS` reads lines `PATH COUNT` and asks that many times.

Every connection has one request under way; the answers are looked at for their status only. It owns its connections,
says `done` after each line, and ends with its input.
"""

from __future__ import annotations

import selectors
import socket
import sys

BODY = b'{"x":1.0}'


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def ask(self, request: bytes) -> None:
        """Send a request, which is small enough to be taken at once."""
        self.socket.sendall(request)

    def has_answer(self) -> bool:
        """Take in what has come, at least one byte; return whether the answer is whole. Raises where it is none."""
        self._received += self.socket.recv(65536)
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server said {self._received!r}")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        if len(body) < length:
            return False
        self._received = b""
        return True


class Asker:
    """All connections."""

    def __init__(self, port: int, count: int) -> None:
        """Connect."""
        self._ready = selectors.DefaultSelector()
        self._connections = [Connection(port) for _ in range(count)]
        for connection in self._connections:
            self._ready.register(connection.socket, selectors.EVENT_READ, connection)

    def ask(self, path: str, count: int) -> None:
        """Ask so many times, over all connections at once."""
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        request = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
        begun = min(count, len(self._connections))
        for connection in self._connections[:begun]:
            connection.ask(request)
        answered = 0
        while answered < count:
            for key, _ in self._ready.select():
                if key.data.has_answer():
                    answered += 1
                    if begun < count:
                        begun += 1
                        key.data.ask(request)


def main(port: str, connections: str) -> None:
    """Do as each line says."""
    asker = Asker(int(port), int(connections))
    for line in sys.stdin:
        path, count = line.split()
        asker.ask(path, int(count))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
