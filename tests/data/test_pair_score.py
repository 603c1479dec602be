"""Scoring a generated Pick-a-Pic: once per image, whatever interrupts it; gaps equal to those worked out by hand."""

import io

import numpy as np
import pytest
from made_pairs import Brightness, files
from make_pickapic import write
from PIL import Image

from lpobench.data.pairs.filter import by_strategy, filter_pairs
from lpobench.data.pairs.gaps import add_gaps
from lpobench.data.pairs.image import BadImage, decode
from lpobench.data.pairs.plan import number_images, pair_table
from lpobench.data.pairs.record import Problems
from lpobench.data.pairs.rule import Rule
from lpobench.data.pairs.score import plan_scoring
from lpobench.data.pairs.source import open_pairs
from lpobench.plugin import MissingAsset, UserError

DAMAGED = {"broken jpeg": 2, "not an image": 1, "no image": 1, "no caption": 1, "odd label": 2, "odd sum": 1}


@pytest.fixture(scope="module")
def pickapic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickapic")
    write(folder, 45, held_out=3, files=2, group=10, damaged=DAMAGED)
    return str(folder)


def score(source: str, out, scorers: dict, worker=(0, 1), **options):
    pairs = open_pairs(source)
    settings = {name: {} for name in scorers}
    options = {"batch_size": 4, **options}
    plan = plan_scoring(pairs, pair_table(pairs), out, 16, scorers=scorers, settings=settings, **options)
    return plan.run(worker)


def test_every_image_is_scored_once(pickapic, tmp_path):
    scorer, pairs = Brightness(), open_pairs(pickapic)
    done = score(pickapic, tmp_path, {"bright": scorer})
    table = pair_table(pairs)
    distinct = len({*table["image_0_uid"], *table["image_1_uid"]})
    assert distinct < 2 * len(table), "some images are in several pairs"
    assert len(scorer.asked) + sum(done.problems.values()) == distinct
    assert done.images == {"bright": len(scorer.asked)}
    again = score(pickapic, tmp_path, {"bright": (second := Brightness())})
    assert (again.images, again.reused, second.asked) == ({}, {"bright": distinct}, [])


def brute_force(source: str) -> dict[int, tuple[float, float]]:
    """Gaps by row, from the files themselves; an image counts as known if any row has a whole copy."""
    known, pairs = {}, list(open_pairs(source).pairs())
    for pair in pairs:
        for uid, data in zip(pair.uids, pair.images, strict=True):
            try:
                known[uid] = (decode(data).astype(np.float32) / 255).astype(float).mean()
            except BadImage:
                continue
    gaps = {}
    for row in pair_table(open_pairs(source)).itertuples():
        uids = row.image_0_uid, row.image_1_uid
        if row.has_label and all(uid in known for uid in uids):
            lead = known[uids[0]] - known[uids[1]]
            gap = {1.0: lead, 0.0: -lead, 0.5: abs(lead)}[row.label_0]
            gaps[row.row] = (gap, gap * len(row.caption))
    return gaps


def test_gaps_and_counts_are_those_of_brute_force(pickapic, tmp_path):
    score(pickapic, tmp_path, {"bright": Brightness()})
    pairs, problems = open_pairs(pickapic), Problems()
    table, made_of = add_gaps(pair_table(pairs), pairs, tmp_path, {"aesthetic_gap": "bright.mean"}, problems)
    expected = brute_force(pickapic)
    assert made_of == {
        "bright_mean_gap": "bright@1.mean",
        "aesthetic_gap": "bright@1.mean",
        "bright_length_gap": "bright@1.length",
    }
    known = table.dropna(subset="bright_mean_gap").set_index("row")
    assert known.index.tolist() == sorted(expected)
    np.testing.assert_allclose(known[["aesthetic_gap", "bright_length_gap"]], [*expected.values()], rtol=1e-5)

    kept, counts = filter_pairs(
        table, Rule("bright_mean_gap > 0.01 and bright_length_gap < 9"), ["bright_mean_gap"]
    )
    held_out = set(table["row"][table["split"] != "train"])
    by_hand = [
        row for row, (mean, length) in expected.items() if row not in held_out and mean > 0.01 and length < 9
    ]
    assert [row for row in kept["row"] if row not in held_out] == sorted(by_hand)
    assert counts.kept_win_lose + counts.kept_ties == len(by_hand)
    assert counts.unscored == len(problems), "held-out pairs are not damaged here"


