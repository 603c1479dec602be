"""Comparisons of runs: what is pooled, what is never put together, what is marked best."""

import json

import pytest
from made import paired, protocol, record, seed_run
from make_records import METRICS, Maker

from lpobench.plugin import UserError
from lpobench.records.compare import compare_families, comparisons
from lpobench.records.effort import effort, reward_seconds
from lpobench.records.families import families
from lpobench.records.record import Checkpoint, Cost, RunRecord
from lpobench.records.settings import differing, flat, tell_apart
from lpobench.records.stats import paired as compared

BETA = {"method": {"name": "lpo", "beta": 1.0}, "seed": 2}


def rows(records):
    (found,) = comparisons(records)
    return found.rows


def test_pooling_averages_seeds_before_prompts(tmp_path):
    """Base 0, seed 0: 1 0 0, seed 1: 1 1 1. Means per prompt 1, 1/2, 1/2: difference 2/3, all wins."""
    runs = [seed_run(tmp_path, 1, [1, 1, 1], [0, 0, 0]), seed_run(tmp_path, 0, [1, 0, 0], [0, 0, 0])]
    base, row = rows(runs)
    entry = row.entries["correct"]
    assert (entry.difference, entry.win_rate) == (pytest.approx(2 / 3), 1.0)
    assert [run.seed for run in row.records] == [0, 1] == list(row.seeds)
    assert entry.by_seed == pytest.approx((1 / 3, 1))
    assert entry.spread == pytest.approx(2 / 3 / 2**0.5)
    assert base.is_base
    assert (base.method, base.entries["correct"].difference) == ("none", None)


def test_a_pooled_interval_is_that_of_the_mean_over_seeds(tmp_path):
    base, one, two = [0, 0, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 1]
    runs = [seed_run(tmp_path, seed, scores, base) for seed, scores in ((0, one), (1, two))]
    entry = rows(runs)[1].entries["correct"]
    means = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    settings = protocol()
    expected = compared(
        base, means, list("abcde"), settings.confidence, settings.bootstrap_samples, settings.seed
    )
    assert (entry.low, entry.high) == pytest.approx((expected.low, expected.high))
    assert entry.win_rate == expected.win_rate


def test_one_seed_keeps_the_interval_of_its_record_and_needs_no_scores(tmp_path):
    run = seed_run(tmp_path, 0, [1, 0, 1], [0, 0, 0])
    (tmp_path / "run-s0" / "scores.csv").unlink()
    entry = rows([run])[1].entries["correct"]
    noted = run.metrics["correct"]
    assert (entry.low, entry.high, entry.win_rate) == (noted.low, noted.high, noted.win_rate)
    assert entry.spread is None


def test_families_differ_in_more_than_the_seed(tmp_path):
    a0, a1 = (seed_run(tmp_path, seed, [1], [0]) for seed in (0, 1))
    b0 = seed_run(tmp_path, 2, [1], [0], spec=BETA)
    one, other = families([a0, b0, a1])
    assert [one.records, other.records] == [(a0, a1), (b0,)]
    assert (one.setting, other.setting) == ("method.beta=500.0", "method.beta=1.0")


def test_the_same_run_twice_is_refused(tmp_path):
    run = seed_run(tmp_path, 0, [1], [0])
    with pytest.raises(UserError, match="copy and run-s0 are the same run"):
        families([run, run.model_copy(update={"id": "copy"})])


def test_protocols_never_share_a_comparison(tmp_path):
    one = seed_run(tmp_path, 0, [1, 0], [0, 0])
    other = seed_run(tmp_path, 1, [1, 0], [0, 0], protocol=protocol(guidance_scale=7.5))
    assert [[r.id for r in found.records] for found in comparisons([one, other])] == [["run-s0"], ["run-s1"]]
    with pytest.raises(
        UserError, match="run-s1 and run-s0 are not comparable: they differ in guidance_scale"
    ):
        compare_families([*families([one]), *families([other])])


def test_scorer_versions_never_share_a_column(tmp_path):
    one = seed_run(tmp_path, 0, [1, 0], [0, 0])
    other = seed_run(tmp_path, 1, [1, 0], [0, 0], spec=BETA, protocol=protocol(evaluators={"shapes": "2"}))
    (found,) = comparisons([one, other])
    assert [column.label for column in found.columns] == ["correct (shapes 1)", "correct (shapes 2)"]
    assert [list(row.entries) for row in found.rows[1:]] == [["correct (shapes 1)"], ["correct (shapes 2)"]]


def test_rewards_of_one_name_are_no_column_together(tmp_path):
    runs = []
    for seed, version in ((0, "aa"), (1, "bb")):
        metrics = {"correct": paired(), "lrm": paired()}
        evaluators = protocol(evaluators={"shapes": "1", "lrm": version})
        spec = {"method": {"name": "lpo", "beta": seed + 1.0}, "seed": seed}
        about = {"id": f"r{seed}", "folder": tmp_path, "seed": seed}
        runs.append(record(**about, spec=spec, metrics=metrics, protocol=evaluators))
    (found,) = comparisons(runs)
    assert [column.label for column in found.columns] == ["correct"]
    assert found.notes[0] == "lrm is left out: one backbone has several rewards of this name here"


