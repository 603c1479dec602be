"""The latent cache against encoding by hand: what it holds, what interrupts it, what it refuses, what is read of it."""

import hashlib
import json
import logging
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from made_pairs import PoolingVae, files
from make_pickapic import write
from torch import Tensor

from lpobench.data.pairs.encode import plan_encoding
from lpobench.data.pairs.filter import filter_pairs, read_kept, take_kept, write_kept
from lpobench.data.pairs.image import decode
from lpobench.data.pairs.latent import LatentPairs
from lpobench.data.pairs.plan import pair_table
from lpobench.data.pairs.record import Problems
from lpobench.data.pairs.rule import Rule
from lpobench.data.pairs.source import open_pairs
from lpobench.data.pairs.store import open_store
from lpobench.data.pairs.texts import StoredTexts, encode_texts
from lpobench.data.pairs.training import identity_of, open_latents
from lpobench.hashing import file_sha256
from lpobench.plugin import UserError
from lpobench.types import Conditioning


@pytest.fixture(scope="module")
def pickapic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickapic")
    write(
        folder, 30, held_out=4, files=2, group=10, damaged={"broken jpeg": 14, "no image": 3, "odd label": 1}
    )
    return str(folder)


def encode(source: str, out, vae: PoolingVae | None = None, worker=(0, 1), kept=None, per_shard=8, **options):
    pairs = open_pairs(source)
    table = pair_table(pairs)
    if kept:
        table = take_kept(table, read_kept(kept), Problems())
    table = table[table["has_label"]].reset_index(drop=True)
    plan = plan_encoding(pairs, table, vae or PoolingVae(), out, per_shard, batch_size=3, **options)
    return plan.run(worker, kept and file_sha256(kept))


def by_hand(data: bytes) -> Tensor:
    images = torch.tensor(decode(data)).permute(2, 0, 1)[None].float() / 255
    return PoolingVae().posterior(images)[0][0].half()


