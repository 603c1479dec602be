"""The table of assets: every row is sound, and what is not known is told as unknown."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lpobench.data import assets
from lpobench.data.assets import find, human_size, locate
from lpobench.plugin import UserError

pytestmark = pytest.mark.usefixtures("no_hub")

VAE = "sdxl-vae-fp16-fix"
ROWS = list(assets.table().values())


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("model", "sd15 sd21 sd21-v sdxl sdxl-vae-fp16-fix sd3 sd35 sd35-large flux z-image"),
        ("reward", "lrm-15 lrm-xl spm-15 spm-xl dina-lrm"),
        ("checkpoint", "lpo-sd15 lpo-sdxl spo-sd15 spo-sdxl dpo-sd15 dpo-sdxl mapo-sdxl"),
        ("scorer", "pickscore hpsv2 hpsv2.1 imagereward aesthetic clip-vit-b32 clip-vit-l14 clip-vit-h14"),
        ("scorer", "vqascore-xl vqascore-xxl geneval-detector blip-vqa dpt-hybrid unidet-rs200 unidet-r50"),
        ("dataset", "pickapic-v1 pickapic-v2 hpdv2 mpcf-scores prompts-4k"),
    ],
)
def test_what_others_ask_for_is_in_the_table(kind, some):
    assert set(some.split()) <= set(assets.names(kind))


@pytest.mark.parametrize("asset", ROWS, ids=[asset.name for asset in ROWS])
def test_every_row_is_sound(asset):
    assert asset.kind in assets.KINDS
    assert asset.repo or asset.urls or asset.page
    assert asset.note
    assert "\n" not in asset.note + asset.seen
    for repo, revision in asset.sources:
        assert re.fullmatch(r"([\w.-]+/)?[\w.-]+", repo)
        assert revision is None or re.fullmatch("[0-9a-f]{40}", revision), "a branch moves"
    assert all(url.startswith("https://") for url in (*asset.urls, asset.page or "https://"))
    assert not asset.urls or bool(asset.file) != all(url.endswith("/") for url in asset.urls)
    assert asset.needed or asset.optional or asset.page, "it would fetch a whole repository"
    assert not asset.gated or (asset.repo and not asset.mirrors), "no way around a licence"
    for file, digest in asset.sha256.items():
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert any(Path(file).match(pattern) for pattern in (*asset.needed, *asset.optional))
    assert asset.size_bytes is None or asset.size_bytes > 0


def test_models_are_fetched_without_pickles():
    for asset in map(find, assets.names("model")):
        assert not [pattern for pattern in asset.needed if pattern.endswith((".bin", ".pt", ".ckpt"))]


SIZES = [(None, "unknown"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3_714_759, "3.71 MB")]
SIZES += [(999_600, "1 MB"), (4_265_076_690, "4.27 GB"), (202e9, "202 GB"), (1.2e13, "12 TB")]


@pytest.mark.parametrize(("size", "text"), SIZES)
def test_sizes_are_told_in_three_digits(size, text):
    assert human_size(size) == text


def test_sources_are_the_original_and_then_the_mirrors():
    asset = replace(find(VAE), repo="a/b", revision="c" * 40, mirrors=("d/e@v1", "f/g"))
    assert asset.sources == [("a/b", "c" * 40), ("d/e", "v1"), ("f/g", None)]


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(UserError) as caught:
        locate("sdxll")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith('unknown asset "sdxll"; did you mean sdxl')
    with pytest.raises(UserError, match="`lpobench list assets` shows all"):
        find("/no/such/place")
