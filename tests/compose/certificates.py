"""Certificates made with openssl: an authority, and a leaf for a name."""

from stack import run


def own_certificate(folder, name):
    """The files (certificate with its authority, key, authority) for `name`."""
    root, root_key, request = folder / "own-root.pem", folder / "own-root.key", folder / "own.csr"
    leaf, key, chain, extension = folder / "own.pem", folder / "own.key", folder / "own-chain.pem", folder / "own.ext"
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("openssl", "req", "-x509", *new_key, "-days", "2", "-subj", "/CN=Own root", "-keyout", root_key, "-out", root)
    run("openssl", "req", *new_key, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    extension.write_text(f"subjectAltName=DNS:{name}\n")
    signed_by = ["-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", "2", "-extfile", extension]
    run("openssl", "x509", "-req", "-in", request, *signed_by, "-out", leaf)
    chain.write_text(leaf.read_text() + root.read_text())
    return chain, key, root
