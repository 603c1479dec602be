"""The SHA-256 of a file."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Of its content, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
