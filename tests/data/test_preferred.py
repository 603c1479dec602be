"""Pairs that have a winner, from good sources and bad ones."""

import gzip
import hashlib
import json

import pytest
import tiny_unet
import torch
from made_pairs import PoolingVae

from lpobench.data.pairs import META, TABLE, LatentPairs
from lpobench.data.pairs.preferred import Preferred
from lpobench.learning.batches import Pairs
from lpobench.learning.train import train
from lpobench.plugin import MissingAsset, UserError
from lpobench.sections import TrainSettings
from lpobench.signals import StopFlag
from methods.diffusion_dpo import DiffusionDPO


class Backbone:
    """As much of one as is looked at where the pairs are latents already."""

    name, latent_space, latent_shape = "tiny-test", tiny_unet.LATENT_SPACE, tiny_unet.LATENT_SHAPE


def written(folder, num=8, split="train", **columns) -> str:
    tiny_unet.pairs(num, split, **columns).write(folder)
    return str(folder)


def with_table(folder, data: bytes) -> str:
    """A folder whose table is these bytes, and which says so."""
    written(folder)
    (folder / TABLE).write_bytes(data)
    about = json.loads((folder / META).read_text())
    about["sha256"][TABLE] = hashlib.sha256(data).hexdigest()
    (folder / META).write_text(json.dumps(about))
    return str(folder)


def changed(column, value) -> bytes:
    """A table with one cell changed."""
    table = tiny_unet.pairs().table.astype(object)
    table.loc[1, column] = value
    return gzip.compress(table.to_csv(index=False).encode(), mtime=0)


def test_winners_are_winners_whichever_comes_first(tmp_path):
    """A winner's latent is +1, a loser's -1. Of 8 pairs the fourth and the eighth are ties."""
    pairs = Preferred.open([written(tmp_path)], Backbone())
    assert isinstance(pairs, Pairs)
    assert len(pairs) == 6
    rows = pairs.rows([5, 0, 5])
    assert (rows.winner == 1).all()
    assert (rows.loser == -1).all()
    assert rows.winner.dtype == torch.float32
    assert rows.prompts == [pairs.captions[number] for number in (5, 0, 5)]
    assert len({0.0, 1.0} & set(pairs.pairs.table["label_0"])) == 2


def test_a_soft_label_has_a_winner(tmp_path):
    pairs = Preferred.open([written(tmp_path, 2, label_0=[0.6, 0.4], label_1=[0.4, 0.6])], Backbone())
    batch, rows = pairs.pairs.batch(torch.arange(2)), pairs.rows([0, 1])
    assert torch.equal(rows.winner, torch.stack([batch.latents_0[0], batch.latents_1[1]]))
    assert torch.equal(rows.loser, torch.stack([batch.latents_1[0], batch.latents_0[1]]))


def test_only_labelled_pairs_of_the_split_train(tmp_path):
    tiny_unet.pairs_folder(tmp_path, 8)
    assert len(Preferred.open([str(tmp_path)], Backbone())) == 6
    labels = [True, False, True, True]
    assert len(Preferred.open([written(tmp_path / "some", 4, has_label=labels)], Backbone())) == 2


def test_sources_follow_each_other(tmp_path):
    one, two = written(tmp_path / "one", 3), written(tmp_path / "two", 7, seed=1, caption="a circle")
    pairs = Preferred.open([one, two], Backbone())
    assert pairs.captions == ["red", "blue", "a star"] + ["a circle"] * 6
    rows = pairs.rows(list(range(9)))
    assert (rows.winner == 1).all()
    assert (rows.loser == -1).all()


