import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.pipelines.fetching import LIMITS, LOOPBACK, STRICT, fetch, reason
from tests.pipelines.web import body, drip, web

HASTY = replace(LIMITS, timeout_s=0.3)


def self_signed(folder: Path, host: str) -> tuple[ssl.SSLContext, Path]:
    """A server's context for this host name, and a file of its certificate, for clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, pem


def loopback(host: str, port: int) -> tuple[str, ...]:
    return ("127.0.0.1",)


def test_tls_checks_the_name_in_the_url_and_not_the_pinned_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority = self_signed(tmp_path, "pictures.invalid")
    policy = replace(STRICT, allow_hosts=("pictures.invalid", "other.invalid"))
    with web({"/x": body(b"ok"), "/drip": drip}, server) as address:
        good = address.replace("127.0.0.1", "pictures.invalid")
        assert reason(f"{good}/x", policy, resolve=loopback) == "tls"  # no authority signed it
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert fetch(f"{good}/x", policy, resolve=loopback).body == b"ok"
        assert reason(f"{good}/drip", policy, HASTY, loopback) == "timeout"
        other = address.replace("127.0.0.1", "other.invalid")
        assert reason(f"{other}/x", policy, resolve=loopback) == "tls"
        assert reason(f"{address}/x", LOOPBACK) == "tls"  # the certificate is for no address


def test_a_tls_handshake_that_never_ends_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert reason(url, limits=HASTY) == "timeout"
