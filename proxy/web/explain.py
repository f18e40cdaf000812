"""The way of a request through the door, gone in thought: gate, operations, data plane."""

from __future__ import annotations

from collections.abc import Collection

from multidict import MultiMapping

from proxy.errors import Refused
from proxy.explanations import refused
from proxy.foretold import Explanation
from proxy.gateway import Gateway
from proxy.web.gate import admit
from proxy.web.translate import request_of


class Explainer:
    """Explains any request. ``operations`` are the paths that are no part of the data plane, the others are as
    ``Door`` has them."""

    def __init__(
        self,
        gateway: Gateway,
        operations: Collection[str],
        *,
        indexes: Collection[str],
        default: str,
        hosts: Collection[str],
        mounts: Collection[str] = (),
    ) -> None:
        self._gateway = gateway
        self._operations = operations
        self._indexes = indexes
        self._default = default
        self._hosts = hosts
        self._mounts = mounts

    async def explain(self, method: str, raw_target: str, headers: MultiMapping[str], root: str = "") -> Explanation:
        """What would become of it; ``headers`` are the client's (without a Host it is one that is served), ``root`` is
        as for ``translated``. Raises nothing for what would be refused: that is explained, too."""
        path = raw_target.partition("?")[0]
        hosts = self._hosts if "Host" in headers else ()
        try:
            admit(method, raw_target, (1, 1), headers, hosts, self._mounts)
            if ("/admin" if path.startswith("/admin/") else path) in self._operations:
                return Explanation(method, path, "operation", "operation", "an operation, no part of the cache")
            request = request_of(method, raw_target, headers, self._indexes, self._default, root, self._mounts)
        except Refused as refusal:
            return refused(Explanation(method, path, "nothing", "refuse", refusal.because), refusal)
        return await self._gateway.explain(request)
