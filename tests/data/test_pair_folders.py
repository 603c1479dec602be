"""Pairs from folders of images: pairs.jsonl, HPDv2, and latents."""

import io
import json
import tarfile

import make_pickapic
import numpy as np
import pytest
import tiny_unet

from lpobench.data.pairs import BadRow, PairSource, open_pairs
from lpobench.data.pairs.world import jpeg
from lpobench.plugin import UserError

FILES = {f"{i:05d}.jpg": jpeg(np.full((8, 8, 3), 20 * i, np.uint8)) for i in range(5)}


def listed(folder, lines):
    (folder / "pairs.jsonl").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return str(folder)


def test_a_list_needs_little_and_counts_what_is_wrong(tmp_path):
    a, b, c = list(FILES)[:3]
    source = open_pairs(
        listed(
            tmp_path,
            [
                {"prompt": "a star", "image_0": a, "image_1": b, "label_0": 1},
                "",
                {"caption": "a star", "image_0": b, "image_1": c, "label_0": 0.5, "image_1_uid": "third"},
                {"prompt": "held", "image_0": a, "image_1": c, "split": "test"},
                "{not json",
                {"prompt": "x", "image_0": a, "image_1": "gone.jpg", "label_0": 0},
                {"prompt": "x", "image_0": "../../etc/passwd", "image_1": b, "label_0": 0},
                {"prompt": "x", "image_0": "/etc/passwd", "image_1": b, "label_0": 0},
                {"prompt": "x", "image_0": a, "label_0": 0},
            ],
        )
    )
    assert isinstance(source, PairSource)
    assert len(source) == 8
    first, second, held = source.pairs()
    assert (first.caption, first.label_0, first.label_1, first.num_example_per_prompt) == ("a star", 1, 0, 2)
    assert first.images == (FILES[a], FILES[b])
    assert (second.tie, second.uids, second.row) == (True, (b, "third"), 1)
    assert (held.has_label, held.split) == (False, "test")
    assert source.problems.rows == {
        "the line is not a JSON object": {3},
        "an image is missing": {4},
        "an image's path leads outside its folder or archive": {5, 6},
        "image_0 or image_1 is not a path": {7},
    }
    assert len(open_pairs(str(tmp_path), "test")) == 1
    assert next(source.pairs(1)) == second == source.get(1)


TRAIN = [
    {"prompt": "a star", "file_path": ["00000.jpg", "00001.jpg"], "human_preference": [0, 1]},
    {"prompt": "a star", "file_path": ["00002.jpg", "00001.jpg"], "human_preference": [1, 0]},
    {"prompt": "odd", "file_path": ["00002.jpg", "00001.jpg"], "human_preference": [1, 1]},
]
TEST = [{"prompt": "ranks", "image_path": ["00002.jpg", "00003.jpg", "00004.jpg"], "rank": [3, 1, 3]}]


def write_lists(folder):
    (folder / "train.json").write_text(json.dumps(TRAIN))
    (folder / "test.json").write_text(json.dumps(TEST))


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def as_folders(folder):
    for split in ("train", "test"):
        (folder / split).mkdir()
        for name, data in FILES.items():
            (folder / split / name).write_bytes(data)


def as_tars(folder):
    write_tar(folder / "train.tar", {f"train/{name}": data for name, data in FILES.items()})
    write_tar(folder / "test.tar", {f"./{name}": data for name, data in FILES.items()})


def as_compressed(folder):
    write_tar(folder / "train.tar.gz", {f"train/{name}": data for name, data in FILES.items()}, "w:gz")
    write_tar(folder / "test.tgz", FILES, "w:gz")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.mark.parametrize("lay", [as_folders, as_tars, as_compressed])
