"""Where assets lie on this machine. Looks at the disk only, never at the network."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from lpobench.data.assets.table import Asset, find
from lpobench.plugin import MissingAsset, UserError

COMMIT = re.compile(r"[0-9a-f]{40}")
SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d+)-of-(?P<count>\d+)\b.*")


def locate(name_or_id: str) -> Path:
    """The file or folder of an asset, by its name or by a Hub id `org/name[@revision]`.

    First the place it was given (`lpobench download NAME --from PATH`), then $LPOBENCH_ASSETS/NAME, then the
    Hugging Face cache, original before mirrors. Raises UserError for an unknown name, and MissingAsset, which
    says what is missing and what supplies it. A place that was given and is not whole is an error: other
    weights are never taken instead.
    """
    asset = find(name_or_id)
    path, problem = look(asset)
    if path is None:
        raise MissingAsset(f"no {asset.name} on this machine ({problem}); {how_to_supply(asset)}")
    return path


def look(asset: Asset) -> tuple[Path | None, str]:
    """Where the asset lies, or None and what is wrong, in a few words."""
    if given := given_place(asset):
        path, lacking = whole(asset, given)
        return (path, "") if path else (None, f"{given} {lacking}")
    problem = ""
    for repo, revision in asset.sources:
        snapshot, other = _snapshot(repo, asset.repo_type, revision)
        path, lacking = whole(asset, snapshot) if snapshot else (None, "")
        if path:
            return path, ""
        problem = problem or (f"{snapshot} {lacking}" if snapshot else other)
    return None, problem or describe(asset)


def describe(asset: Asset) -> str:
    """`Stable Diffusion 1.5, org/name, size 4.27 GB, licence CreativeML OpenRAIL-M`."""
    if not asset.listed:
        return f"neither a folder here nor a repository in {hub_cache()}"
    return f"{asset.note}, {asset.origin}, size {asset.size}, licence {asset.terms}"


def how_to_supply(asset: Asset) -> str:
    """What a user can do about a missing asset, in one line."""
    fetch = f"`lpobench download {asset.name}` fetches it"
    if asset.gated:
        fetch += f" once its licence is accepted at {asset.hub_page} and `hf auth login` is done"
    elif not (asset.repo or asset.urls):
        fetch = f"get it from {asset.page}"
    return f"{fetch}; {how_to_give(asset)}"


def how_to_give(asset: Asset) -> str:
    """How a user says where a copy is."""
    take = f"`lpobench download {asset.name} --from PATH` takes a copy you have"
    return f"{take}, and so does $LPOBENCH_ASSETS/{asset.name}" if asset.listed else take


def given_place(asset: Asset) -> Path | None:
    """The place a user gave, which may not be there; None where none was given."""
    if asset.name in (noted := noted_places()):
        return Path(noted[asset.name])
    place = own_place(asset)
    return place if place.exists() else None


def own_place(asset: Asset) -> Path:
    """Where a user may put an asset, and where those from outside the Hub are put: $LPOBENCH_ASSETS/NAME."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    root = os.environ.get("LPOBENCH_ASSETS") or f"{cache}/lpobench/assets"
    return Path(root).expanduser() / asset.name.replace("/", "--")


def places_file() -> Path:
    """Where `lpobench download --from` and `--to` note places: JSON, asset name -> absolute path."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "lpobench" / "assets.json"


def noted_places() -> dict[str, str]:
    """What that file says. Raises UserError where it cannot be read."""
    file = places_file()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}; mend or delete it") from error
    if not isinstance(found, dict) or not all(isinstance(path, str) for path in found.values()):
        raise UserError(f"{file} should map asset names to paths; mend or delete it")
    return found


def note_place(asset: Asset, place: Path | None) -> None:
    """Remember where an asset is; None forgets it."""
    before = noted_places()
    noted = {name: path for name, path in before.items() if name != asset.name}
    if place is not None:
        noted[asset.name] = str(place.absolute())
    if noted == before:
        return
    file = places_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise UserError(
            f"cannot write {file}: {error.strerror}; set $LPOBENCH_ASSETS to a folder that holds {asset.name}"
        ) from error


def hub_cache() -> Path:
    """The Hugging Face cache, by the variables its own library reads."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{home}/huggingface"
    spelled = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(spelled)).expanduser()


def repo_cache(repo: str, repo_type: str) -> Path:
    """A repository's folder in the Hugging Face cache."""
    return hub_cache() / f"{repo_type}s--{repo.replace('/', '--')}"


def _snapshot(repo: str, repo_type: str, revision: str | None) -> tuple[Path | None, str]:
    """The files of a repository's revision in the cache, all or some; or None, and what is there instead."""
    root = repo_cache(repo, repo_type)
    ref = root / "refs" / (revision or "main")
    if revision and COMMIT.fullmatch(revision):
        commit = revision
    else:
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else ""
    snapshot = root / "snapshots" / commit
    if commit and snapshot.is_dir():
        return snapshot, ""
    others = sorted(path.name for path in root.glob("snapshots/*"))
    wanted = commit or revision or "main"
    return None, f"{root} has revision {', '.join(others)}, not {wanted}" if others else ""


def whole(asset: Asset, place: Path) -> tuple[Path | None, str]:
    """What `locate` returns for this place, or None and what is wrong: `lacks unet/config.json`.

    A place may be the whole repository, the asset's folder in it, or a single file.
    """
    if place.is_file():
        return place, ""
    if not place.is_dir():
        return None, "is not there"
    folder = asset_folder(asset, place)
    lacking = [pattern.replace("|", " or ") for pattern in asset.needed if not _matches(folder, pattern)]
    lacking = lacking or _missing_files(folder)
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        return None, f"lacks {', '.join(lacking[:3])}{more}"
    if not any(folder.iterdir()):
        return None, "is empty"
    return folder / asset.file, ""


def asset_folder(asset: Asset, place: Path) -> Path:
    """The asset's own folder, given that or the whole repository."""
    return place / asset.folder if (place / asset.folder).is_dir() else place


def _matches(folder: Path, pattern: str) -> bool:
    return any(path.is_file() for option in pattern.split("|") for path in folder.glob(option))


def _missing_files(folder: Path) -> list[str]:
    """Links to nothing, and of files numbered `x-00001-of-00004.y` the series of which some are not there."""
    missing: list[str] = []
    series: dict[tuple[str, str, str], set[str]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.exists():
            missing.append(name)
        elif match := SHARD.fullmatch(name):
            series.setdefault((match["stem"], match["count"], path.suffix), set()).add(match["number"])
    for (stem, count, suffix), found in series.items():
        if (few := int(count) - len(found)) > 0:
            missing.append(f"{few} of the {int(count)} files {stem}-*-of-{count}{suffix}")
    return missing
