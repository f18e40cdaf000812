"""A caching HTTP proxy between Python installers and PyPI. A map of the house, top to bottom:

    cli.py       serve, check; one line per mistake    config.py  settings (spelling.py: "20GB", "10m", URLs)
    app.py       puts everything together; the only module that knows everyone
    web/         talks to clients: routes, and the one translator between aiohttp and our values
    gateway.py   the spine: ask core, do I/O, ask core, do I/O (pages.py and files.py: one path each)
    fills.py     one upstream fetch per key, many followers of its growing spool file
    store.py     what is kept on disk, through diskcache (disk.py)
    upstream.py  one request to an upstream, streamed (egress.py: where it may connect)
    events.py    what happened, for the log      errors.py  what went wrong, whose fault, because of what
    core/        thinks and never waits: messages, urls, simple, conditions, freshness, decide
"""

__version__ = "0.1.0"