@pytest.mark.parametrize("stops", [[0], [9], [17, 3, 21]])
def test_an_interrupted_scoring_ends_in_the_same_bytes(stops, pickapic, tmp_path):
    score(pickapic, tmp_path / "straight", {"bright": (whole := Brightness())})
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            score(pickapic, tmp_path / "stopped", {"bright": Brightness(stop)})
    score(pickapic, tmp_path / "stopped", {"bright": (last := Brightness())})
    assert files(tmp_path / "stopped") == files(tmp_path / "straight")
    assert len(last.asked) <= len(whole.asked)
    assert not list((tmp_path / "stopped").rglob(".*.tmp"))


def test_workers_and_scorers_in_any_order_make_the_same_files(pickapic, tmp_path):
    one, two = Brightness(), Brightness()
    score(pickapic, tmp_path / "together", {"one": one, "two": two})
    for name, worker in (("two", (1, 2)), ("one", (2, 3)), ("two", (0, 2)), ("one", (0, 3)), ("one", (1, 3))):
        score(pickapic, tmp_path / "apart", {name: Brightness()}, worker)
    assert files(tmp_path / "apart") == files(tmp_path / "together")


def test_a_damaged_shard_is_named_and_made_again(pickapic, tmp_path):
    score(pickapic, tmp_path, {"bright": Brightness()})
    before, shard = files(tmp_path), tmp_path / "bright@1" / "shard-00001.csv.gz"
    for damage in (
        lambda data: data[:-9],
        lambda data: data[:40] + bytes([data[40] ^ 4]) + data[41:],
        lambda _: b"",
    ):
        shard.write_bytes(damage(before["bright@1/shard-00001.csv.gz"]))
        pairs, told = open_pairs(pickapic), []
        with pytest.raises(UserError, match=r"shard-00001\.csv\.gz is damaged"):
            add_gaps(pair_table(pairs), pairs, tmp_path, {}, Problems())
        done = score(pickapic, tmp_path, {"bright": (scorer := Brightness())}, say=told.append)
        assert (done.rebuilt, len(scorer.asked) <= 16) == (["bright@1/shard-00001.csv.gz"], True)
        assert "shard-00001.csv.gz is damaged" in told[0]
        assert files(tmp_path) == before


def test_what_does_not_fit_is_refused(pickapic, tmp_path):
    pairs = open_pairs(pickapic)
    table = pair_table(pairs)
    with pytest.raises(MissingAsset, match="no scores in"):
        add_gaps(table, pairs, tmp_path / "none", {}, Problems())
    with pytest.raises(KeyboardInterrupt):
        score(pickapic, tmp_path, {"bright": Brightness(20)})
    with pytest.raises(UserError, match="is not finished: 3 of 4 shards are missing"):
        add_gaps(table, pairs, tmp_path, {}, Problems())
    with pytest.raises(UserError, match="holds other work: its source is"):
        score("shapes:20", tmp_path, {"bright": Brightness()})
    score(pickapic, tmp_path, {"bright": Brightness()})
    other = open_pairs("shapes:20")
    with pytest.raises(UserError, match="holds scores of other pairs than shapes:20: its source differs"):
        add_gaps(pair_table(other), other, tmp_path, {}, Problems())
    with pytest.raises(UserError, match=r'no such score; did you mean "bright\.mean"'):
        add_gaps(table, pairs, tmp_path, {"aesthetic_gap": "bright.meen"}, Problems())
    with pytest.raises(UserError, match='no scores of "dark"'):
        add_gaps(table, pairs, tmp_path, {}, Problems(), ["dark"])


