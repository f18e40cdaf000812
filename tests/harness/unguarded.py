"""``python -m tests.harness.unguarded PYTHON -m proxy …``: that command without the wall at its sockets, to show what
the wall is for. Goes before the command of a ProxyServer as its ``prefix``."""

from __future__ import annotations

import runpy
import sys

from proxy import egress

if __name__ == "__main__":
    vars(egress).update(permitted=lambda *_, **__: True, admit=lambda *_, **__: None)
    sys.argv = sys.argv[3:]
    runpy.run_module("proxy", run_name="__main__")
