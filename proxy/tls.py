"""The server's certificate: one place that turns two PEM files into what a listener needs."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

_log = logging.getLogger("proxy")
_KEPT = {"event": "certificate_kept"}


class BadPair(Exception):
    """A certificate or key that cannot be used. ``key`` is the setting to look at, ``because`` constant text."""

    def __init__(self, key: str, because: str) -> None:
        self.key = key
        self.because = because
        super().__init__(f"{key} {because}")


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for a listener: TLS 1.2 and newer, HTTP/1.1. Raises BadPair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load(context, certificate, key)
    return context


def load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Give the context this pair, for handshakes from now on; connections that are open keep theirs. Raises BadPair,
    and then the context may hold half of it: try a pair in a context of its own first."""
    for name, path in (("tls_cert", certificate), ("tls_key", key)):
        try:
            path.read_bytes()
        except OSError:
            raise BadPair(name, "cannot be read") from None
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise BadPair("tls_key", "does not belong to the certificate in tls_cert") from None
        raise BadPair("tls_key", "expected a certificate and its key in PEM") from None
    except (OSError, ValueError):
        raise BadPair("tls_key", "expected a certificate and its key in PEM, without a password") from None


def _no_password() -> str:
    """In place of OpenSSL's own question, which would wait at the terminal."""
    raise ValueError


class Certificate:
    """The certificate of the listener and its key, read again when the operator says so."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises BadPair."""
        self._certificate = certificate
        self._key = key
        self.context = server_context(certificate, key)

    def reload(self) -> None:
        """New handshakes get what the files hold now; when that cannot be used, what they got before."""
        try:
            server_context(self._certificate, self._key)
            load(self.context, self._certificate, self._key)
        except BadPair as error:
            _log.error("the certificate stays as it was: server.%s %s", error.key, error.because, extra=_KEPT)
        else:
            _log.info("the certificate was read again", extra={"event": "certificate"})


def reload(certificate: Certificate | None) -> None:
    """SIGHUP: all that can be read again while we run is the certificate."""
    if certificate is None:
        _log.info("nothing to read again: there is no tls_cert", extra={"event": "nothing_to_reload"})
    else:
        certificate.reload()
