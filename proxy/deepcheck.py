"""``check --deep``: everything that is cached is read and verified, and what is damaged is removed.

Where no server holds the directory it is done here and now; a server does it by itself, and is told that it is time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from proxy.pipwords import shown, size
from proxy.rounds import MARK_NAME, Round
from proxy.store import Store

if TYPE_CHECKING:
    from proxy.sections import Cache

EX_DATAERR = 65


def run(cache: Cache) -> int:
    """Verify the directory, say what came of it, and return the exit code: 65 when something was damaged. Raises
    OwnedElsewhere when a process holds the directory, StoreFailed when it cannot be used, OSError when it cannot be
    read."""
    directory = cache.dir
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        went = Round()
    else:
        # What goes wrong is said here, in one line each.
        logging.getLogger("proxy").addHandler(logging.NullHandler())
        went = asyncio.run(_verified(cache))
    for each in went.damaged:
        print(f"damaged    {shown(each)}: removed")
    for each in went.left:
        print(f"unread     {each}")
    verdict = "" if went.damaged or went.left else ", all as they were kept"
    print(f"verified   {went.bodies} files and {went.rows} rows, {size(went.bytes)}{verdict}")
    return EX_DATAERR if went.damaged or went.left else 0


async def _verified(cache: Cache) -> Round:
    store = await Store.open(
        cache.dir,
        max_size=cache.max_size,
        responses_max_size=cache.responses_max_size,
        mounts_max_size=cache.mounts_max_size,
        min_free=cache.min_free,
        sweep=False,
    )
    try:
        went = await store.rounds.thorough()
        await store.swept()
        return went
    finally:
        await store.close()


def ask_owner(cache: Cache) -> str:
    """Tell the server that holds the directory to verify it now; what came of that."""
    if cache.verify_every <= 0:
        return "which never verifies all of it (cache.verify_every); stop it to do that here"
    (cache.dir / MARK_NAME).unlink(missing_ok=True)
    return "which verifies all of it from now on, within a minute: see its log (event verified)"
