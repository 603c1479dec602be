import shutil

import make_pickapic
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from lpobench.data.pairs import BadImage, BadRow, PairSource, decode, image_hash, open_pairs
from lpobench.plugin import MissingAsset, UserError

DAMAGE = {"no image": 1, "no caption": 2, "odd label": 1, "odd sum": 1}
REASONS = {
    "no image": "an image is missing",
    "no caption": "caption is missing",
    "odd label": "a label is not 0, 0.5 or 1",
    "odd sum": "the labels do not sum to 1",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """47 training rows in 3 files and row groups of 7, 5 held out twice, 5 damaged rows."""
    folder = tmp_path_factory.mktemp("pickapic")
    return folder, make_pickapic.write(folder, 47, held_out=5, files=3, group=7, damaged=DAMAGE)


def numbers(pairs):
    return [pair.row for pair in pairs]


def test_rows_are_what_was_written(made):
    folder, damaged = made
    source = open_pairs(str(folder), "train")
    assert isinstance(source, PairSource)
    assert len(source) == 47
    wanted = list(make_pickapic.rows("train", 47, seed=0))
    bad = {row for rows in damaged.values() for row in rows}
    pairs = list(source.pairs())
    assert numbers(pairs) == [row for row in range(47) if row not in bad]
    for pair in pairs:
        row = wanted[pair.row]
        assert (pair.caption, pair.images) == (row["caption"], (row["jpg_0"], row["jpg_1"]))
        assert pair.uids == (row["image_0_uid"], row["image_1_uid"])
        assert (pair.label_0, pair.label_1, pair.has_label) == (
            row["label_0"],
            row["label_1"],
            row["has_label"],
        )
        assert (pair.num_example_per_prompt, pair.split) == (row["num_example_per_prompt"], "train")
    assert any(not pair.has_label for pair in pairs)
    assert any(pair.tie for pair in pairs)


def test_bad_rows_are_counted_once_and_told(made):
    folder, damaged = made
    source = open_pairs(str(folder), "train")
    for _ in range(2):
        list(source.pairs())
    assert source.problems.rows == {REASONS[kind]: set(rows) for kind, rows in damaged.items()}
    first = sorted(damaged["no caption"])
    assert source.problems.lines()[0] == f"2 rows: caption is missing (rows {first[0]}, {first[1]})"
    with pytest.raises(BadRow, match="caption is missing"):
        source.get(first[0])


def test_any_start_and_any_sharding_give_the_same_rows(made):
    source = open_pairs(str(made[0]))
    assert len(source) == 57
    every = list(source.pairs())
    assert [pair.split for pair in every[-10:]] == ["validation_unique"] * 5 + ["test_unique"] * 5
    for start in (0, 1, 6, 7, 8, 15, 16, 46, 47, 56, 57, 99):
        assert list(source.pairs(start)) == [pair for pair in every if pair.row >= start]
    for world in (2, 3, 60):
        parts = [list(source.pairs(shard=(rank, world))) for rank in range(world)]
        assert [pair for part in parts for pair in part] == every
        again = [list(source.pairs(20, (rank, world))) for rank in range(world)]
        assert [pair for part in again for pair in part] == [pair for pair in every if pair.row >= 20]
    assert [source.get(pair.row) for pair in reversed(every)] == every[::-1]


def test_without_images_only_the_other_columns_are_read(made):
    source = open_pairs(str(made[0]), "test_unique")
    assert [pair.images for pair in source.pairs(images=False)] == [None] * 5
    assert source.get(2, images=False).uids == source.get(2).uids


def test_a_glob_a_file_and_the_folder_are_one_source(made):
    folder = made[0]
    whole = numbers(open_pairs(str(folder), "train").pairs())
    assert numbers(open_pairs(f"{folder}/train-*.parquet").pairs()) == whole
    assert len(open_pairs(str(folder / "train-00001-of-00003.parquet"))) == 16


def test_identity_is_of_the_content_not_of_the_place(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "moved")
    here, there = (open_pairs(str(folder), "train").identity() for folder in (made[0], tmp_path / "moved"))
    assert here == there
    assert here != open_pairs(str(made[0])).identity()


def test_a_split_column_decides_where_the_names_do_not(made, tmp_path):
    rows = list(make_pickapic.rows("train", 9, seed=1))
    split = ["train", "test", None] * 3
    table = pa.Table.from_pylist(rows, make_pickapic.SCHEMA).append_column("split", pa.array(split))
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=2)
    source = open_pairs(str(tmp_path), "test")
    assert [pair.uids[0] for pair in source.pairs()] == [rows[i]["image_0_uid"] for i in (1, 4, 7)]
    assert source.get(2).uids[0] == rows[7]["image_0_uid"]
    assert [pair.split for pair in source.pairs(1)] == ["test", "test"]
    assert [pair.split for pair in open_pairs(str(tmp_path)).pairs()] == ["train", "test", ""] * 3
    with pytest.raises(UserError, match='has no split "validation"; it has train, test'):
        open_pairs(str(tmp_path), "validation")


