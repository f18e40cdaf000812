"""``python -m proxy`` is the command ``pip-cache-proxy``."""

from proxy.cli import main

raise SystemExit(main())
