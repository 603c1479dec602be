"""GenEval's summary of a table small enough to do by hand."""

import pandas as pd
import pytest

from evaluators.geneval.settings import GenEval, GenEvalFAIR
from lpobench.data import geneval

COLUMNS = ["prompt_id", "task", "geneval"]
ROWS = [("c", "position", 1), ("c", "position", 1)]
ROWS += [("a", "colors", 1), ("a", "colors", 0), ("b", "colors", 0), ("b", "colors", 0)]


def test_means_of_images_and_of_each_prompts_best():
    """Colours: 1 of 4 images, 1 of 2 prompts has one. Position: both images of one prompt. Tasks weigh alike:
    (0.25 + 1) / 2, where the mean over images is 1/2.
    """
    found = GenEval().summary(pd.DataFrame(ROWS, columns=COLUMNS))
    images = {"overall": 0.625, "colors": 0.25, "position": 1.0}
    prompts = {"any overall": 0.75, "any colors": 0.5, "any position": 1.0}
    assert found == pytest.approx(images | prompts)
    assert list(found) == [*images, *prompts]


def test_the_published_table_of_sd15():
    """LPO's: six tasks in percent, 42.56 together."""
    percent = dict(zip(geneval.TASKS, (97.50, 37.12, 34.69, 75.53, 3.75, 6.75), strict=True))
    rows = [(name, name, value / 100) for name, value in percent.items()]
    scores = pd.DataFrame(rows, columns=[*COLUMNS[:2], "geneval_fair"])
    assert round(100 * GenEvalFAIR().summary(scores)["overall"], 2) == 42.56