def test_images_are_encoded(caplog):
    pairs = Preferred.open(["shapes:12"], PoolingVae())
    assert "images are encoded while training" in caplog.text
    assert 0 < len(pairs) <= 12
    assert pairs.rows([0, 1]).winner.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"num": 0}, "no labelled pair in the split train; splits: none"),
        ({"split": "test_unique"}, "no labelled pair in the split train; splits: test_unique"),
        ({"has_label": False}, "no labelled pair in the split train; splits: train"),
        ({"label_0": 0.5, "label_1": 0.5}, "all 8 pairs of the split train are ties"),
    ],
)
def test_a_source_without_a_winner_is_named(tmp_path, made, message):
    """Alone, and beside one that has some: it would be missing silently."""
    good, bad = written(tmp_path / "good"), written(tmp_path / "bad", **made)
    for sources in ([bad], [good, bad]):
        with pytest.raises(UserError, match=f"^train.pairs {bad}: {message}$"):
            Preferred.open(sources, Backbone())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "No columns to parse"),
        (gzip.compress(b"", mtime=0), "No columns to parse"),
        (b"hello", "Not a gzipped file"),
        (changed("caption", "x")[:60], "ended before the end-of-stream marker"),
        (changed("label_0", ""), "could not convert string to float"),
        (changed("label_0", "both"), "could not convert string to float: 'both'"),
        (changed("has_label", "maybe"), "cannot safely convert"),
        (gzip.compress(b"caption,split\nx,train\n", mtime=0), "lack the columns image_0_uid"),
        (changed("label_0", 0.7), "label_0 \\+ label_1 must be 1"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as failure:
        Preferred.open([with_table(tmp_path, data)], Backbone())
    assert "\n" not in str(failure.value)


def test_a_table_of_headers_alone_has_no_pairs(tmp_path):
    header = ",".join(tiny_unet.pairs(1).table.columns)
    with pytest.raises(UserError, match="no labelled pair"):
        Preferred.open([with_table(tmp_path, gzip.compress(f"{header}\n".encode()))], Backbone())


def test_no_source_at_all(tmp_path):
    with pytest.raises(MissingAsset, match="no preference pairs at"):
        Preferred.open([str(tmp_path / "gone")], PoolingVae())
    (tmp_path / "prompts.txt").write_text("a star\n")
    with pytest.raises(UserError, match=r"prompts\.txt is no \.parquet file"):
        Preferred.open([str(tmp_path / "prompts.txt")], PoolingVae())
    with pytest.raises(UserError, match="holds no preference pairs"):
        Preferred.open([str(tmp_path)], PoolingVae())


def test_latents_of_another_backbone_are_refused(tmp_path):
    class Larger(Backbone):
        latent_shape = (4, 16, 16)

    class Other(Backbone):
        latent_space = "other"

    source = written(tmp_path)
    with pytest.raises(UserError, match=r"latents of \[4, 8, 8\], tiny-test makes \[4, 16, 16\]"):
        Preferred.open([source], Larger())
    with pytest.raises(UserError, match="are of test-f8c4, the backbone makes other"):
        Preferred.open([source], Other())


def test_a_method_trains_on_them(tmp_path, make_policy, make_context):
    """Rounds of 5 of 6 pairs, updates of 5: one round per update, and winners are 2 above losers."""
    policy, source = make_policy(), tiny_unet.pairs(8, caption=["1", "-1"] * 4)
    latents = source.latents[:, :1, :4, :4].contiguous()
    meta = source.meta.model_copy(update={"latent_space": "gaussian"})
    LatentPairs(source.table, latents, source.uids, meta).write(tmp_path / "pairs")
    result = train(
        DiffusionDPO(beta=5.0, caption_dropout=0.0),
        make_context(policy),
        TrainSettings(num_updates=20, prompts_per_round=5, minibatch=5, learning_rate=0.02),
        tmp_path,
        seed=0,
        prompts=[],
        pairs=Preferred.open([str(tmp_path / "pairs")], policy.backbone),
        stop=StopFlag(),
        fingerprint="pairs",
        progress=False,
    )
    assert (result.rounds, result.collected, result.trained) == (20, 100, 100)
    assert result.work["collect"]["calls"] == 0
    assert result.work["update"]["calls"] == 2 * 20
    assert policy.trained[0].item() > 0.1
