"""The TLS keys of one cluster: whoever has them can run code as its user, and nobody else can connect."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.security import Security

__all__ = [
    "KEY_VARIABLES",
    "Credentials",
    "TlsFiles",
    "dask_environment",
    "make_credentials",
    "tls_arguments",
]

_ROLES = ("scheduler", "worker", "client")
KEY_VARIABLES = tuple(f"DASK_DISTRIBUTED__COMM__TLS__{role.upper()}__KEY" for role in _ROLES)
"""The variables from which Dask takes the private key, as PEM text."""
_LIFETIME = timedelta(days=3650)
_CLOCK_SKEW = timedelta(days=1)
"""Machines of one cluster may not agree on the time."""


@dataclass(frozen=True)
class TlsFiles:
    """Paths of a cluster's certificate authority, certificate and private key."""

    ca_file: str
    cert: str
    key: str

    @classmethod
    def within(cls, directory: Path) -> TlsFiles:
        """Return the paths in a directory to which `Credentials.write` writes."""
        cert = str(directory / "cert.pem")
        # The certificate is its own authority: it has signed itself, and nothing else.
        return cls(cert, cert, str(directory / "key.pem"))

    def security(self) -> Security:
        """Return the configuration of scheduler and clients that read these files."""
        return _security(self.cert, self.key)


@dataclass(frozen=True)
class Credentials:
    """A certificate and its private key, which scheduler, workers and clients of one cluster share.

    Parameters
    ----------
    cert, key : str
        In PEM format. Dask takes them in place of paths, in configuration and environment variables as well.
    """

    cert: str
    key: str = field(repr=False)

    def security(self) -> Security:
        """Return the configuration of scheduler and clients in this process, which needs no file."""
        return _security(self.cert, self.key)

    def write(self, directory: Path) -> TlsFiles:
        """Create a directory that only its owner can read, and write the files for workers into it.

        Raises
        ------
        OSError
            The directory exists, or cannot be written.
        """
        directory.mkdir(mode=0o700)
        files = TlsFiles.within(directory)
        _write_private(files.cert, self.cert)
        _write_private(files.key, self.key)
        return files


def make_credentials() -> Credentials:
    """Return new credentials, which no other cluster has.

    Dask's own, `distributed.Security.temporary`, have an RSA key, which takes longer to make and at each connection.

    Examples
    --------
    >>> credentials = make_credentials()
    >>> credentials.cert.splitlines()[0], credentials.key.splitlines()[0]
    ('-----BEGIN CERTIFICATE-----', '-----BEGIN PRIVATE KEY-----')
    """
    # Only a cluster that is being built needs them.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = generate_private_key(SECP256R1())
    # Dask checks that the authority has signed a certificate, and no host names (distributed.security.Security).
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scalable")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Credentials(certificate.public_bytes(Encoding.PEM).decode(), private.decode())


def tls_arguments(files: TlsFiles) -> list[str]:
    """Return the arguments of ``dask worker`` and ``dask scheduler`` for these files.

    Examples
    --------
    >>> tls_arguments(TlsFiles("/run/ca.pem", "/run/cert.pem", "/run/key.pem"))
    ['--tls-ca-file', '/run/ca.pem', '--tls-cert', '/run/cert.pem', '--tls-key', '/run/key.pem']
    """
    return ["--tls-ca-file", files.ca_file, "--tls-cert", files.cert, "--tls-key", files.key]


def dask_environment(certificate: str) -> dict[str, str]:
    """Return the variables by which Dask requires TLS, without those of the private key, `KEY_VARIABLES`.

    Parameters
    ----------
    certificate : str
        The certificate, as PEM text.
    """
    own = {f"DASK_DISTRIBUTED__COMM__TLS__{role.upper()}__CERT": certificate for role in _ROLES}
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": certificate,
        **own,
    }


def _security(cert: str, key: str) -> Security:
    from distributed.security import Security

    pairs = {
        f"tls_{role}_{part}": text
        for role in _ROLES
        for part, text in (("cert", cert), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=cert, **pairs)


def _write_private(path: str, text: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        # The error of a write over quota has no file name.
        error.filename = path
        raise
