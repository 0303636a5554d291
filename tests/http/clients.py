"""A process of clients: `python -m tests.http.clients PORT PATH...` asks over keep-alive connections without a pause.

One thread for each path, until its input ends or the server refuses connections; it says `begun` after the first
answers, and at last one line of JSON: what each version answered, how often it fell back, and every other outcome.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
import threading
from collections import Counter

HEADERS = {"content-type": "application/json"}
PATIENCE_S = 30.0


class Client(threading.Thread):
    """One keep-alive connection."""

    def __init__(self, port: int, path: str, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.answered = Counter[str]()
        self.fell_back = 0
        self.dropped = 0
        """Connections that the server closed before it looked at the request: no request was accepted."""
        self.wrong: list[str] = []
        self.begun = threading.Event()
        self._address = ("127.0.0.1", port)
        self._path = path
        self._over = over

    def run(self) -> None:
        """Ask until it is over."""
        refused = False
        while not (refused or self._over.is_set()):
            connection = http.client.HTTPConnection(*self._address, timeout=PATIENCE_S)
            try:
                self._ask_on(connection)
            except ConnectionRefusedError:
                refused = True
            except (http.client.RemoteDisconnected, ConnectionError):
                self.dropped += 1
            except Exception as error:  # noqa: BLE001 - it is what the test looks for
                self.wrong.append(repr(error))
                refused = True
            finally:
                connection.close()
        self.begun.set()

    def _ask_on(self, connection: http.client.HTTPConnection) -> None:
        """Ask on one connection, until it is over or the server wants to keep it no longer."""
        for number in itertools.count():
            asked = {"x": number}
            connection.request("POST", self._path, json.dumps(asked), HEADERS)
            response = connection.getresponse()
            body = response.read()
            if response.status == 200 and json.loads(body) == asked:
                self.answered[response.headers["x-version"]] += 1
                self.fell_back += response.headers.get("x-fell-back") == "True"
            else:
                self.wrong.append(f"{response.status} {body!r}")
            self.begun.set()
            if response.will_close or self._over.is_set():
                return


def main(port: str, *paths: str) -> None:
    """Be the process."""
    over = threading.Event()
    clients = [Client(int(port), path, over) for path in paths]
    for client in clients:
        client.start()
    for client in clients:
        client.begun.wait(PATIENCE_S)
    say("begun")
    threading.Thread(target=wait_for_the_end, args=(over,), daemon=True).start()
    for client in clients:
        client.join()
    summary = {
        "answered": dict(sum((client.answered for client in clients), Counter[str]())),
        "fell_back": sum(client.fell_back for client in clients),
        "dropped": sum(client.dropped for client in clients),
        "wrong": [wrong for client in clients for wrong in client.wrong],
    }
    say(json.dumps(summary))


def wait_for_the_end(over: threading.Event) -> None:
    """Say that it is over when the input ends."""
    while os.read(0, 1024):  # not through `sys.stdin`, whose lock this thread would hold when the process ends
        pass
    over.set()


def say(line: str) -> None:
    """Print at once, into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
