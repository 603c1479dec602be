"""Images without the files that an evaluation keeps them in."""

from collections.abc import Iterator, Sequence

from lpobench.sampling import Policy
from lpobench.scoring.generate import Batch, Painter, Sampler
from lpobench.scoring.staged import images_of
from lpobench.spec import EvalSettings
from lpobench.types import Prompt


def generate(
    policy: Policy,
    prompts: Sequence[Prompt],
    settings: EvalSettings,
    *,
    reference: bool,
    sampler: Sampler | None = None,
    noise: str = "prompt",
) -> Iterator[Batch]:
    """`images_per_prompt` images of every prompt, `batch_size` at a time."""
    painter = Painter(policy, settings, reference, sampler, noise)
    return painter.paint(images_of(prompts, range(settings.images_per_prompt)))
