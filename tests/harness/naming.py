"""A name that resolves at times, for a server that is started with ``environment``: to this machine, or to nothing."""

from __future__ import annotations

from pathlib import Path

ADDRESS = "127.0.0.1"
# Found by the interpreter before anything of ours is imported.
_RESOLVER = """
import os, socket
resolve = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host == {name!r}:
        if os.path.exists({gone!r}):
            with open({gone!r}, "a") as asked:
                asked.write("?")
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        host = {address!r}
    return resolve(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""


class Naming:
    """One name, in a directory of its own. It resolves until it is ``lost``. (aiohttp remembers for ten seconds what it
    resolved.)"""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._gone = directory / "gone"
        resolver = _RESOLVER.format(name=name, gone=str(self._gone), address=ADDRESS)
        (directory / "sitecustomize.py").write_text(resolver)
        self.environment = {"PYTHONPATH": str(directory)}

    def lose(self) -> None:
        """From now on it does not resolve."""
        self._gone.write_text("")

    def restore(self) -> int:
        """It resolves again; how often it did not."""
        asked = self.asked_in_vain()
        self._gone.unlink(missing_ok=True)
        return asked

    def asked_in_vain(self) -> int:
        """How often it did not resolve since it was lost."""
        return self._gone.stat().st_size if self._gone.exists() else 0
