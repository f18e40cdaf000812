"""Certificates for a proxy that speaks HTTPS, and the authority that clients have to trust for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM files: ``certificate`` with its chain, its ``key``, and the ``authority`` that signed it."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def settings(self) -> dict[str, str]:
        """What goes into ``[server]``."""
        return {"tls_cert": str(self.certificate), "tls_key": str(self.key)}

    def trust(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.authority))


def pair(directory: Path, *names: str, authority: trustme.CA | None = None) -> Pair:
    """Writes a new certificate for these names (``NAMES``) into the directory, over the one that was there."""
    directory.mkdir(parents=True, exist_ok=True)
    signed_by = trustme.CA() if authority is None else authority
    issued = signed_by.issue_cert(*(names or NAMES))
    made = Pair(*(directory / f"{name}.pem" for name in ("cert", "key", "ca")))
    made.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(made.key))
    signed_by.cert_pem.write_to_path(str(made.authority))
    return made
