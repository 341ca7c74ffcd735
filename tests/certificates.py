"""Certificates as files, of an authority that is made for one test."""

from pathlib import Path

import trustme

OURS, THEIRS = trustme.CA(), trustme.CA()


def issue(folder: Path, name: str, authority: trustme.CA, host: str) -> tuple[Path, Path]:
    """Write a certificate for `host` and its key."""
    leaf, cert, key = authority.issue_cert(host), folder / f"{name}.pem", folder / f"{name}.key"
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    return cert, key


def issue_all(folder: Path) -> dict[str, Path]:
    """Write files by name: ca, theirs; server, elsewhere, client and stranger with a key each."""
    files = {"ca": folder / "ca.pem", "theirs": folder / "theirs.pem"}
    OURS.cert_pem.write_to_path(files["ca"])
    THEIRS.cert_pem.write_to_path(files["theirs"])
    for name, authority, host in (
        ("server", OURS, "127.0.0.1"),
        ("elsewhere", OURS, "triton.example"),
        ("client", OURS, "client.example"),
        ("stranger", THEIRS, "client.example"),
    ):
        files[name], files[f"{name} key"] = issue(folder, name, authority, host)
    return files