def test_two_versions_of_a_scorer_are_kept_apart(pickapic, tmp_path):
    newer = Brightness()
    newer.version = "2 beta/b"
    score(pickapic, tmp_path, {"bright": Brightness()})
    score(pickapic, tmp_path, {"bright": newer})
    assert {path.parent.name for path in tmp_path.glob("*/scorer.json")} == {"bright@1", "bright@2-beta-b"}
    pairs = open_pairs(pickapic)
    with pytest.raises(UserError, match=r"would be made of bright@1\.mean and of bright@2"):
        add_gaps(pair_table(pairs), pairs, tmp_path, {}, Problems())
    table, _ = add_gaps(pair_table(pairs), pairs, tmp_path, {}, Problems(), ["bright@1"])
    assert table["bright_mean_gap"].notna().any()


def test_the_papers_names_are_given_to_its_scorers(pickapic, tmp_path):
    """A scorer with one metric, or one called like itself, is the one the paper means."""
    score(pickapic, tmp_path, {"aesthetic": Named("points"), "clipscore": Named("clipscore", "other")})
    pairs = open_pairs(pickapic)
    table, made_of = add_gaps(pair_table(pairs), pairs, tmp_path, {}, Problems())
    assert made_of["aesthetic_gap"] == "aesthetic@1.points"
    assert made_of["clipscore_gap"] == "clipscore@1.clipscore"
    assert "vqascore_gap" not in table
    with pytest.raises(UserError, match="lack vqascore_gap"):
        filter_pairs(table, by_strategy("2"), [])


class Named(Brightness):
    """Brightness under other names."""

    def __init__(self, *names: str):
        super().__init__()
        self.metrics = dict.fromkeys(names, Brightness.metrics["mean"])

    def score(self, images, prompts):
        found = super().score(images, prompts)
        return found[["mean"] * len(self.metrics)].set_axis(list(self.metrics), axis=1)


def test_a_score_that_is_not_finite_names_the_image(pickapic, tmp_path):
    class Broken(Brightness):
        def score(self, images, prompts):
            return super().score(images, prompts).assign(mean=np.nan)

    with pytest.raises(UserError, match=r"scorer bright gives .*nan.* for the image .*must be finite"):
        score(pickapic, tmp_path, {"bright": Broken()})


def test_images_of_several_sizes_and_captions(tmp_path):
    """Each batch holds one size; an image under two captions is scored under both."""
    lines = []
    for index, side in enumerate((16, 24, 16, 24, 16)):
        file = io.BytesIO()
        Image.new("RGB", (side, side), (index * 40, 0, 0)).save(file, "PNG")
        (tmp_path / f"{index}.png").write_bytes(file.getvalue())
    for first, second, caption in ((0, 1, "a"), (2, 3, "bb"), (4, 0, "ccc"), (1, 0, "a")):
        lines.append(
            f'{{"caption": "{caption}", "image_0": "{first}.png", "image_1": "{second}.png", "label_0": 1}}'
        )
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    done = score(str(tmp_path), tmp_path / "out", {"bright": (scorer := Brightness())}, batch_size=2)
    assert scorer.shapes == {(16, 16), (24, 24)}
    assert sorted(scorer.asked) == ["a", "a", "bb", "bb", "ccc", "ccc"]
    assert done.images == {"bright": 6}
    pairs = open_pairs(str(tmp_path))
    numbers = number_images(pair_table(pairs), by_caption=True)
    assert numbers.of.tolist() == [[0, 1], [2, 3], [4, 5], [1, 0]]
    table, _ = add_gaps(pair_table(pairs), pairs, tmp_path / "out", {}, Problems())
    np.testing.assert_allclose(table["bright_mean_gap"] * 255 * 3, [-40, -40, 160, 40], rtol=1e-5)