def test_hpd_ranks_become_every_pair(tmp_path, lay):
    """Ranks 3, 1, 3 of images 2, 3, 4: 3 beats 2, 2 ties with 4, 3 beats 4."""
    write_lists(tmp_path)
    lay(tmp_path)
    source = open_pairs(str(tmp_path))
    assert isinstance(source, PairSource)
    assert len(source) == 6
    pairs = list(source.pairs())
    assert [(pair.uids, pair.label_0) for pair in pairs] == [
        (("train/00000.jpg", "train/00001.jpg"), 0.0),
        (("train/00002.jpg", "train/00001.jpg"), 1.0),
        (("test/00002.jpg", "test/00003.jpg"), 0.0),
        (("test/00002.jpg", "test/00004.jpg"), 0.5),
        (("test/00003.jpg", "test/00004.jpg"), 1.0),
    ]
    assert pairs[0].images == (FILES["00000.jpg"], FILES["00001.jpg"])
    assert pairs[-1].images == (FILES["00003.jpg"], FILES["00004.jpg"])
    assert [pair.num_example_per_prompt for pair in pairs] == [2, 2, 3, 3, 3]
    assert source.problems.rows == {"human_preference is not a 0 and a 1": {2}}
    assert [pair.uids for pair in open_pairs(str(tmp_path), "test").pairs(1)] == [p.uids for p in pairs[3:]]
    assert source.get(4) == pairs[3]


def test_an_archive_is_unpacked_once(tmp_path, cache, capfd):
    write_lists(tmp_path)
    as_compressed(tmp_path)
    for _ in range(2):
        assert len(list(open_pairs(str(tmp_path), "test").pairs())) == 3
    assert capfd.readouterr().err.count("unpacking") == 1
    assert not list(tmp_path.glob("*.jpg"))


@pytest.mark.parametrize(("name", "mode"), [("test.tar", "w"), ("test.tar.gz", "w:gz")])
def test_entries_that_lead_outside_are_refused_and_their_rows_counted(tmp_path, cache, name, mode):
    write_lists(tmp_path)
    files = {name: data for name, data in FILES.items() if name != "00004.jpg"}
    write_tar(tmp_path / name, files | {"../../00004.jpg": FILES["00004.jpg"]}, mode)
    source = open_pairs(str(tmp_path), "test")
    assert [pair.row for pair in source.pairs()] == [0]
    assert list(source.problems.rows.values()) == [{1, 2}]
    assert source.problems.lines()[0] == f"{name}: 1 refused, ../../00004.jpg leads outside the archive"
    escaped = [*tmp_path.rglob("00004.jpg"), *cache.rglob("00004.jpg"), *tmp_path.parent.glob("*.jpg")]
    assert not escaped
    with pytest.raises(BadRow):
        source.get(1)


@pytest.mark.parametrize(("name", "mode"), [("test.tar", "w"), ("test.tar.gz", "w:gz")])
def test_an_archive_that_is_cut_off_is_one_line(tmp_path, name, mode):
    write_lists(tmp_path)
    rng = np.random.default_rng(0)
    write_tar(tmp_path / name, {"00002.jpg": rng.bytes(9000), "00003.jpg": rng.bytes(9000)}, mode)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:11000])
    with pytest.raises(UserError, match=rf"{name}.*the archive is damaged, get it again"):
        open_pairs(str(tmp_path), "test")


def test_a_damaged_list_is_one_line(tmp_path):
    (tmp_path / "train.json").write_text('[{"prompt": "a st')
    with pytest.raises(UserError, match=r"cannot read .*train\.json: .*the file is damaged"):
        open_pairs(str(tmp_path))
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(UserError, match="should hold a list"):
        open_pairs(str(tmp_path))


def test_latents_are_a_source_without_images(tmp_path):
    tiny_unet.pairs(4, label_0=[1.0, 0.5, 0.0, 1.0], label_1=[0.0, 0.5, 1.0, 0.0]).write(tmp_path)
    source = open_pairs(str(tmp_path), "train")
    assert isinstance(source, PairSource)
    assert not source.has_images
    pairs = list(source.pairs())
    assert [pair.label_0 for pair in pairs] == [1, 0.5, 0, 1]
    assert {pair.images for pair in pairs} == {None}
    assert source.get(2) == pairs[2]
    with pytest.raises(UserError, match='no split "test_unique"; it has train'):
        open_pairs(str(tmp_path), "test_unique")


def test_a_made_set_is_the_same_for_a_seed(tmp_path):
    for name in ("a", "b"):
        make_pickapic.write(tmp_path / name, 6, held_out=2)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
