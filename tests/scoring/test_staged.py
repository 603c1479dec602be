"""Images and scores in files: what is there stays, what is missing or damaged is made again, the same."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from made import Meter

from lpobench.plugin import Metric
from lpobench.scoring.generate import Painter
from lpobench.scoring.ledger import Ledger, NotFinite
from lpobench.scoring.pictures import Damaged, Pictures, key_of
from lpobench.scoring.staged import Share, images_of, score_table, shared
from lpobench.signals import Preempted, StopFlag
from lpobench.spec import EvalSettings
from lpobench.types import Prompt

PROMPTS = [Prompt(f"0.{i}", f"p{i}", {"task": "ab"[i % 2]}) for i in range(1, 8)]
SETTINGS = EvalSettings(num_steps=4, guidance_scale=1.0, images_per_prompt=2, batch_size=4)


class Judge:
    """Meter, who counts the images it is asked for."""

    version = "3"

    def __init__(self, label="meter", spoil=None):
        self.label, self.metrics, self.spoil, self.seen = label, Meter.metrics, spoil, 0

    def facts(self):
        return {}

    @contextmanager
    def live(self, device):
        yield self

    def score(self, images, prompts):
        self.seen += len(prompts)
        found = Meter().score(images, prompts)
        return found if self.spoil is None else found.assign(light=self.spoil)


@pytest.fixture
def make_share(tmp_path, make_policy):
    """`make_share()` -> a share of the folder, and a painter of a fresh policy."""

    def make(place=(0, 1), folder="images"):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        share = Share(tmp_path / folder, PROMPTS, range(2), range(2), place, scratch, StopFlag())
        share.look()
        return share, Painter(make_policy(), SETTINGS)

    return make


def fill(share, painter, *judges):
    share.paint(painter, "painting")
    for judge in judges:
        share.score(judge, judge, "scoring", batch_size=3)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_there_is_not_made_again(make_share):
    share, painter = make_share()
    judge = Judge()
    fill(share, painter, judge)
    assert (painter.policy.decodes, judge.seen) == (14, 14)
    before = contents(share.folder)
    again, idle = make_share()
    assert again.look() == 0
    fill(again, idle, judge)
    assert (idle.policy.decodes, judge.seen) == (0, 14)
    assert contents(share.folder) == before
    assert {path.split("/")[0] for path in before} == {"images", "manifest", "scores"}
    assert "images/p1-0.png" in before


def test_the_table_is_in_the_order_of_the_prompts(make_share):
    share, painter = make_share()
    judge = Judge()
    assert score_table(share, [judge]) == (None, {"meter": 14})
    fill(share, painter, judge)
    table, missing = score_table(share, [judge])
    assert missing == {}
    assert table.columns.tolist() == ["prompt_id", "image", "prompt", "task", "light", "bright"]
    assert table["prompt_id"].tolist() == [p.id for p in PROMPTS for _ in range(2)]
    pixels = share.pictures.read(("p3", 1), share.hashes["p3", 1])
    assert table["light"][5] == pytest.approx(pixels.mean() / 255, abs=1e-6)
    assert table["task"].tolist()[:4] == ["b", "b", "a", "a"]


def test_a_second_scorer_needs_no_new_images(make_share):
    share, painter = make_share()
    fill(share, painter, Judge())
    other = Judge("other")
    fill(share, painter, other)
    assert (painter.policy.decodes, other.seen) == (14, 14)
    table, _ = score_table(share, [Judge(), other])
    assert table.columns.tolist()[4:] == ["meter.light", "meter.bright", "other.light", "other.bright"]
    assert (table["meter.light"] == table["other.light"]).all()


def test_another_version_scores_again(make_share, monkeypatch):
    share, painter = make_share()
    fill(share, painter, Judge())
    newer = Judge()
    newer.version = "4"
    fill(share, painter, newer)
    assert newer.seen == 14


@pytest.mark.parametrize("damage", ["image cut", "image gone", "scores cut", "scores gone", "manifest cut"])
def test_what_is_damaged_is_made_again_the_same(make_share, damage):
    share, painter = make_share()
    fill(share, painter, Judge())
    before = contents(share.folder)
    what, how = damage.split()
    pattern = {"image": "images/p3-1.png", "scores": "scores/*/*.csv", "manifest": "manifest/*.jsonl"}[what]
    path = next(share.folder.glob(pattern))
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-20])
    again, fresh = make_share()
    fill(again, fresh, Judge())
    assert contents(share.folder) == before


def test_shares_are_parts_of_the_whole_in_the_order_of_hashes(make_share):
    shares = [shared(PROMPTS, i, 3) for i in range(3)]
    assert sorted(map(len, shares)) == [2, 2, 3]
    assert {p.id for part in shares for p in part} == {p.id for p in PROMPTS}
    assert shared(PROMPTS[::-1], 1, 3) == shares[1]
    whole, painter = make_share(folder="whole")
    fill(whole, painter, Judge())
    for place in ((0, 2), (1, 2)):
        assert score_table(whole, [Judge("new")])[1] == {"new": 14}
        part, own = make_share(place)
        fill(part, own, Judge())
    one, two = (score_table(share, [Judge()])[0] for share in (whole, part))
    pd.testing.assert_frame_equal(one, two, atol=1e-6)


def test_a_score_that_is_no_number_is_named_and_not_kept(make_share):
    share, painter = make_share()
    share.paint(painter, "painting")
    with pytest.raises(
        NotFinite, match=r"evaluator meter: light is nan for image \d of prompt p\d"
    ) as caught:
        share.score(Judge(spoil=np.nan), Judge(spoil=np.nan), "scoring")
    assert caught.value.exit_code == 4
    assert not list(share.folder.glob("scores/*/*.csv"))
    fill(share, painter, Judge())


def test_it_stops_between_batches_and_keeps_them(make_share):
    share, painter = make_share()
    paint = painter.paint

    def stopping(todo):
        share.stop.request("SIGTERM")
        return paint(todo)

    painter.paint = stopping
    with pytest.raises(Preempted, match="SIGTERM: stopped between images"):
        share.paint(painter, "painting")
    assert make_share()[0].look() == 10


def test_an_image_that_changes_while_it_is_scored(make_share):
    share, painter = make_share()
    share.paint(painter, "painting")
    share.pictures.path(("p3", 1)).write_bytes(b"")
    with pytest.raises(
        Damaged, match=r"p3-1\.png has changed since it was made: the same command makes it again"
    ):
        share.score(Judge(), Judge(), "scoring")


def test_a_ledger_keeps_every_digit(tmp_path):
    ledger = Ledger(tmp_path, "a/b", "1 c", {}, {"x": Metric(0, float("inf"), True, "u", "s")})
    ledger.begin(tmp_path)
    ledger.add([(("h", "p"), 0, [1 / 3]), (("h", "q"), 0, [1e-300])], tmp_path)
    assert ledger.known() == {("h", "p"): (1 / 3,), ("h", "q"): (1e-300,)}
    assert ledger.place.name.startswith("a-b@1-c-")
    assert '"high": null' in (ledger.place / "scorer.json").read_text()


def test_pictures_of_two_minds(tmp_path):
    """Where manifests disagree, the file decides."""
    pictures, wanted = Pictures(tmp_path), images_of(PROMPTS[:2], [0])
    dark, light = (torch.full((2, 4, 4, 3), value, dtype=torch.uint8).numpy() for value in (9, 200))
    pictures.add(wanted, dark, tmp_path)
    digests = pictures.add(wanted[:1], light[:1], tmp_path)
    assert pictures.listed(wanted)[key_of(wanted[0])] == digests[key_of(wanted[0])]
    assert (pictures.read(("p1", 0), digests["p1", 0]) == 200).all()
