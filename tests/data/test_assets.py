"""Finding assets on this machine without the network, and what is said of those that are not there."""

from pathlib import Path

import pytest
from fake_hub import COMMIT, write_files, write_snapshot
from processes import worked

from lpobench.data.assets import find, locate
from lpobench.data.assets.places import places_file
from lpobench.plugin import MissingAsset, UserError

pytestmark = pytest.mark.usefixtures("no_hub")

VAE = "sdxl-vae-fp16-fix"
VAE_REPO = "madebyollin/sdxl-vae-fp16-fix"
VAE_FILES = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"weights"}


def missing(name: str) -> str:
    with pytest.raises(MissingAsset) as caught:
        locate(name)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


# in the cache


def test_the_table_is_read_without_torch_or_the_hub_client():
    heavy = ["torch", "diffusers", "transformers", "huggingface_hub", "numpy", "pandas"]
    script = (
        "import sys\nfrom lpobench.data import assets\nassets.names()\n"
        f"assert not set(sys.modules) & set({heavy!r})"
    )
    worked(["-c", script])


def test_what_is_missing_is_told_with_what_supplies_it(here):
    assert missing(VAE) == (
        f"no {VAE} on this machine (SDXL's VAE, made to stay finite in float16, {VAE_REPO}, size 335 MB, "
        f"licence MIT); `lpobench download {VAE}` fetches it; `lpobench download {VAE} --from PATH` takes a copy "
        f"you have, and so does $LPOBENCH_ASSETS/{VAE}"
    )
    text = missing("sd3")
    assert "size 15.5 GB, licence Stability AI Community License, gated" in text
    assert "once its licence is accepted at https://huggingface.co/stabilityai/" in text
    assert "; get it from https://drive.google.com/" in missing("unidet-r50")
    assert f"neither a folder here nor a repository in {here.cache}" in missing("some/repository")


def test_in_the_cache_by_the_pinned_revision(here):
    snapshot = write_snapshot(here.cache, VAE_REPO, VAE_FILES, commit=find(VAE).revision, ref=None)
    assert locate(VAE) == snapshot
    assert locate(f"{VAE_REPO}@{find(VAE).revision}") == snapshot


def test_another_revision_in_the_cache_is_not_taken(here):
    write_snapshot(here.cache, VAE_REPO, VAE_FILES)
    assert f"has revision {COMMIT}, not {find(VAE).revision}" in missing(VAE)


def test_by_hub_id_branch_and_tag(here):
    snapshot = write_snapshot(here.cache, "org/repo", {"a.json": b"{}"})
    tagged = write_snapshot(here.cache, "org/repo", {"a.json": b"{1}"}, commit="b" * 40, ref="v1")
    assert locate("org/repo") == snapshot
    assert locate("org/repo@main") == snapshot
    assert locate("org/repo@v1") == tagged
    assert "not v2" in missing("org/repo@v2")


def test_a_mirror_in_the_cache_serves(here):
    mirror, commit = find("sd21").sources[1]
    assert mirror.startswith("sd2-community/")
    files = dict.fromkeys(find("sd21").files, b"x")
    assert locate_after(here, "sd21", mirror, files, commit=commit, ref=None).parts[-1] == commit
    original = write_snapshot(here.cache, find("sd21").repo, files)
    assert locate("sd21") == original


def locate_after(here, name, repo, files, **options) -> Path:
    write_snapshot(here.cache, repo, files, **options)
    return locate(name)


def test_data_sets_have_a_cache_of_their_own_kind(here):
    asset = find("pickapic-v1")
    files = {f"data/train-0000{i}-of-00002-abc.parquet": b"x" for i in range(2)}
    snapshot = write_snapshot(here.cache, asset.mirrors[0], files, kind="dataset")
    assert locate("pickapic-v1") == snapshot
    assert "pickapic-v1-prompts" in missing("pickapic-v1-prompts")


def test_a_subfolder_and_a_single_file(here):
    unet = {
        f"lpo_sd15_merge/unet/{name}": b"x" for name in ("config.json", "diffusion_pytorch_model.safetensors")
    }
    snapshot = write_snapshot(here.cache, "casiatao/LPO", unet)
    assert locate("lpo-sd15") == snapshot / "lpo_sd15_merge" / "unet"
    assert "lacks config.json" in missing("lpo-sdxl"), "the same repository, another folder"
    scorer = find("hpsv2.1")
    snapshot = write_snapshot(here.cache, scorer.repo, {scorer.file: b"x"}, commit=scorer.revision, ref=None)
    assert locate("hpsv2.1") == snapshot / "HPS_v2.1_compressed.pt"
    assert "lacks HPS_v2_compressed.pt" in missing("hpsv2")


