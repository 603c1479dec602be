"""Streaming: resolved by `datasets`, here from a folder, and read through a remote kind of file system."""

import io

import make_pickapic
import pytest

from lpobench.data.pairs import open_pairs, stream
from lpobench.data.pairs.files import DataFile
from lpobench.data.pairs.parquet import ParquetPairs
from lpobench.plugin import MissingAsset, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository") / "data"
    make_pickapic.write(folder, 21, held_out=3, files=3, group=5)
    return folder


@pytest.fixture
def from_folder(folder, monkeypatch):
    """`org/set` is the folder."""
    real = stream.remote_files
    monkeypatch.setattr(stream, "_reach", lambda repo, revision: None)
    monkeypatch.setattr(stream, "remote_files", lambda repo, revision, split: real(str(folder), None, split))


@pytest.mark.usefixtures("from_folder")
@pytest.mark.parametrize("split", [None, "train", "test_unique"])
def test_a_stream_gives_the_rows_of_the_files(folder, split):
    local, streamed = open_pairs(str(folder), split), open_pairs("org/set", split, stream=True)
    assert len(streamed) == len(local)
    assert list(streamed.pairs(2)) == list(local.pairs(2))
    assert list(streamed.pairs(shard=(1, 2))) == list(local.pairs(shard=(1, 2)))
    assert streamed.get(1) == local.get(1)


@pytest.mark.usefixtures("from_folder")
def test_a_split_it_does_not_have_is_one_line():
    with pytest.raises(MissingAsset, match='org/set: has no parquet files of a split "dev"'):
        open_pairs("org/set", "dev", stream=True)


def test_only_the_hub_can_be_streamed(tmp_path):
    with pytest.raises(UserError, match="only a data set of the Hub can be streamed"):
        open_pairs(str(tmp_path), stream=True)


class Counted(io.BytesIO):
    """A file that counts the bytes that are read of it."""

    total = 0

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        Counted.total += len(data)
        return data


def test_a_share_fetches_its_own_row_groups_only(tmp_path):
    """120 rows in groups of 20; besides its row groups a reader fetches each file's last 64 kB, the footer."""
    make_pickapic.write(tmp_path, 120, files=2, group=20)
    paths = sorted(tmp_path.iterdir())
    opening = [lambda path=path: Counted(path.read_bytes()) for path in paths]
    files = [
        DataFile(path.name, path.stat().st_size, "train", how, (OSError,))
        for path, how in zip(paths, opening, strict=True)
    ]
    source = ParquetPairs("set", files, None)

    def fetched(**options) -> int:
        Counted.total = 0
        assert list(source.pairs(**options))
        return Counted.total

    whole = fetched()
    assert whole > sum(file.size for file in files)
    assert fetched(start=100) < 0.3 * whole
    assert fetched(shard=(0, 6)) < 0.3 * whole
    assert fetched(images=False) < 0.5 * whole


def test_a_connection_that_breaks_is_one_line(folder):
    name = "train-00000-of-00003.parquet"
    state = {"broken": False}

    def open_file():
        if state["broken"]:
            raise ConnectionResetError("connection reset")
        return (folder / name).open("rb")

    source = ParquetPairs("set", [DataFile(name, 1, "train", open_file, (OSError,))], None)
    state["broken"] = True
    with pytest.raises(UserError, match=r"cannot read train-00000.*: connection reset; try again later"):
        list(source.pairs())


def test_without_a_network_the_answer_is_one_line(monkeypatch):
    def refused(*_):
        raise ConnectionError("cannot be reached")

    monkeypatch.setattr(stream, "remote_files", refused)
    with pytest.raises(MissingAsset, match=r"cannot stream pickapic-v2: .*cannot be reached; .*as a path"):
        open_pairs("pickapic-v2", stream=True)