def test_every_backbone_has_a_reward_of_its_own_and_a_column_for_it():
    runs = []
    for backbone, version in (("a", "aa"), ("b", "bb")):
        evaluators = protocol(evaluators={"shapes": "1", "lrm": version})
        spec = {"backbone": {"name": backbone}, "method": {"name": "lpo"}}
        about = {"id": backbone, "backbone": backbone, "spec": spec, "protocol": evaluators}
        runs.append(record(**about, metrics={"correct": paired(), "lrm": paired()}))
    (found,) = comparisons(runs)
    assert [column.label for column in found.columns] == ["correct", "lrm (a)", "lrm (b)"]
    assert [list(row.entries) for row in found.rows[1::2]] == [["correct", "lrm (a)"], ["correct", "lrm (b)"]]


def test_seeds_with_rewards_of_their_own_are_pooled_without_them(tmp_path):
    """As of --train-reward, where each seed trains its own."""
    runs = [
        record(
            id=f"r{seed}",
            folder=tmp_path,
            seed=seed,
            trained_reward=f"reward-{seed}",
            metrics={"correct": paired(), "lrm": paired()},
            protocol=protocol(evaluators={"shapes": "1", "lrm": f"v{seed}"}),
        )
        for seed in (0, 1)
    ]
    (found,) = comparisons(runs)
    assert [column.label for column in found.columns] == ["correct"]
    assert found.rows[1].reward == "lrm (own)"
    assert any("lrm of r0 is left out: its seeds were scored by several versions" in n for n in found.notes)


def test_the_best_is_marked_where_it_surely_beats_the_runner_up(tmp_path):
    """b is ahead of a on every prompt; c of b on some only, though its mean is higher."""
    base = [0.0] * 8
    a, b = [0.1 + i / 100 for i in range(8)], [0.3 + i / 50 for i in range(8)]
    c = [value + (0.5 if i % 2 else -0.45) for i, value in enumerate(b)]
    runs = []
    for seed, scores in enumerate((a, b)):
        spec = {"method": {"name": "lpo", "beta": seed + 1.0}}
        runs.append(seed_run(tmp_path, seed, scores, base, spec=spec))
    assert [row.entries["correct"].best for row in rows(runs)] == [False, False, True]
    runs.append(seed_run(tmp_path, 2, c, base, spec=BETA | {"lora": 3}))
    assert [row.entries["correct"].best for row in rows(runs)] == [False] * 4


def test_the_base_may_be_the_best(tmp_path):
    run = seed_run(tmp_path, 0, [0, 0, 0], [1, 1, 1], metrics={"correct": paired(-0.3)})
    base, row = rows([run])
    assert (base.entries["correct"].best, row.entries["correct"].best) == (True, False)


def test_lower_may_be_better(tmp_path):
    run = seed_run(
        tmp_path, 0, [0, 0, 0], [1, 1, 1], metrics={"correct": paired(-0.3, higher_is_better=False)}
    )
    base, row = rows([run])
    assert (base.entries["correct"].best, row.entries["correct"].best) == (False, True)


def test_scores_that_are_gone_are_told_and_nothing_is_guessed(tmp_path):
    runs = [seed_run(tmp_path, seed, [1, 0, 1], [0, 0, 0]) for seed in (0, 1)]
    (tmp_path / "run-s1" / "scores.csv").unlink()
    (found,) = comparisons(runs)
    entry = found.rows[1].entries["correct"]
    assert (entry.low, entry.high, entry.win_rate) == (None, None, None)
    assert entry.difference == pytest.approx(2 / 3)
    assert found.notes[0].startswith("no pooled interval, and no bold, for run-s1: no scores at")


def test_every_backbone_has_its_base_first_and_is_ranked_alone(tmp_path):
    maker = Maker(tmp_path, 30)
    runs = [
        maker.run(f"{b}-{m}", backbone=b, method=m)
        for b in ("tiny-sdxl", "tiny-sd15")
        for m in ("spo", "lpo")
    ]
    found = rows(runs)
    assert [(row.backbone, row.method) for row in found] == [
        ("tiny-sd15", "none"),
        ("tiny-sd15", "lpo"),
        ("tiny-sd15", "spo"),
        ("tiny-sdxl", "none"),
        ("tiny-sdxl", "lpo"),
        ("tiny-sdxl", "spo"),
    ]
    assert [row.entries["lrm"].trained_on for row in found] == [False, True, True, False, True, True]
    assert set(found[0].entries) == set(METRICS)