def test_a_cache_holds_the_posterior_of_every_distinct_image(tmp_path):
    done = encode("shapes:20:1", tmp_path, vae := PoolingVae())
    rows = list(open_pairs("shapes:20:1").pairs())
    images = dict(
        zip((uid for row in rows for uid in row.uids), (i for row in rows for i in row.images), strict=True)
    )
    assert done.images == len(images) < 2 * len(rows)
    shards = -(-len(images) // 8)
    assert len(images) <= vae.asked < len(images) + 3 * shards  # the last batch of each is filled up to 3
    pairs = open_latents(str(tmp_path), vae)
    assert vae.released == 1
    batch = pairs.batch(torch.arange(len(rows)))
    for side, latents in enumerate((batch.latents_0, batch.latents_1)):
        assert torch.equal(latents, torch.stack([by_hand(row.images[side]) for row in rows]).float())
    assert batch.prompts == [row.caption for row in rows]
    assert batch.label_0.tolist() == [row.label_0 for row in rows]
    assert [len(pairs.split(name)) for name in ("train", "validation_unique", "test_unique")] == [20, 2, 2]

    lines = [json.loads(line) for file in sorted(tmp_path.glob("shard-*.jsonl")) for line in file.open()]
    index = {line["uid"]: line["image"] for line in lines if "uid" in line}
    assert index == {uid: hashlib.sha256(data).hexdigest() for uid, data in images.items()}
    assert all(file.stat().st_size < 8 * 2 * 2 * 192 + 500 for file in tmp_path.glob("shard-*.safetensors"))


def test_draws_have_the_kept_spread(tmp_path):
    """log-variance is -2 mean, so a draw is mean + exp(-mean) noise."""
    encode("shapes:20:1", tmp_path)
    pairs, rows = open_latents(str(tmp_path), PoolingVae()), torch.arange(6)
    noise = torch.randn((2, 6, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    mean, drawn = pairs.batch(rows).latents_1, pairs.batch(rows, noise).latents_1
    torch.testing.assert_close(drawn, mean + (-mean).exp() * noise[1], atol=2e-3, rtol=0)
    live = open_latents("shapes:20:1", PoolingVae()).batch(rows, noise)
    assert torch.equal(live.latents_1, drawn)
    joined = LatentPairs.cat([pairs, pairs])
    assert torch.equal(joined.batch(rows + len(pairs), noise).latents_1, drawn)


def test_a_cache_and_its_images_give_the_same_batches(pickapic, tmp_path, caplog):
    """Pairs whose image is damaged in every row that shows it are left out of both, and told."""
    encode(pickapic, tmp_path)
    with caplog.at_level(logging.WARNING):
        cached = open_latents(str(tmp_path), PoolingVae())
        live = open_latents(pickapic, PoolingVae())
    assert len(cached) == len(live) < 38
    assert "not trained on: " in caplog.text
    assert "its copy in another row was used" in caplog.text
    order = torch.randperm(len(cached), generator=torch.Generator().manual_seed(1))
    for name in ("latents_0", "latents_1", "label_0", "weight"):
        assert torch.equal(getattr(cached.batch(order), name), getattr(live.batch(order), name)), name
    assert cached.batch(order).prompts == live.batch(order).prompts
    assert cached.table["row"].tolist() == live.table["row"].tolist()


@pytest.mark.parametrize("stops", [[0], [7], [10, 2, 19]])
def test_an_interrupted_encoding_ends_in_the_same_bytes(stops, pickapic, tmp_path):
    encode(pickapic, tmp_path / "straight")
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            encode(pickapic, tmp_path / "stopped", PoolingVae(stop_after=stop))
    encode(pickapic, tmp_path / "stopped")
    assert files(tmp_path / "stopped") == files(tmp_path / "straight")
    assert not list((tmp_path / "stopped").rglob(".*.tmp"))
    again = encode(pickapic, tmp_path / "stopped", vae := PoolingVae())
    assert (again.images, vae.asked) == (0, 0)


def test_workers_share_the_shards(pickapic, tmp_path):
    encode(pickapic, tmp_path / "one")
    done = [encode(pickapic, tmp_path / "three", worker=(rank, 3)) for rank in (2, 0, 1)]
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert all(part.images for part in done)


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "shard-00001.jsonl"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data[:-30] + b"x" + data[-29:], lambda _: b""]
)
def test_a_damaged_shard_is_named_and_made_again(name, damage, tmp_path):
    encode("shapes:12", tmp_path)
    before, told = files(tmp_path), []
    (tmp_path / name).write_bytes(damage(before[name]))
    with pytest.raises(
        UserError, match=r"shard-00001\.safetensors is damaged: run the `lpobench data encode`"
    ):
        open_latents(str(tmp_path), PoolingVae())
    done = encode("shapes:12", tmp_path, say=told.append)
    assert (done.rebuilt, done.images) == (["shard-00001.safetensors"], 8)
    assert "shard-00001.safetensors is damaged" in told[0]
    assert files(tmp_path) == before


def test_a_cache_of_something_else_is_refused(tmp_path):
    encode("shapes:12", tmp_path)
    for problem, changed in (
        ("vae is pool, that of pooling is other", PoolingVae("other")),
        ("latent_shape is .3, 8, 8., that of pooling is .3, 4, 4.", smaller()),
    ):
        with pytest.raises(UserError, match=problem):
            open_latents(str(tmp_path), changed)
    for problem, source, vae in (
        ('its vae is "pool", this one\'s "other"', "shapes:12", PoolingVae("other")),
        ("its size is 64, this one's 32", "shapes:12", PoolingVae(side=32)),
        ("its source is", "shapes:13", PoolingVae()),
    ):
        with pytest.raises(UserError, match=f"holds other work: {problem}.*choose another --out"):
            encode(source, tmp_path, vae)
    with pytest.raises(UserError, match=r"a shard of latents holds at most 2604166 images"):
        encode("shapes:12", tmp_path, per_shard=10**7)


def smaller() -> PoolingVae:
    vae = PoolingVae()
    vae.latent_shape = (3, 4, 4)
    return vae


def test_an_unfinished_cache_is_refused(tmp_path):
    encode("shapes:12", tmp_path, worker=(0, 2))
    with pytest.raises(UserError, match="is not finished: 2 of 3 shards are missing"):
        open_latents(str(tmp_path), PoolingVae())
    encode("shapes:12", tmp_path, worker=(1, 2))
    assert len(open_latents(str(tmp_path), PoolingVae())) == 16
    (tmp_path / "rows.csv.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"rows\.csv\.gz is damaged or was changed"):
        open_latents(str(tmp_path), PoolingVae())


def test_kept_pairs_and_their_gaps_are_what_is_encoded(tmp_path):
    source = open_pairs("shapes:20")
    table = pair_table(source).assign(aesthetic_gap=np.linspace(-1, 1, 24))
    kept, counts = filter_pairs(table, Rule("aesthetic_gap > 0"), ["aesthetic_gap"])
    path = tmp_path / "kept.csv.gz"
    write_kept(kept, path, {"source": "shapes:20", "split": None}, counts)
    encode("shapes:20", tmp_path / "cache", kept=path)
    cached, live = (open_latents(str(place), PoolingVae()) for place in (tmp_path / "cache", path))
    assert cached.table["row"].tolist() == live.table["row"].tolist() == list(range(12, 24))
    assert cached.table["aesthetic_gap"].tolist() == live.table["aesthetic_gap"].tolist()
    assert torch.equal(cached.batch(torch.arange(12)).latents_0, live.batch(torch.arange(12)).latents_0)
    assert np.isnan(cached.true_gap).all()
    assert cached.table["aesthetic_gap"].tolist() == table["aesthetic_gap"].iloc[12:].tolist()
    assert identity_of(str(tmp_path / "cache")) == tmp_path / "cache" / "cache.json"
    assert identity_of(str(path)) == path
    assert json.loads(identity_of("shapes:20"))["seed"] == 0


def test_odd_images_are_resized_to_the_square(tmp_path):
    encode("shapes:4", tmp_path, PoolingVae(side=32))
    assert json.loads((tmp_path / "cache.json").read_text())["size"] == 32
    assert open_store(tmp_path).shape("mean") == (3, 8, 8)


@dataclass(frozen=True)
class Letters(Conditioning):
    """Lengths and first letters of prompts."""

    length: Tensor
    letters: Tensor


class Speller:
    name = "speller"

    def __init__(self, scale: float = 1.0):
        self.scale, self.asked = scale, []

    def encode_prompt(self, prompts):
        self.asked += prompts
        letters = [[ord(letter) for letter in f"{prompt:5.5}"] for prompt in prompts]
        lengths = torch.tensor([[float(len(prompt))] for prompt in prompts])
        return Letters(lengths, torch.tensor(letters).float() * self.scale)


def test_text_embeddings_come_back(tmp_path):
    table = pair_table(open_pairs("shapes:20"))
    distinct = list(dict.fromkeys(table["caption"]))
    speller = Speller()
    assert encode_texts(table, speller, tmp_path, per_shard=3) == len(distinct)
    assert len(speller.asked) == len(distinct) + 2
    like = Speller().encode_prompt([""])
    texts = StoredTexts.open(tmp_path, table["caption"], like)
    wanted = [distinct[i] for i in (4, 0, 4, 7)]
    found, expected = texts.conditioning(wanted), Speller().encode_prompt(wanted)
    assert torch.equal(found.letters, expected.letters)
    assert torch.equal(found.length, expected.length)
    with pytest.raises(UserError, match="keeps no embedding of 'a new one'"):
        texts.conditioning(["a new one"])
    again = Speller()
    encode_texts(table, again, tmp_path, per_shard=3)
    assert len(again.asked) == 2, "the probe"
    with pytest.raises(UserError, match="are of other text encoders"):
        encode_texts(table, Speller(1.5), tmp_path, per_shard=3)
    (tmp_path / "text-00000.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"text-00000\.safetensors is damaged"):
        StoredTexts.open(tmp_path, table["caption"], like)
