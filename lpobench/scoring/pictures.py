"""A folder of generated images: what is there stays, and is found by prompt and number.

How it lies there is said in records/pictures.py. An image counts once its manifest is there, which is written after it,
and as long as it has the hash that stands in it. Any number of processes may add to a folder, each images of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lpobench.data.pairs.image import BadImage, decode
from lpobench.data.pairs.shards import write_atomic
from lpobench.hashing import file_sha256
from lpobench.plugin import UserError
from lpobench.records.pictures import IMAGES, MANIFEST, Key, noted, path_of
from lpobench.types import Prompt

Wanted = tuple[Prompt, int]


class Damaged(UserError):
    """A file that was whole a moment ago is not."""

    exit_code = 4


def key_of(image: Wanted) -> Key:
    return image[0].id, image[1]


@dataclass(frozen=True)
class Pictures:
    """The images in a folder."""

    folder: Path

    def path(self, key: Key) -> Path:
        return path_of(self.folder, key)

    def present(self, wanted: Sequence[Wanted]) -> dict[Key, str]:
        """SHA-256 of those that are here and whole; reads all of them."""
        recorded = noted(self.folder)
        found = {}
        for image in wanted:
            key = key_of(image)
            if (known := recorded.get(key)) and self.path(key).is_file():
                digest = file_sha256(self.path(key))
                if digest in known:
                    found[key] = digest
        return found

    def listed(self, wanted: Sequence[Wanted]) -> dict[Key, str]:
        """What the manifests say of them; a file is only read where they say two things."""
        keys = {key_of(image) for image in wanted}
        recorded = {key: known for key, known in noted(self.folder).items() if key in keys}
        several = [image for image in wanted if len(recorded.get(key_of(image), ())) > 1]
        return {key: next(iter(known)) for key, known in recorded.items() if len(known) == 1} | self.present(
            several
        )

    def add(
        self, images: Sequence[Wanted], pixels: UInt8[np.ndarray, "n H W 3"], scratch: Path
    ) -> dict[Key, str]:
        """Write some images, and then that they are whole. Same images, same bytes."""
        (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).mkdir(exist_ok=True)
        lines, digests = [], {}
        for (prompt, index), picture in zip(images, pixels, strict=True):
            path, data = self.path((prompt.id, index)), png(picture)
            write_atomic(path, data, scratch, sync=False)
            digests[prompt.id, index] = hashlib.sha256(data).hexdigest()
            line = {"file": path.name, "prompt_id": prompt.id, "image": index, "prompt": prompt.text}
            lines.append(json.dumps(line | {"sha256": digests[prompt.id, index]}, ensure_ascii=False) + "\n")
        write_atomic(self._manifest(images), "".join(lines).encode(), scratch)
        return digests

    def were_made(self, images: Sequence[Wanted]) -> bool:
        """Whether these were once made together."""
        return self._manifest(images).exists()

    def read(self, key: Key, sha256: str) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels of an image that is present. Raises Damaged."""
        try:
            data = self.path(key).read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return decode(data)
        except (OSError, BadImage):
            pass
        raise Damaged(f"{self.path(key)} has changed since it was made: the same command makes it again")

    def _manifest(self, images: Sequence[Wanted]) -> Path:
        return self.folder / MANIFEST / f"{short_hash([key_of(image) for image in images])}.jsonl"


def png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """As a PNG file; packed lightly, since it is read again at once."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def short_hash(value: object) -> str:
    """16 hex digits of a JSON value."""
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()