@pytest.mark.parametrize("lost", [{"config.json"}, {"diffusion_pytorch_model.safetensors"}])
def test_an_unfinished_download_is_no_asset(here, lost):
    rest = {name: content for name, content in VAE_FILES.items() if name not in lost}
    write_snapshot(here.cache, VAE_REPO, rest, commit=find(VAE).revision)
    assert f"lacks {lost.pop()}" in missing(VAE)


def test_a_link_to_nothing_is_a_missing_file(here):
    snapshot = write_snapshot(here.cache, "org/repo", {"a.json": b"{}", "b.txt": b"b"})
    (snapshot / "b.txt").resolve().unlink()
    assert "lacks b.txt" in missing("org/repo")


@pytest.mark.parametrize("there", [range(1, 4), range(4)])
def test_a_series_of_numbered_files_must_be_complete(here, there):
    files = {f"data/train-{i:05}-of-00004-{i}a.parquet": b"x" for i in there}
    write_snapshot(here.cache, "yuvalkirstain/pickapic_v1", files, kind="dataset")
    if len(there) == 4:
        assert locate("pickapic-v1").name == COMMIT
    else:
        assert "lacks 1 of the 4 files data/train-*-of-00004.parquet" in missing("pickapic-v1")


def test_either_of_two_files_will_do(here):
    files = {name: b"x" for name in find("clip-vit-b32").files if "|" not in name}
    place = write_files(here.own / "clip-vit-b32", files)
    assert "lacks model.safetensors or pytorch_model.bin" in missing("clip-vit-b32")
    write_files(place, {"pytorch_model.bin": b"x"})
    assert locate("clip-vit-b32") == place


# places that were given


def test_a_users_folder_wins_over_the_cache(here):
    cached = write_snapshot(here.cache, VAE_REPO, VAE_FILES, commit=find(VAE).revision)
    assert locate(VAE) == cached
    own = write_files(here.own / VAE, VAE_FILES)
    assert locate(VAE) == own
    noted = write_files(here.root / "elsewhere", VAE_FILES)
    write_files(places_file().parent, {"assets.json": f'{{"{VAE}": "{noted}"}}'.encode()})
    assert locate(VAE) == noted


def test_a_users_folder_that_is_not_whole_is_an_error_not_a_reason_to_look_further(here):
    write_snapshot(here.cache, VAE_REPO, VAE_FILES, commit=find(VAE).revision)
    (here.own / VAE).mkdir(parents=True)
    assert f"{here.own / VAE} lacks config.json, diffusion_pytorch_model.safetensors" in missing(VAE)
    write_files(places_file().parent, {"assets.json": b'{"sdxl-vae-fp16-fix": "/gone"}'})
    assert "/gone is not there" in missing(VAE)


def test_a_users_single_file_stands_for_itself(here):
    file = write_files(here.root, {"v1-5.safetensors": b"x"}) / "v1-5.safetensors"
    write_files(places_file().parent, {"assets.json": f'{{"sd15": "{file}"}}'.encode()})
    assert locate("sd15") == file


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"sd15": 3}', b"\xff"])
def test_a_broken_list_of_places_is_told(here, content):
    write_files(places_file().parent, {"assets.json": content})
    with pytest.raises(UserError, match=r"assets\.json.*mend or delete it"):
        locate("sd15")


PLACES = [
    {"HF_HUB_CACHE": "a"},
    {"HF_HOME": "b"},
    {"XDG_CACHE_HOME": "c"},
    {"HUGGINGFACE_HUB_CACHE": "d"},
    {},
]
PLACES += [{"HF_HOME": "$HOME/e", "XDG_CACHE_HOME": "f"}, {"HF_HUB_CACHE": "~/g", "HF_HOME": "h"}]


def test_the_cache_is_where_the_hub_client_has_it():
    script = f"""
import importlib, os
import huggingface_hub.constants as client
from lpobench.data.assets.places import hub_cache
for place in {PLACES!r}:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    os.environ.update(place)
    assert str(hub_cache()) == importlib.reload(client).HF_HUB_CACHE, place
"""
    worked(["-c", script])