def test_image_structs_are_read_as_datasets_writes_them(made, tmp_path):
    rows = list(make_pickapic.rows("train", 2, seed=1))
    table = pa.Table.from_pylist(rows, make_pickapic.SCHEMA)
    images = pa.array([{"bytes": row["jpg_0"], "path": None} for row in rows])
    table = table.set_column(table.schema.get_field_index("jpg_0"), "jpg_0", images)
    pq.write_table(table, tmp_path / "train.parquet")
    assert [pair.images[0] for pair in open_pairs(str(tmp_path)).pairs()] == [row["jpg_0"] for row in rows]


def test_a_caption_that_is_not_text_costs_its_row_only(tmp_path):
    rows = list(make_pickapic.rows("train", 3, seed=1))
    table = pa.Table.from_pylist(rows, make_pickapic.SCHEMA)
    captions = pa.array([b"fine", b"\xff\xfe", b"fine too"]).view(pa.string())
    table = table.set_column(2, "caption", captions)
    pq.write_table(table, tmp_path / "train.parquet")
    source = open_pairs(str(tmp_path))
    assert [pair.caption for pair in source.pairs()] == ["fine", "fine too"]
    assert source.problems.rows == {"caption is not text": {1}}


@pytest.fixture
def broken(made, tmp_path):
    """A folder with two whole files, and one to be spoiled."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "train-00001-of-00003.parquet"


def test_a_file_that_is_cut_off_is_named_when_the_source_is_opened(broken):
    folder, file = broken
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"cannot read train-00001-of-00003\.parquet: .*damaged, get it again"
    ):
        open_pairs(str(folder))


def test_a_damaged_page_is_one_line_too(broken):
    folder, file = broken
    data = bytearray(file.read_bytes())
    data[200:600] = bytes(400)
    file.write_bytes(data)
    source = open_pairs(str(folder), "train")
    with pytest.raises(UserError, match=r"cannot read train-00001-of-00003\.parquet"):
        list(source.pairs())


def test_a_missing_column_is_named_with_its_file(broken):
    folder, file = broken
    pq.write_table(pq.read_table(file).drop_columns(["label_1", "caption"]), file)
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet lacks the columns caption, label_1"):
        open_pairs(str(folder))


def test_a_column_of_another_kind_is_named_with_its_file(broken):
    folder, file = broken
    table = pq.read_table(file)
    table = table.set_column(11, "label_0", table["label_0"].cast(pa.string()))
    pq.write_table(table, file)
    with pytest.raises(UserError, match=r"column label_0 of train-00001.* should be a number, is string"):
        open_pairs(str(folder))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("{folder}/none.parquet", MissingAsset, "no preference pairs at"),
        ("{folder}/*.arrow", MissingAsset, "no file matches"),
        ("{folder}/empty", UserError, "holds no preference pairs"),
        ("{folder}/note.txt", UserError, "is no .parquet file"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(tmp_path, name, error, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(error, match=message):
        open_pairs(name.format(folder=tmp_path))


def test_decode_reads_pixels_and_refuses_what_is_broken():
    row = next(make_pickapic.rows("train", 1, seed=0))
    pixels = decode(row["jpg_0"])
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert len(image_hash(row["jpg_0"])) == 64
    for kind in ("broken jpeg", "not an image"):
        spoilt = row | {name: change(row) for name, change in make_pickapic.DAMAGE[kind].items()}
        with pytest.raises(BadImage, match="cannot be decoded"):
            [decode(spoilt[name]) for name in ("jpg_0", "jpg_1")]


def test_shapes_world_is_the_same_for_a_seed_and_row():
    source = open_pairs("shapes:20:3")
    assert len(source) == 20 + 2 + 2
    every = list(source.pairs())
    assert [source.get(pair.row) for pair in every] == every
    assert list(open_pairs("shapes:20:3").pairs(18)) == every[18:]
    assert [pair.num_example_per_prompt for pair in every[16:]] == [3, 3, 2, 2, 1, 1, 1, 1]
    assert len({uid for pair in every[:3] for uid in pair.uids}) == 3
    assert [pair.uids for pair in open_pairs("shapes:20:3", "test_unique").pairs()] == [
        pair.uids for pair in every[-2:]
    ]
    assert next(open_pairs("shapes:20:4").pairs()).images != every[0].images
    with pytest.raises(UserError, match='no split "dev"'):
        open_pairs("shapes", "dev")
