"""Pick-a-Pic's parquet straight from the Hub: nothing is kept on the disk.

`datasets` says which files a repository's data are, and its file system reads them. The rows are then read as those
of local files are, so only the needed columns of the needed row groups travel, a reader goes on at any row
without fetching the earlier ones, and each rank fetches its own share.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from lpobench.data import assets
from lpobench.data.pairs.files import DataFile
from lpobench.data.pairs.parquet import ParquetPairs
from lpobench.data.pairs.splits import split_of
from lpobench.plugin import MissingAsset, UserError

TIMEOUT = 20.0
"""Seconds."""


def from_hub(source: str, split: str | None) -> ParquetPairs:
    """Open a data set of the table, or a repository `org/name[@revision]`, original before mirrors."""
    if source not in assets.names("dataset") and not assets.HUB_ID.fullmatch(source):
        known = ", ".join(assets.names("dataset"))
        raise UserError(
            f'only a data set of the Hub can be streamed, got "{source}"; org/name, or one of {known}'
        )
    answers = []
    for repo, revision in assets.find(source).sources:
        try:
            return ParquetPairs(source, remote_files(repo, revision, split), split)
        except ConnectionError as error:
            answers.append(f"{repo}: {error}")
    raise MissingAsset(
        f"cannot stream {source}: {'; '.join(answers)}; a copy on this machine can be given as a path"
    )


def remote_files(repo: str, revision: str | None, split: str | None = None) -> list[DataFile]:
    """The parquet files of a repository; of one split where the names say it. Raises ConnectionError."""
    try:
        from datasets import load_dataset_builder
        from fsspec.core import url_to_fs
        from huggingface_hub.errors import HTTPError
    except ModuleNotFoundError as error:
        raise MissingAsset(f"streaming needs {error.name}: install lpobench[data]") from error
    failures = (OSError, HTTPError)
    try:
        _reach(repo, revision)
        found = load_dataset_builder(repo, revision=revision).config.data_files or {}
        urls = [
            (split_of(PurePosixPath(url)) or str(key), url) for key, urls in found.items() for url in urls
        ]
        files = [
            _remote(url, named, *url_to_fs(url), failures)
            for named, url in urls
            if url.endswith(".parquet") and split in (None, named)
        ]
    except (*failures, ValueError, RuntimeError) as error:
        raise ConnectionError(str(error).splitlines()[0].rstrip(". ")) from error
    if not files:
        raise ConnectionError("has no parquet files" + (f' of a split "{split}"' if split else ""))
    return files


def _reach(repo: str, revision: str | None) -> None:
    """Fails soon where nothing answers; `datasets` would try for a minute."""
    from huggingface_hub import HfApi

    HfApi().repo_info(repo, repo_type="dataset", revision=revision, timeout=TIMEOUT)


def _remote(url: str, split: str, system: Any, path: str, failures: tuple[type[Exception], ...]) -> DataFile:
    return DataFile(
        name=PurePosixPath(url).name,
        size=system.size(path),
        split=split,
        open=lambda: system.open(path, "rb"),
        failures=failures,
    )
