"""Waits at a socket of the daemon until it says something: hear.py SOCKET WORDS [REQUEST].

Prints the seconds that it took. Connects again when the daemon goes away. Exit code 1: refused, or
not said within 30 s, with the reason on standard output. Needs nothing but Python.
"""

import os
import socket
import sys
import time

LIMIT_S = 30
CONTROL_REQUESTS = {
    "subscribe": b'{"type": "subscribe", "data": {"events": ["transcript", "state"]}}\n',
    "ping": b'{"type": "ping", "data": {"text": "hello"}}\n',
}


def hear(path: str, words: bytes, request: bytes, until: float) -> str:
    """What went wrong, "" for nothing; "again" if the connection ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(max(0.1, until - time.monotonic()))
        try:
            connection.connect(path)
            connection.sendall(request)
            heard = b""
            while words not in heard:
                data = connection.recv(65536)
                if not data:
                    return "again"
                heard += data
        except TimeoutError:
            return f"{words.decode()!r} was not said within {LIMIT_S} s: {heard[-300:]!r}"
        except PermissionError:
            return "refused"
        except (ConnectionError, FileNotFoundError):
            return "again"
    return ""


def main() -> int:
    path, words = sys.argv[1], os.fsencode(sys.argv[2])
    request = CONTROL_REQUESTS[sys.argv[3]] if len(sys.argv) > 3 else b""
    begun = time.monotonic()
    until = begun + LIMIT_S
    while (problem := hear(path, words, request, until)) == "again":
        if time.monotonic() > until:
            problem = "nobody listened"
            break
        time.sleep(0.02)  # a daemon that is being started anew closes what it has not accepted
    print(problem or f"{time.monotonic() - begun:.1f}")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
