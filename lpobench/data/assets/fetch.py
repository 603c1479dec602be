"""Getting assets: from the Hub, its mirrors and plain addresses, tried in turn; or a copy the user has.

The only module that uses the network, for `lpobench download` alone. It does not wait for ever: a connection that
is not made, or that falls silent, is cut after TIMEOUT seconds.
"""

from __future__ import annotations

import errno
import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from lpobench.data.assets.hashes import wrong_hash
from lpobench.data.assets.places import (
    given_place,
    how_to_give,
    hub_cache,
    note_place,
    noted_places,
    own_place,
    repo_cache,
    whole,
)
from lpobench.data.assets.table import Asset, human_size
from lpobench.plugin import MissingAsset, UserError

TIMEOUT = 20.0
"""Seconds."""
Say = Callable[[str], None]
Source = tuple[str, Callable[[], Path]]
"""The name of a source, and what downloads from it and returns the folder."""


class FullDisk(UserError):
    """The asset does not fit."""

    exit_code = 4


class UnavailableError(Exception):
    """One source does not have it, or does not answer: the next is tried. The message says which."""


def is_offline() -> bool:
    """Has the user switched the network off, by the variables that the Hub's own library reads?"""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def destination(asset: Asset, to: Path | None = None) -> Path:
    """Where a download would put it."""
    if to is not None:
        return to.expanduser() / asset.name.replace("/", "--")
    return repo_cache(asset.repo, asset.repo_type) if asset.repo else own_place(asset)


def take(asset: Asset, place: Path) -> Path:
    """Note the copy that a user has, once it is whole and its known hashes are right; returns what is located."""
    place = place.expanduser()
    path, lacking = whole(asset, place)
    if path is None:
        raise UserError(f"{place} is no {asset.name}: it {lacking}")
    if problem := wrong_hash(asset, place):
        raise UserError(f"{place} is no {asset.name}: {problem}")
    note_place(asset, place)
    return path


def fetch(asset: Asset, to: Path | None = None, say: Say = lambda line: None) -> Path:
    """Download an asset into the Hugging Face cache, or a folder of its own below `to`; returns what is located.

    Raises MissingAsset with the answer of every source, FullDisk, or UserError for a place that cannot be
    written to.
    """
    own = own_place(asset)
    if to is None and asset.repo and asset.name not in noted_places() and given_place(asset) == own:
        raise UserError(f"{own} is in the way, it {whole(asset, own)[1]}; complete it or take it away")
    _check_space(asset, to)
    answers = []
    for name, get in _sources(asset, to):
        say(f"{asset.name}: from {name}")
        try:
            with _told(destination(asset, to)):
                place = get()
        except UnavailableError as problem:
            answers.append(f"{name}: {problem}")
            continue
        path, problem = whole(asset, place)
        if path and not (problem := wrong_hash(asset, place, say, discard=True)):
            note_place(asset, place if to else None)
            return path
        answers.append(f"{name}: {problem}")
    answers = answers or [f"get it from {asset.page}"]
    raise MissingAsset(f"cannot download {asset.name}: {'; '.join(answers)}; {how_to_give(asset)}")


def _sources(asset: Asset, to: Path | None) -> Iterator[Source]:
    for repo, revision in asset.sources:
        yield repo, lambda repo=repo, revision=revision: _from_hub(asset, repo, revision, to)
    for url in asset.urls:
        folder = destination(asset, to) if to else own_place(asset)
        yield url, lambda url=url, folder=folder: _from_urls(asset, url, folder)


def _from_hub(asset: Asset, repo: str, revision: str | None, to: Path | None) -> Path:
    from huggingface_hub import HfApi, errors, snapshot_download
    from huggingface_hub.utils import get_session

    where = {"local_dir": destination(asset, to)} if to else {"cache_dir": hub_cache()}
    try:
        # The library's own first request would wait for ever.
        HfApi().repo_info(repo, repo_type=asset.repo_type, revision=revision, timeout=TIMEOUT)
        get_session().timeout = TIMEOUT
        for patterns in _allowed(asset):
            place = snapshot_download(
                repo, repo_type=asset.repo_type, revision=revision, allow_patterns=patterns, **where
            )
            if whole(asset, Path(place))[0]:
                break
        return Path(place)
    except errors.GatedRepoError as error:
        page = asset.hub_page
        raise MissingAsset(
            f"{asset.name} is gated: accept its licence at {page}, then `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UnavailableError(f"has no revision {revision}") from error
    except (errors.RepositoryNotFoundError, errors.DisabledRepoError) as error:
        raise UnavailableError("is not there, or is private") from error
    except errors.HfHubHTTPError as error:
        raise UnavailableError(f"answers {error.response.status_code}") from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise UnavailableError(f"cannot be reached ({type(error.__cause__ or error).__name__})") from error
    except errors.HFValidationError as error:
        raise UserError(f'"{repo}" is no name of a repository') from error


def _allowed(asset: Asset) -> list[list[str]]:
    """Patterns to download: with the first of each alternative, then, if need be, with all of them."""
    prefix = f"{asset.folder}/" if asset.folder else ""
    options = [pattern.split("|") for pattern in (*asset.needed, *asset.optional)]
    first = [prefix + option[0] for option in options]
    every = [prefix + pattern for option in options for pattern in option]
    return [first] if first == every else [first, every]


def _from_urls(asset: Asset, url: str, folder: Path) -> Path:
    """Download the asset's one file from its address, or all files from that of their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {file: url + quote(file) for file in asset.files} if url.endswith("/") else {asset.file: url}
    for file, address in files.items():
        _from_url(address, folder / file)
    return folder


def _from_url(url: str, path: Path) -> None:
    """Download a file into a folder that is there. An unfinished download never carries its name."""
    folder = path.parent
    with NamedTemporaryFile(dir=folder, prefix=".unfinished-", delete=False) as draft:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                shutil.copyfileobj(answer, draft, 1 << 20)
                draft.flush()
                if (size := answer.length) not in (None, 0):
                    raise UnavailableError(f"broke off {human_size(size)} before the end")
            os.chmod(draft.name, 0o644)  # it was made private
            os.replace(draft.name, path)
        except HTTPError as error:
            raise UnavailableError(f"answers {error.code}") from error
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            raise UnavailableError(f"cannot be reached ({getattr(error, 'reason', error)})") from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft.name)


def _check_space(asset: Asset, to: Path | None) -> None:
    """Raises FullDisk before anything is downloaded. Does not count what an earlier try has left."""
    place = destination(asset, to).absolute()
    if asset.size_bytes is None or place.exists():
        return
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < asset.size_bytes:
        raise FullDisk(
            f"{asset.name} needs {asset.size}, the disk of {place} has {human_size(free)} free; "
            "choose another folder with --to"
        )


@contextmanager
def _told(place: Path) -> Iterator[None]:
    """The disk's refusals in one line."""
    try:
        yield
    except OSError as error:
        elsewhere = "choose another folder with --to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDisk(f"no space left on the disk of {place}; {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"cannot write to {place}: {error.strerror}; {elsewhere}") from error
        raise
