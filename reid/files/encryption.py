"""Model files encrypted on the disk and authenticated: a wrong key or a changed byte is noticed.

Layout: the magic, the scrypt salt (16 bytes), a nonce prefix (7 bytes), then chunks of AES-256-GCM, each with the nonce
prefix | counter (4 bytes) | last (1 byte): the STREAM construction (Hoang et al., CRYPTO 2015), so that chunks can be
neither reordered nor cut off at the end. The key is derived from the pass phrase by scrypt (N 2**15, r 8, p 1).
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from reid.errors import ArtifactError, KeyRefused
from reid.files.secrets import KEY_ENVIRONMENT, encryption_key
from reid.files.writing import replacing

MAGIC = b"REIDENC1"
SALT_BYTES, PREFIX_BYTES, TAG_BYTES = 16, 7, 16
CHUNK_BYTES = 1 << 20


def is_encrypted(path: Path) -> bool:
    """Whether the file begins like one that `encrypt` wrote."""
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def require_encrypted(path: Path) -> None:
    """Raises KeyRefused if the file is plain, although this process has a key and does not say that it accepts those.

    Else anybody who may write the folder could put another model in the place of one whose key they do not have.
    """
    if encryption_key() and path.is_file() and not is_encrypted(path):
        raise KeyRefused(
            f"{path}: not encrypted, and an encryption key is given\n"
            "  want: a file that was encrypted with the key; if you trust this one, reid adopt -e SPEC FILE encrypts "
            f"it, if it is a checkpoint; or neither encryption_key nor {KEY_ENVIRONMENT}"
        )


def encrypt(source: IO[bytes], target: IO[bytes], key: str) -> None:
    """Copies source to target, encrypted under the pass phrase."""
    salt, prefix = os.urandom(SALT_BYTES), os.urandom(PREFIX_BYTES)
    target.write(MAGIC + salt + prefix)
    cipher = _cipher(key, salt)
    for nonce, chunk in _chunks_with_nonces(source, CHUNK_BYTES, prefix):
        target.write(cipher.encrypt(nonce, chunk, MAGIC))


def decrypt(path: Path, key: str | None) -> io.BytesIO:
    """The plain content of an encrypted file.

    Raises KeyRefused if no key is given, if the key is wrong, or if the file was changed or cut; by design the last
    two cannot be told apart.
    """
    if not key:
        raise KeyRefused(f"{path}: encrypted, and no key is given\n  want: encryption_key, or {KEY_ENVIRONMENT} set")
    plain = io.BytesIO()
    with path.open("rb") as stream:
        header = stream.read(len(MAGIC) + SALT_BYTES + PREFIX_BYTES)
        salt, prefix = header[len(MAGIC) : len(MAGIC) + SALT_BYTES], header[len(MAGIC) + SALT_BYTES :]
        if header[: len(MAGIC)] != MAGIC or len(prefix) != PREFIX_BYTES:
            raise ArtifactError(
                f"{path}: not an encrypted file of this project\n  want: one that begins with {MAGIC!r}"
            )
        cipher = _cipher(key, salt)
        try:
            for nonce, chunk in _chunks_with_nonces(stream, CHUNK_BYTES + TAG_BYTES, prefix):
                plain.write(cipher.decrypt(nonce, chunk, MAGIC))
        except InvalidTag:
            raise KeyRefused(f"{path}: the key is not the one it was encrypted with, or the file was changed") from None
    plain.seek(0)
    return plain


def write_model(path: Path, content: bytes, *, key: str | None) -> None:
    """Writes a model file whole or not at all, encrypted if there is a key: nothing plain is ever on the disk."""
    with replacing(path) as partial, partial.open("wb") as stream:
        if key is None:
            stream.write(content)
        else:
            encrypt(io.BytesIO(content), stream, key)


def read_model(path: Path) -> bytes:
    """A model file's plain content, decrypted in memory with this process's key if it is encrypted."""
    return decrypt(path, encryption_key()).getvalue() if is_encrypted(path) else path.read_bytes()


def _cipher(key: str, salt: bytes) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=2**15, r=8, p=1).derive(key.encode()))


def _chunks_with_nonces(stream: IO[bytes], size: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields (nonce, chunk), at least once; the nonce holds the chunk's number and whether it is the last."""
    chunk, number = stream.read(size), 0
    while True:
        following = stream.read(size)
        yield prefix + number.to_bytes(4, "big") + (b"\0" if following else b"\1"), chunk
        if not following:
            return
        chunk, number = following, number + 1
