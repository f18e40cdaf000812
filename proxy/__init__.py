"""A caching HTTP proxy between Python installers and PyPI. A map of the house, top to bottom:

cli.py       the command                         config.py  settings (spelling.py: "20GB", "10m", URLs)
app.py       puts everything together; the only module that knows everyone
web/         talks to clients: gate, routes, and the one translator between aiohttp and our values
gateway.py   the spine: ask core, do I/O, ask core, do I/O (pages.py, lists.py, files.py: one path each)
fills.py     one upstream fetch per key, many followers of its growing spool file (fill.py: one of them)
store.py     what is kept: rows in diskcache (room.py, disk.py), bodies as files (bodies.py, directory.py)
upstream.py  one request to an upstream, streamed (egress.py: where it may connect)
events.py    what happened, for log.py      answer.py  what a client gets      errors.py  whose fault, and why
core/        thinks and never waits: messages, urls, simple, conditions, freshness, decide
"""

__version__ = "0.1.0"
