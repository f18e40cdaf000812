"""The clients of the long day, a process of its own: ``python -m tests.promises.soakload PLACE`` (JSON, see ``Place``).

Clients of every kind ask without a rest, and look at each answer: its status, its bytes, its hash. Told ``rest`` on
standard input they end what they do, close their connections, and say that they do; ``go``, and they go on;
``purging``: until ``purged`` nothing is known to be kept. To ``tell`` they say how much they have asked so far, and at
the end of the input what came of it all, in lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import fields

from tests.promises.soakasking import Place, Rest, Tally, granted
from tests.promises.soakwishes import Known, Visitor


async def visits(visitor: Visitor, tally: Tally, rest: Rest) -> None:
    """Wish after wish until the end."""
    while not rest.ended:
        await rest.going.wait()
        await granted(*visitor.wish(), tally, rest, visitor.had)


async def obey(visitors: Sequence[Visitor], known: Known, tally: Tally, rest: Rest) -> None:
    """Do what is said, until nothing more is."""
    said = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), sys.stdin)
    while line := await said.readline():
        match line.decode().strip():
            case "rest":
                await rest.pause()
                for each in visitors:
                    each.connection.close()
                print("true", flush=True)
            case "tell":
                print(tally.requests, flush=True)
            case "go":
                rest.going.set()
            case "purging":
                known.purging()
                print("true", flush=True)
            case "purged":
                known.purged()


async def main(place: Place) -> Tally:
    """All of them at one time."""
    known, tally, rest = Known(), Tally(), Rest()
    visitors = [Visitor(place, known, tally, 1000 * place.seed + number) for number in range(place.clients)]
    async with asyncio.TaskGroup() as clients:
        for each in visitors:
            clients.create_task(visits(each, tally, rest))
        await obey(visitors, known, tally, rest)
        rest.ended = True
        rest.going.set()
    return tally


if __name__ == "__main__":
    came = asyncio.run(main(Place(**json.loads(sys.argv[1]))))
    print(json.dumps({each.name: getattr(came, each.name) for each in fields(came)}), flush=True)