def test_other_weights_of_a_backbone_are_another_base(tmp_path):
    runs = []
    for seed, weights in enumerate(("default", "random")):
        spec = {"backbone": {"name": "tiny-sd15", "weights": weights}, "method": {"name": "lpo"}}
        runs.append(seed_run(tmp_path, seed, [1, 0], [0, 0], spec=spec))
    names = [row.backbone for row in rows(runs) if row.is_base]
    assert names == ["tiny-sd15 (backbone.weights=default)", "tiny-sd15 (backbone.weights=random)"]


def test_bases_that_do_not_agree_are_told(tmp_path):
    runs = [
        seed_run(tmp_path, seed, [1, 0], [0, 0], metrics={"correct": paired(mean_base=0.5 + seed / 10)})
        for seed in (0, 1)
    ]
    (found,) = comparisons(runs)
    assert "tiny-sd15: the base's own correct differs by up to 0.1 between its runs" in found.notes


def test_checkpoints_and_runs_without_training():
    published = Checkpoint(name="lpo-sd15", loaded="a LoRA", sha256="0" * 64)
    made = record(method="none", reward=None, trained=False, training=None, checkpoint=published)
    alone = record(id="n", method="none", reward=None, trained=False, training=None, spec={"seed": 0})
    found = rows([made, alone])
    assert [(row.method, row.seeds, len(row.records)) for row in found] == [
        ("none", (), 0),
        ("lpo-sd15", (), 1),
    ]
    assert rows([alone])[0].entries["correct"].mean == 0.5


def test_a_record_of_the_first_schema_still_tells_its_scorers():
    """Without scored_by: a metric of the reward's name is the reward's, others are of the evaluators."""
    versions = protocol(evaluators={"shapes": "1", "lrm": "abc"})
    old = record(protocol=versions, metrics={"correct": paired(), "lrm": paired()})
    assert [old.scorer_of(name) for name in ("correct", "lrm")] == ["shapes", "lrm"]
    assert [old.version_of(name) for name in ("correct", "lrm")] == ["1", "abc"]
    assert old.optimised == {"lrm"}
    several = record(protocol=protocol(evaluators={"shapes": "1", "pixels": "2", "lrm": "a"}))
    assert (several.scorer_of("correct"), several.version_of("correct")) == ("shapes or pixels", "1 2")
    assert several.scorer_of("pixels.light") == "pixels"
    told = RunRecord.model_validate(
        several.model_dump() | {"scored_by": {"correct": "pixels"}, "trained_on": ["correct"]}
    )
    assert (told.scorer_of("correct"), told.optimised) == ("pixels", {"correct"})


def test_what_a_run_takes_is_its_training_alone():
    """collect 10 s, update 20 s; loading, the reward and images are no part of it. Reward: 300 s, trained once."""
    costs = {
        "load": Cost(seconds=5),
        "reward": Cost(seconds=300),
        "collect": Cost(seconds=10, calls=100, rows=400, decodes=7),
        "update": Cost(seconds=20, calls=50, rows=100),
        "generate lpo": Cost(seconds=40, calls=1, rows=1, decodes=600),
        "evaluate lpo": Cost(seconds=2),
        "generate none": Cost(seconds=99),
    }
    first = record(costs=costs, trained_reward="r")
    shared = record(costs=costs | {"reward": Cost(seconds=0.1)}, trained_reward="r")
    rewards = reward_seconds([first, shared])
    assert rewards == {"r": 300}
    spent = effort([shared], rewards)
    assert (spent.calls, spent.rows, spent.decodes, spent.seconds) == (150, 500, 7, 30)
    assert (spent.reward_seconds, spent.evaluation_seconds) == (300, 42)
    assert effort([record(processes=2)], {}).devices == ("2 x cpu, 2 threads",)
    assert effort([record()], {}).reward_seconds is None


def test_settings_are_told_apart_by_what_differs():
    one, other = flat({"method": {"name": "lpo", "a": {"b": [1, 2]}, "c": None}}), {"method": "lpo", "d": "x"}
    assert one == {"method": "lpo", "method.a.b": "[1, 2]", "method.c": "none"}
    assert differing([one, other]) == ["method.a.b", "method.c", "d"]
    assert tell_apart([one, other], "xy") == ["method.a.b=[1, 2] method.c=none", "d=x"]
    assert tell_apart([one], "x") == [""]
    many = [{str(key): str(value) for key in range(9)} for value in range(2)]
    assert tell_apart(many, ["a", "b"]) == ["a", "b"] == tell_apart([one, one], "ab")


def test_the_order_of_keys_in_a_spec_does_not_matter(tmp_path):
    run = seed_run(tmp_path, 0, [1], [0])
    turned = json.loads(json.dumps(dict(reversed(run.spec.items()))))
    other = run.model_copy(update={"id": "x", "seed": 1, "spec": turned | {"seed": 1}})
    assert len(families([run, other])) == 1
