"""The request of a client, sent on through a mount: its lines as they came, and its body as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter

from proxy.core.messages import Headers
from proxy.errors import ProxyError, UpstreamFailed
from proxy.replies import passing

# Where a request goes and how it is framed is ours to say; and we send the body without waiting for a 100 (Continue),
# as RFC 9110 §10.1.1 allows, so nothing is expected.
_OURS = frozenset({"host", "content-length", "transfer-encoding", "expect"})
# RFC 4559 §6: they hold for a connection, and a proxy "must take care to not share authenticated connections between
# different authenticated clients".
_OF_A_CONNECTION = frozenset({"ntlm", "negotiate"})


def lines(headers: Headers) -> Headers:
    """The lines as they go out: all but those that are ours, in their order and spelling. aiohttp writes UTF-8: octets
    that are some stay as they are (RFC 9110 §5.5: what they mean is not ours to say)."""
    return tuple((name, _octets(value)) for name, value in headers if not _stays(name.lower(), value))


def _stays(name: str, value: str) -> bool:
    return name in _OURS or (name == "authorization" and value.partition(" ")[0].lower() in _OF_A_CONNECTION)


def _octets(value: str) -> str:
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class Body(aiohttp.Payload):
    """Chunks that are sent as they come, once. ``length`` in bytes, None for chunked framing; ``stall`` is how many
    seconds the upstream may take nothing. The connection is cut, and never ended cleanly, when ``chunks`` raise, hold
    another length, or nobody wants the answer any more.

    ``broken`` is what kept it from being sent whole, None when nothing of ours did. ``limit`` is on the wait for a
    head: it stands still while the body is sent, and then counts ``within`` seconds.
    """

    def __init__(self, chunks: AsyncIterator[bytes], length: int | None, *, stall: float, within: float) -> None:
        super().__init__(chunks)
        self.broken: ProxyError | None = None
        self.limit: asyncio.Timeout | None = None
        self._chunks = chunks
        self._length = length
        self._stall = stall
        self._within = within
        self._sending: asyncio.Task[None] | None = None

    @property
    def size(self) -> int | None:
        """What Content-Length says."""
        return self._length

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """aiohttp asks for it where a body is shown: never."""
        raise TypeError("a body that is not here yet")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it."""
        await self.write_with_length(writer, self._length)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send all of it; aiohttp runs this in a task of its own, beside the wait for an answer."""
        assert isinstance(writer, StreamWriter)
        protocol = writer.protocol
        assert isinstance(protocol, ResponseHandler)
        self._sending = asyncio.current_task()
        # An origin that overlooks the body takes it for the next request: that must not be somebody else's.
        protocol.force_close()
        # An interim response starts this clock, and then it would run while it is not the upstream's turn.
        idle, protocol.read_timeout = protocol.read_timeout, None
        try:
            self._wait(None)
            await self._send(writer)
            self._wait(self._within)
        except BaseException:
            if writer.transport is not None:
                writer.transport.abort()
            raise
        finally:
            protocol.read_timeout = idle

    async def _send(self, writer: StreamWriter) -> None:
        missing = self._length
        while (chunk := await self._next()) is not None:
            if missing is not None:
                missing -= len(chunk)
                if missing < 0:
                    break
            try:
                async with asyncio.timeout(self._stall):
                    await writer.write(chunk)
            except TimeoutError:
                self.broken = passing("the upstream stopped reading")
                raise self.broken from None
            finally:
                # Time to hear an answer, also where chunks lie ready and no write ever waits; and, where one fails, to
                # hear it before the failure.
                await asyncio.sleep(0)
        if missing:
            self.broken = UpstreamFailed("an upload of another length than declared")
            raise self.broken

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._chunks, None)
        except ProxyError as error:
            self.broken = error
            raise
        except Exception:
            self.broken = UpstreamFailed("the upload broke")
            raise

    def _wait(self, seconds: float | None) -> None:
        if self.limit is not None:
            self.limit.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    async def ended(self) -> None:
        """Nobody reads the chunks any more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait({self._sending})
            if not self._sending.cancelled():
                self._sending.exception()  # whoever waits for the answer knows; else asyncio would write it to the log
