"""The certificate that HTTPS is served with."""

import ssl
from pathlib import Path

from service.errors import SettingsError


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Load a certificate and its key.

    Raises:
        SettingsError: they cannot be read, or are not a pair.
    """
    for field, path in (("HUBEL_TLS_CERT", certificate), ("HUBEL_TLS_KEY", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{field} is {path}, which cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        what = "is not the key of" if error.reason == "KEY_VALUES_MISMATCH" else "cannot be used with"
        raise SettingsError(
            f"HUBEL_TLS_KEY ({key}) {what} HUBEL_TLS_CERT ({certificate}); both must be PEM, and the key without a "
            f"password: {error.reason or error}"
        ) from error
    return context
