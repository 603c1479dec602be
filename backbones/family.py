"""Settings that every family of diffusers pipelines shares: where the weights are, image size, placement. No torch.

A family is a subclass that changes defaults. What a folder holds is checked against its model_index.json before
any weight is read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, PositiveInt, field_validator

from lpobench.plugin import BackboneSettings, MissingAsset, UserError

PICKLES = {".bin", ".pt", ".pth", ".ckpt"}

Place = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


class PipelineSettings(BackboneSettings):
    """A text-to-image model in the layout of a diffusers pipeline."""

    name: ClassVar[str]
    """What users call it."""
    pipeline: ClassVar[str]
    """The stock pipeline class, as model_index.json names it."""
    parts: ClassVar[tuple[str, ...]]
    """Components the pipeline must have."""
    prediction: ClassVar[Literal["epsilon", "v_prediction", "flow"]] = "epsilon"
    """What the scheduler's config must say."""
    space: ClassVar[str]
    """Name of the VAE's latent space."""
    asset: ClassVar[str]
    """Name of its weights in the table of assets."""
    shipped: ClassVar[Path | None] = None
    """Folder of the weights when they come with the project, in place of an asset."""
    architecture: ClassVar[str | None]
    """What random weights are made for, a name in _diffusers/architectures.py; None has none."""
    resolution_step: ClassVar[int] = 8
    slices_attention: ClassVar[bool] = True
    """Whether its denoiser can compute attention in slices."""
    one_file: ClassVar[bool] = True
    """Whether its single files hold all its parts."""
    made_for: ClassVar[int | None] = None
    """Width and height of images in pixels, where the denoiser's config does not say."""

    weights: Place = "default"
    """"default": the published model, once downloaded; "random": its true architecture with random weights, for
    timing; or a pipeline folder, one .safetensors file, or a downloaded hub id (organisation/name@revision)"""
    vae: Place | None = None
    """another VAE in place of the pipeline's own: a folder, an asset's name, or a downloaded hub id; not read
    with random weights"""
    resolution: PositiveInt | None = None
    """width and height of images in pixels; none: what the denoiser was made for"""
    attention_slicing: bool = False
    """attention in slices: less memory, slower"""
    vae_tiling: bool = False
    """decode one image at a time and in tiles: less memory; images larger than a tile change slightly"""
    text_encoders: Literal["keep", "offload", "release"] = "keep"
    """keep: on the device; offload: on the CPU between encodings; release: freed once all prompts of the run are
    encoded, which are then kept in the computer's memory (in half precision 0.1 MB each for SD1.5, 0.3 MB for
    SDXL, 2.7 MB for SD3 with T5, 4.2 MB for FLUX.1)"""

    @field_validator("weights")
    @classmethod
    def _has_an_architecture(cls, value: str) -> str:
        if value == "random" and cls.architecture is None:
            raise ValueError("random weights are made at the published models' size only")
        return value

    @field_validator("resolution")
    @classmethod
    def _whole_latents(cls, value: int | None) -> int | None:
        if value is not None and value % cls.resolution_step:
            raise ValueError(f"should be a multiple of {cls.resolution_step}, got {value}")
        return value

    @field_validator("attention_slicing")
    @classmethod
    def _can_be_sliced(cls, value: bool) -> bool:
        if value and not cls.slices_attention:
            raise ValueError(f"should be off: the transformer of {cls.name} has no sliced attention")
        return value

    @property
    def latent_space(self) -> str:
        return self.space

    @property
    def pixels(self) -> int | None:
        """Width and height of images; None: as the denoiser's config says."""
        return self.resolution or self.made_for

    @property
    def releases_text_encoders(self) -> bool:
        return self.text_encoders == "release"

    def assets(self) -> dict[str, Path]:
        """The weights, checked for their layout. Raises MissingAsset or UserError; empty for random weights."""
        if self.weights == "random":
            return {}
        weights, vae = self.located(), self.located_vae()
        found = {"weights": weights} | ({"VAE": vae} if vae else {})
        return found if weights.is_dir() else found | {"configs": self.configs(weights)}

    def located(self) -> Path:
        """Folder or file of the weights, of the right family. Raises MissingAsset or UserError."""
        place = locate(self.weights) if self.weights != "default" else self.shipped or locate(self.asset)
        if place.is_dir():
            self._check_folder(place)
        elif not place.exists():
            raise MissingAsset(f"no such model folder: {place}")
        elif place.suffix in PICKLES:
            raise UserError(f"{place} is a pickle and is not read; convert it to safetensors")
        elif place.suffix != ".safetensors":
            raise UserError(f"{place} is neither a pipeline folder nor a .safetensors file")
        elif not self.one_file:
            raise UserError(
                f"{place} is one file, in which this model comes without its text encoders; "
                f"backbone {self.name} reads a pipeline folder"
            )
        return place

    def located_vae(self) -> Path | None:
        """Folder of another VAE, if one is asked for. Raises MissingAsset or UserError."""
        if self.vae is None:
            return None
        place = locate(self.vae)
        folder = next((at for at in (place, place / "vae") if (at / "config.json").is_file()), None)
        if folder is None:
            raise UserError(f"vae: {place} holds no VAE: no config.json in it or in its vae/")
        found = read_json(folder / "config.json").get("_class_name")
        if found != "AutoencoderKL":
            raise UserError(f"vae: {folder} holds {found}, not AutoencoderKL")
        return folder

    def configs(self, file: Path) -> Path:
        """The pipeline folder that says what a single file cannot: configs and tokenizers, no weights.

        The one the file lies in, or the published model's. Raises MissingAsset when neither is there.
        """
        for folder in (file.parent, self._published()):
            if folder is not None and (folder / "model_index.json").is_file():
                self._check_folder(folder)
                return folder
        raise MissingAsset(
            f"{file} holds no tokenizer and no configs; put it into the folder of a {self.pipeline} "
            f"(model_index.json, configs, tokenizers), or `lpobench download {self.asset}`"
        )

    def _published(self) -> Path | None:
        try:
            return self.shipped or locate(self.asset)
        except MissingAsset:
            return None

    def _check_folder(self, folder: Path) -> None:
        """Is it this family's pipeline, and whole? Reads configs only."""
        if not (folder / "model_index.json").is_file():
            raise UserError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
        index = read_json(folder / "model_index.json")
        if (found := index.get("_class_name")) != self.pipeline:
            raise UserError(f"{folder} holds a {found}; backbone {self.name} reads a {self.pipeline}")
        for part in self.parts:
            if index.get(part, [None])[0] is None:
                raise UserError(
                    f"{folder} has no {part}, its model_index.json says; backbone {self.name} needs it"
                )
            if not (folder / part).is_dir():
                raise MissingAsset(
                    f"{folder} has no {part}/, which its model_index.json lists; is it all there?"
                )
        found = prediction_of(read_json(folder / "scheduler" / "scheduler_config.json"))
        if found != self.prediction:
            raise UserError(
                f"{folder} predicts {found}, its scheduler config says; backbone {self.name} is for {self.prediction}"
            )


def locate(place: str) -> Path:
    """A path that exists, or where an asset or a hub id lies on this machine. Raises MissingAsset or UserError."""
    path = Path(place).expanduser()
    if path.exists():
        return path
    if place.startswith((".", "/", "~")) or place.count("/") > 1 or path.suffix == ".safetensors":
        raise MissingAsset(f"no such model folder: {path}; give a diffusers pipeline folder that holds it")
    from lpobench.data import assets

    return assets.locate(place)


def read_json(path: Path) -> dict:
    """A config file. Raises MissingAsset or UserError."""
    if not path.is_file():
        raise MissingAsset(f"{path.parent} has no {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


def prediction_of(scheduler: dict) -> str:
    """What the denoiser predicts, as a scheduler's config says."""
    if "FlowMatch" in str(scheduler.get("_class_name")):
        return "flow"
    return str(scheduler.get("prediction_type", "epsilon"))
