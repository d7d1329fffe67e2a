"""A certificate authority of a test's own, and a certificate that it signs for this machine."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, kw_only=True)
class Certificates:
    authority: Path
    """The authority's certificate."""
    certificate: Path
    """The server's, for localhost and 127.0.0.1."""
    key: Path
    """The server's key."""


def certificates(folder: Path) -> Certificates:
    """PEM files in `folder`, which is created."""
    folder.mkdir(parents=True)
    root, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    made = Certificates(authority=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server.key")
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    issuer = _name("the tests' authority")
    own = _signed(issuer, issuer, root, root).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    served = _signed(_name("localhost"), issuer, server, root).add_extension(
        x509.SubjectAlternativeName(names), critical=False
    )
    pem = serialization.Encoding.PEM
    made.authority.write_bytes(own.sign(root, hashes.SHA256()).public_bytes(pem))
    made.certificate.write_bytes(served.sign(root, hashes.SHA256()).public_bytes(pem))
    secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    made.key.write_bytes(server.private_bytes(pem, *secret))
    return made


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _signed(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    return made.add_extension(identifier, critical=False).add_extension(authority, critical=False)
