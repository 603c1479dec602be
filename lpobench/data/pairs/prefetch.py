"""Reading, decoding and resizing images in threads, ahead of whoever computes on them."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lpobench.data.pairs.image import BadImage, decode, image_hash

T = TypeVar("T")
UNREADABLE = "an image's row cannot be read"


@dataclass(frozen=True)
class Picture:
    """An image on its way; without `pixels` it cannot be used, and `problem` says why."""

    place: int
    """2 * position of the pair in the table + side."""
    sha256: str | None
    """Of the encoded file; None where there is no file."""
    pixels: UInt8[np.ndarray, "H W 3"] | None
    problem: str | None = None


def picture(place: int, data: bytes | None, size: int | None) -> Picture:
    """Decode an image and resize it to `size` x `size` (None: leave it as it is)."""
    if data is None:
        return Picture(place, None, None, UNREADABLE)
    digest = image_hash(data)
    try:
        pixels = decode(data)
    except BadImage as bad:
        return Picture(place, digest, None, str(bad))
    return Picture(place, digest, pixels if size is None else resized(pixels, size))


def resized(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Bilinear, smoothed when it shrinks, aspect ratio not kept: as the released LRM training does."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def pictures(
    files: Iterable[tuple[int, bytes | None]], size: int | None, repair: Callable[[Picture], Picture]
) -> Iterator[Picture]:
    """The images in order; all of it happens in other threads, a bounded number of images ahead.

    `repair` is asked for a better copy of each that is bad.
    """
    workers = min(8, os.cpu_count() or 1)

    def decoded() -> Iterator[Picture]:
        with ThreadPoolExecutor(workers, "decode") as pool:
            waiting: deque[Future[Picture]] = deque()
            for place, data in files:
                waiting.append(pool.submit(picture, place, data, size))
                if len(waiting) > 4 * workers:
                    yield sound(waiting.popleft().result())
            while waiting:
                yield sound(waiting.popleft().result())

    def sound(found: Picture) -> Picture:
        return repair(found) if found.pixels is None else found

    return ahead(decoded, 64)


def ahead(make: Callable[[], Iterator[T]], depth: int) -> Iterator[T]:
    """The items of `make()`, which runs in its own thread, at most `depth` ahead. Its errors are raised here."""
    items: queue.Queue = queue.Queue(depth)
    stop, end = threading.Event(), object()

    def put(item: object) -> bool:
        while not stop.is_set():
            try:
                items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in make():
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # raised again where the items are read
            put((end, error))

    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
