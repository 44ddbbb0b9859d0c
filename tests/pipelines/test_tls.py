import socket
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipelines.data import fetch as fetch_module
from pipelines.data import url_policy
from pipelines.data.fetch import fetch
from pipelines.data.url_policy import Refused, UrlPolicy
from tests.pipelines.web import body, drip, web

STRICT = UrlPolicy(max_bytes=1000, timeout_s=1.0)


def self_signed(folder: Path, host: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for this host name, and a client's that trusts its certificate."""
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
    return server, ssl.create_default_context(cafile=str(pem))


def reason(url: str, policy: UrlPolicy) -> str:
    with pytest.raises(Refused) as refused:
        fetch(url, policy)
    return refused.value.reason


def test_tls_checks_the_name_in_the_url_and_not_the_pinned_address(tmp_path, monkeypatch):
    server, client = self_signed(tmp_path, "pictures.invalid")
    monkeypatch.setattr(url_policy, "resolve", lambda host, port: ("127.0.0.1",))
    policy = replace(STRICT, allow_hosts=("pictures.invalid", "other.invalid"))
    with web({"/x": body(b"ok"), "/drip": drip}, server) as address:
        good = address.replace("127.0.0.1", "pictures.invalid")
        assert reason(f"{good}/x", policy) == "tls"  # no authority signed it
        monkeypatch.setattr(fetch_module, "tls_context", lambda: client)
        assert fetch(f"{good}/x", policy).body == b"ok"
        assert reason(f"{good}/drip", replace(policy, timeout_s=0.3)) == "timeout"
        assert reason(f"{address}/x".replace("127.0.0.1", "other.invalid"), policy) == "tls"


def test_a_tls_handshake_that_never_ends_times_out_on_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert reason(url, replace(STRICT, allow_hosts=("127.0.0.1",), timeout_s=0.3)) == "timeout"
        assert time.monotonic() - began < 1.5
