"""A Hugging Face cache written by hand, and a client of the Hub that never leaves the machine."""

import errno
import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_snapshot(
    cache: Path,
    repo: str,
    files: dict[str, bytes],
    *,
    commit=COMMIT,
    ref="main",
    kind="model",
    declared=None,
) -> Path:
    """The layout of the cache: contents as blobs named by hash, a revision's files as links to them.

    `declared` gives a file the name the Hub would have given it, which need not be its hash.
    """
    root = cache / f"{kind}s--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for name, content in files.items():
        blob = root / "blobs" / (declared or {}).get(name, hashlib.sha256(content).hexdigest())
        write_files(root, {f"blobs/{blob.name}": content})
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
    if ref:
        write_files(root, {f"refs/{ref}": commit.encode()})
    return snapshot


class FakeHub:
    """Repositories by id, each a dict of files, or the error it answers with."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.repos, self.asked = cache, {}, []
        self.declared: dict[str, str] = {}

    def repo_info(self, repo, *, repo_type, revision, timeout):
        assert timeout, "a request with no end"
        self.asked.append((repo, repo_type, revision))
        content = self.repos.get(repo, hub_error("RepositoryNotFoundError", 404))
        if isinstance(content, Exception):
            raise content

    def snapshot_download(
        self, repo, *, repo_type, revision, allow_patterns, cache_dir=None, local_dir=None
    ) -> str:
        from huggingface_hub.utils import filter_repo_objects

        files = self.repos[repo]
        wanted = {
            name: files[name] for name in filter_repo_objects(list(files), allow_patterns=allow_patterns)
        }
        if local_dir:
            return str(write_files(Path(local_dir), wanted))
        pinned = revision and len(revision) == 40
        ref, commit = (None, revision) if pinned else (revision or "main", COMMIT)
        options = {"commit": commit, "ref": ref, "kind": repo_type, "declared": self.declared}
        return str(write_snapshot(Path(cache_dir), repo, wanted, **options))


def failure(done) -> str:
    """The last line of an error that left nothing on stdout."""
    assert done.out == ""
    assert "Traceback" not in done.err
    return done.err.splitlines()[-1]


def hub_error(name: str, status: int) -> Exception:
    """An error class of the Hub's client."""
    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, status_code=status, request=None)
    return getattr(errors, name)("the server said no", response=response)


def no_network() -> Exception:
    from huggingface_hub import errors

    return errors.HTTPError("[Errno -2] Name or service not known")


def disk_error(code: int) -> OSError:
    return OSError(
        code, {errno.ENOSPC: "No space left on device", errno.EROFS: "Read-only file system"}[code]
    )


@pytest.fixture
def here(tmp_path, monkeypatch) -> SimpleNamespace:
    """A machine with nothing on it: `cache` of the Hub, `own` for assets of $LPOBENCH_ASSETS."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    places = SimpleNamespace(root=tmp_path, cache=tmp_path / "hub", own=tmp_path / "own")
    monkeypatch.setenv("HF_HUB_CACHE", str(places.cache))
    monkeypatch.setenv("LPOBENCH_ASSETS", str(places.own))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return places


@pytest.fixture
def hub(here, monkeypatch) -> FakeHub:
    """The Hub as the project's only doors to it see it."""
    import huggingface_hub

    fake = FakeHub(here.cache)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "repo_info", lambda self, *args, **what: fake.repo_info(*args, **what)
    )
    return fake


@pytest.fixture
def no_hub(here, monkeypatch) -> None:
    """Any use of the network is an error."""
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
