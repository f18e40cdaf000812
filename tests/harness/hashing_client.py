"""A client as a process of its own: ``python hashing_client.py HOST PORT PATH``.

Says ``started`` with the first bytes of the body and its sha256 at the end, one line each; exits 1 when the
answer is not a 200 or ends before its Content-Length. Keeps at most 256 KiB of it.
"""

import hashlib
import http.client
import sys


def main(host: str, port: str, path: str) -> int:
    """The exit code."""
    connection = http.client.HTTPConnection(host, int(port), timeout=300)
    connection.request("GET", path)
    answer = connection.getresponse()
    declared = int(answer.headers["Content-Length"])
    digest, received = hashlib.sha256(), 0
    while piece := answer.read1(256 * 1024):
        if not received:
            print("started", flush=True)
        digest.update(piece)
        received += len(piece)
    print(digest.hexdigest(), flush=True)
    return 0 if (answer.status, received) == (200, declared) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
