"""Tables of evaluations: a column per model, one protocol per table."""

from datetime import UTC, datetime

import pytest
from made import protocol

from lpobench.plugin import MissingAsset, UserError
from lpobench.records.evaluation import (
    FILE,
    Difference,
    EvalRecord,
    Mean,
    TaskMean,
    comparable,
    read_evaluations,
)
from lpobench.report.evaluations import to_markdown
from lpobench.report.report import make_report


def mean(value, **changes) -> Mean:
    values = {"mean": value, "low": value - 0.5, "high": value + 0.25, "num_prompts": 6, "num_images": 12}
    return Mean(**{**values, "higher_is_better": True, "unit": "points", **changes})


def evaluation(**changes) -> EvalRecord:
    values = {
        "id": "sdxl-none-standard-1-01234567",
        "backbone": "sdxl",
        "weights": "none",
        "backbone_settings": {},
        "precision": "fp16",
        "base": "f" * 32,
        "protocol": protocol(evaluators={"pickscore": "1"}),
        "means": "Every image is scored.",
        "limits": "",
        "cut": False,
        "finished": datetime(2026, 1, 2, tzinfo=UTC),
        "versions": {},
        "git": None,
        "device": "cpu",
        "processes": 1,
        "costs": {},
        "made": {},
        "metrics": {"pickscore": mean(21.5)},
        "tasks": {"pickscore": {"anime": TaskMean(mean=20.0, num_prompts=3)}},
        "suites": {},
        "scorers": {},
        "files": {},
    }
    return EvalRecord(**values | changes)


MARKDOWN = """\
protocol standard@1: Every image is scored.  
600 shapes prompts (231 texts) x 1 image, 20 steps, guidance 5, noise seed 7; scored by pickscore 1; 95% intervals by \
bootstrap over prompts  
record sdxl-none-standard-1-01234567  
record sdxl-lpo-sdxl-standard-1-89abcdef  

| metric | sdxl | lpo-sdxl on sdxl |
| --- | ---: | ---: |
| pickscore | 21.500 [21.000, 21.750] | 22.500 [22.000, 22.750] |
| distance (lower is better) | n/a | 0.5000 [n/a] |
"""


def test_models_are_columns():
    distance = mean(0.5, low=None, high=None, higher_is_better=False)
    other = evaluation(
        id="sdxl-lpo-sdxl-standard-1-89abcdef",
        weights="lpo-sdxl",
        metrics={"pickscore": mean(22.5), "distance": distance},
    )
    assert to_markdown([evaluation(), other]) == MARKDOWN


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"protocol": "lpo-paper@1"}, "protocol"),
        ({"num_steps": 50}, "num_steps"),
        ({"prompts_sha256": "1" * 64}, "prompts_sha256"),
        ({"guidance_scale": 7.5}, "guidance_scale"),
    ],
)
def test_what_is_not_comparable_never_shares_a_table(changes, what):
    records = [evaluation(), evaluation(id="other", protocol=protocol(**changes))]
    with pytest.raises(
        UserError, match=f"other and sdxl-none.* differ in {what}; numbers of different protocols"
    ):
        to_markdown(records)
    assert comparable([*records, evaluation()]) == [[records[0], evaluation()], [records[1]]]


def test_a_protocol_may_rule_guidance_by_model():
    """As lpo-paper@1 does: 7.5 for some, 5 for others."""
    rows = [evaluation(protocol=protocol(protocol="lpo-paper@1", guidance_scale=g)) for g in (7.5, 5.0)]
    assert "guidance 7.5, 5, noise" in to_markdown(rows)


def test_tasks_suites_differences_and_warnings():
    record = evaluation(
        shown=("pickscore",),
        suites={"geneval": {"overall": 0.5528, "any overall": 0.7}},
        differences={"pickscore": Difference(mean=-1e-5, largest=2e-5)},
        limits="The noise is other noise.",
        cut=True,
    )
    text = to_markdown([record])
    assert "| anime | 3 | 20.000 |" in text
    assert "| geneval, the whole suite | sdxl |" in text
    assert "| overall | 0.5528 |" in text
    assert "| pickscore | -1e-05 | 2e-05 |" in text
    assert "not exactly the original: The noise is other noise." in text
    assert "fewer prompts than the protocol has: for trying things, not a result" in text


def test_records_are_read_back(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / FILE).write_text(evaluation().document())
    assert read_evaluations(tmp_path) == [evaluation(folder=tmp_path / "a")]
    (tmp_path / "a" / FILE).write_text('{"schema_version": 1}')
    with pytest.raises(UserError, match="is not an evaluation's record"):
        EvalRecord.read(tmp_path / "a")
    (tmp_path / "a" / FILE).write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="was written by a later lpobench; upgrade"):
        EvalRecord.read(tmp_path / "a")
    with pytest.raises(MissingAsset, match="no evaluation in"):
        EvalRecord.read(tmp_path)


def test_evaluations_are_part_of_a_report():
    """Under each protocol a document of their own."""
    other = evaluation(id="b", protocol=evaluation().protocol.model_copy(update={"num_steps": 50}))
    report = make_report([], [], [evaluation(), other], {})
    text = report.text("markdown")
    assert text.count(f"## Evaluations under {other.protocol.protocol}\n") == 2
    assert [found["id"] for found in report.as_json()["evaluations"]] == [evaluation().id, "b"]
    lines = report.text("csv").splitlines()
    assert len(lines) == 1 + 2 * len(other.metrics)
    assert lines[-1].startswith("evaluation b,")


def test_what_cannot_be_read_is_named_and_left_out(tmp_path, capsys):
    for name, text in (("good", evaluation().document()), ("torn", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(text)
    assert [found.folder.name for found in read_evaluations(tmp_path)] == ["good"]
    assert capsys.readouterr().err.startswith(f"left out: {tmp_path / 'torn'}")
