"""What a picture's pixels say by themselves: no weights, any prompts, any size.

None of it is quality. It shows what a method changes besides the preference it was trained on: pictures that only
became more saturated, or harder, are a known way to please a reward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lpobench.plugin import EvaluatorSettings, Metric

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lpobench.types import Prompt

COLOURFUL = "Hasler and Suesstrunk 2003, M3 in 8-bit units; 15 slightly, 45 quite, 82 highly colourful"


class Pixels(EvaluatorSettings):
    """Statistics of the pixels: brightness, contrast, colourfulness, sharpness. More is not better."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {
        "brightness": Metric(0, 1, True, "share of white", "mean luma, Rec. 709 weights"),
        "contrast": Metric(0, 0.5, True, "share of white", "standard deviation of luma"),
        "colourfulness": Metric(0, 500, True, "8-bit units", COLOURFUL),
        "sharpness": Metric(0, 4, True, "share of white", "root mean square of the Laplacian of luma"),
    }

    def load(self, device: torch.device, dtype: torch.dtype) -> Pixels:
        """Nothing to load: the settings are the live evaluator."""
        return self

    def score(self, images: torch.Tensor, prompts: list[Prompt]) -> pd.DataFrame:
        """One row per image (n 3 H W, [0, 1], at least 3 pixels wide and high)."""
        import pandas as pd

        red, green, blue = images.cpu().double().unbind(1)
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        inner = luma[:, 1:-1, 1:-1]
        around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
        columns = {
            "brightness": luma.mean((1, 2)),
            "contrast": luma.std((1, 2), correction=0),
            "colourfulness": _colourfulness(red, green, blue),
            "sharpness": (around - 4 * inner).pow(2).mean((1, 2)).sqrt(),
        }
        return pd.DataFrame({name: values.tolist() for name, values in columns.items()})


def _colourfulness(red: torch.Tensor, green: torch.Tensor, blue: torch.Tensor) -> torch.Tensor:
    opponents = 255 * (red - green), 255 * ((red + green) / 2 - blue)
    spread = sum(opponent.var((1, 2), correction=0) for opponent in opponents).sqrt()
    centre = sum(opponent.mean((1, 2)) ** 2 for opponent in opponents).sqrt()
    return spread + 0.3 * centre
