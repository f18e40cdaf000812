"""A caching HTTP proxy between Python installers and PyPI. A map of the house, top to bottom:

cli.py       the command: serve, check; cache: cachecommand (cacheoptions, pipwords: pip's words), on a server (remote)
             or on the directory itself (unserved)             config.py  settings (sections: all keys; spelling; tls)
app.py       puts everything together; the only module that knows everyone (rules, sites: what settings mean; listening:
             sockets; entrance, descriptors: who is let in; startline, address: where to find us; heap: memory
             that goes back; admintoken; deepcheck)
web/         talks to clients: gate, routes, listener (connection: one of them), problems, forwarded (what front proxies
             say), and the translators between aiohttp and our values: translate (in; uploads: bodies), sending (out;
             outlet: files). What was asked before: lane (as its bytes come in), hot (answers ready for it). Operations:
             health, landing (clients, static/), metrics (vitals, exposition, families), admin (adminroutes: its table;
             access: tokens; asked, questions, answers, models, facts: its words; looks, changes, explain: its work;
             openapi)
gateway.py   the spine: ask core, do I/O, ask core, do I/O. A page: pages, lookups (asking, futile; turns: two looks at
             one), outcomes, manifests, renditions (derivations, codings); a file: wanted, files (filebodies,
             filereplies), metadata (extraction, wheelfile); a project list: lists, listbodies, conversion; the JSON
             API: jsonapi, documents. Mounts: mounts, looks (looking: who shares one), shelf (variants), mountrequests,
             mountanswers. again: how warm answers are given once more. For operators: refreshes; explanations
             (foretold; unasked: the same rooms, asking nobody)
fills.py     one upstream fetch per key, many followers of its growing spool file (plan, fill, follower; source:
             resumed where it broke; segments: where its bytes lie; flights: small answers)
store.py     what is kept: rows in diskcache (rows, room, disk, entries, memory; ahead: being written; athand: told at
             once), bodies as files (adoption, bodies, directory), what goes (eviction, sweep), whether it is what was
             kept (verification, rounds, soundness), and the threads for it (workers). For operators: inventory
             (listed, stock, sums, kept), fence (what was removed stays so), ballast, unlogged (a full disk), onlooker
upstream.py  one request to an upstream, streamed (hops, calls, uploads, connections, replies, unpacking; egress: where
             it may connect; rests, breaker: who is left alone for now)
credentials.py  how an index knows us: Basic, Bearer, netrc
events.py    what happened, for log.py and metrics    answer.py  what a client gets    errors.py  whose fault, and why
failpoints.py  where tests kill the process
core/        thinks and never waits. Words: messages, urls, wheels, fields, ranges, wishes, patterns. The Simple API:
             simple, hypertext, negotiation (a list of projects: projects, anchors, projectwriters); the JSON API:
             jsonapi. Mounts: mounted, passing, variants. To do: lifetime, judge, freshness, conditions, decide
"""

__version__ = "0.1.0"
