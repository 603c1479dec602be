"""Measures of reward models, on scores whose accuracy and calibration are known by construction."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from made import Brighter
from made_judges import Constant, Spoilt, pairs

from lpobench.plugin import UserError
from lpobench.scoring import pair_statistics as statistics
from lpobench.scoring.noised import NoFiniteScore, level_name, parse_level, usual_levels
from lpobench.scoring.pair_scores import held_out_pairs, score_pairs
from lpobench.scoring.reward_quality import quality

LOGIT = math.log(0.77 / 0.23)


def some_pairs(num: int = 60, seed: int = 0):
    """Random truth; every tenth pair is a tie, and every fifth label is wrong."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(num, 2)).astype(np.float16).astype(float)
    labels = (means[:, 0] > means[:, 1]).astype(float)
    labels[::5] = 1 - labels[::5]
    labels[::10] = 0.5
    gap = np.abs(means[:, 0] - means[:, 1])
    return pairs(means.tolist(), labels.tolist(), aesthetic_gap=gap + rng.normal(size=num), clipscore_gap=1.0)


def scores_of(means, num_levels: int = 1):
    """(levels, 2, pairs): the same at every level."""
    return np.broadcast_to(np.array(means, dtype=float).T, (num_levels, 2, len(means)))


def means_of(found):
    return found.table[["true_preference_0", "true_preference_1"]].to_numpy()


def test_standard_errors_by_hand():
    """1, 0, 1, 1: s^2 = 1/4, so the usual error of the mean is 1/4. In two clusters, (1, 0) and (1, 1), residuals
    add up to -1/2 and 1/2: se^2 = 2/1 * (1/4 + 1/4) / 16 = 1/16. In clusters (1, 1) and (1, 0) of another order
    too. In one cluster nothing is known of the error.
    """
    values = np.array([1.0, 0.0, 1.0, 1.0])
    assert statistics.mean_and_error(values, np.array(list("abcd"))) == (0.75, 0.25, 4)
    assert statistics.mean_and_error(values, np.array(list("aabb"))) == (0.75, 0.25, 4)
    mean, error, n = statistics.mean_and_error(values, np.array(list("abba")))  # sums 1/2, -1/2
    assert (mean, error, n) == (0.75, 0.25, 4)
    mean, error, n = statistics.mean_and_error(np.array([1.0, np.nan, 0.0]), np.array(["a", "b", "a"]))
    assert (mean, n) == (0.5, 2)
    assert math.isnan(error)


def test_perfectly_dependent_pairs_count_as_one():
    """Each of 5 values ten times, in a cluster each: the error is that of the 5 values."""
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    alone = statistics.mean_and_error(values, np.arange(5))
    repeated = statistics.mean_and_error(values.repeat(10), np.arange(5).repeat(10))
    assert repeated[:2] == pytest.approx(alone[:2])


def test_share_right_counts_no_gap_as_half_and_forgets_what_is_unknown():
    gaps = np.array([[2.0, -1.0, 0.0, np.nan], [3.0, 1.0, 1.0, np.nan]])
    shares = statistics.share_right(gaps, np.array([1.0, 1.0, -1.0, 1.0]))
    assert shares[:3].tolist() == [1.0, 0.5, 0.25]
    assert math.isnan(shares[3])


def test_calibration_is_exact_where_it_was_built_to_be():
    """100 choices, each sure to 77 percent, of which 77 are right; then 100, of which all are."""
    honest = np.array([LOGIT] * 77 + [-LOGIT] * 23)
    bins = statistics.calibration(honest)
    assert [row["n"] for row in bins] == [0, 0, 0, 0, 0, 100, 0, 0, 0, 0]
    assert bins[5]["sure"] == pytest.approx(0.77)
    assert bins[5]["right"] == 0.77
    assert statistics.calibration_error(bins) == pytest.approx(0, abs=1e-12)
    assert statistics.calibration_error(statistics.calibration(np.abs(honest))) == pytest.approx(0.23)


def test_calibration_weighs_bins_by_their_pairs():
    """30 pairs at 77 % all wrong (off by 0.77), 10 without a preference (sure 1/2, half right, off by 0), none
    where the margin is unknown: 30/40 * 0.77.
    """
    margins = np.array([-LOGIT] * 30 + [0.0] * 10 + [np.nan] * 5)
    assert statistics.calibration_error(statistics.calibration(margins)) == pytest.approx(0.75 * 0.77)


def test_sure_beyond_float_is_in_the_last_bin():
    assert statistics.calibration(np.array([1e6, -1e6]))[-1] == {
        "low": pytest.approx(0.95), "high": 1.0, "n": 2, "sure": 1.0, "right": 0.5
    }  # fmt: skip


def test_margins_are_counted_in_symmetric_bins():
    rows = statistics.histogram(np.array([-2.0, -1.9, 0.1, 2.0, np.nan]), 2.0)
    assert [row["n"] for row in rows if row["n"]] == [2, 1, 1]
    assert (rows[0]["low"], rows[-1]["high"]) == (-2.0, 2.0)
    assert rows[10]["n"] == 1


def test_correlation_is_numpys_and_unknown_where_it_means_nothing():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    b[3] = np.nan
    known = np.isfinite(b)
    assert statistics.correlation(a, b) == pytest.approx(np.corrcoef(a[known], b[known])[0, 1])
    assert statistics.correlation(a, -3 * a) == pytest.approx(-1)
    assert math.isnan(statistics.correlation(a, np.ones(50)))
    assert math.isnan(statistics.correlation(a[:2], b[:2]))


def test_spread_is_the_standard_deviation_under_one_prompt():
    """Differences of two draws of variance 9 have variance 18."""
    gaps = np.random.default_rng(0).normal(scale=math.sqrt(18), size=100_000)
    assert statistics.spread(gaps) == pytest.approx(3, rel=0.01)


def test_a_reward_that_knows_the_truth():
    """60 pairs, of which 6 are ties, 6 more are labelled wrongly: right on 48 of 54 labels, on every truth."""
    found = some_pairs()
    means = means_of(found)
    table = quality({"truth": scores_of(means)}, found, [None]).levels.iloc[0]
    assert (table["t"], table["n"], table["n_true"], table["left_out"]) == ("finished", 54, 60, 0)
    assert table["accuracy"] == pytest.approx(48 / 54)
    assert table["accuracy_se"] == pytest.approx(math.sqrt(48 / 54 * 6 / 54 / 53))
    assert (table["accuracy_true"], table["accuracy_true_se"]) == (1.0, 0.0)
    label = found.table["label_0"].to_numpy()
    margin = ((means[:, 0] - means[:, 1]) * np.sign(label - 0.5))[label != 0.5]
    gaps = found.table["aesthetic_gap"].to_numpy()[label != 0.5]
    assert table["aes_corr"] == pytest.approx(np.corrcoef(margin, gaps)[0, 1])
    assert math.isnan(table["clip_corr"])
    assert math.isnan(table["vqa_corr"])


def test_negated_and_indifferent_rewards():
    found = some_pairs()
    means = means_of(found)
    scores = {"truth": scores_of(means), "liar": scores_of(-means), "mute": scores_of(0 * means)}
    told = quality(scores, found, [1.0])
    rows = told.levels.set_index("reward")
    assert rows.loc["liar", "accuracy_true"] == 0
    assert rows.loc["liar", "accuracy"] == pytest.approx(6 / 54)
    assert rows.loc["mute", ["accuracy", "accuracy_true", "ece", "spread"]].tolist() == [0.5, 0.5, 0, 0]
    agreement = told.agreement.set_index(["reward_a", "reward_b"])["agreement"]
    assert agreement.to_dict() == {("truth", "liar"): 0, ("truth", "mute"): 0.5, ("liar", "mute"): 0.5}


def test_a_pair_without_a_finite_score_is_left_out_where_it_has_none():
    found = some_pairs()
    scores = scores_of(means_of(found), 2).copy()
    scores[0, 1, 1], scores[0, 0, 2] = np.nan, np.inf
    told = quality({"truth": scores}, found, [501.0, None])
    assert told.levels["left_out"].tolist() == [2, 0]
    assert told.levels["n_true"].tolist() == [58, 60]
    assert told.overall["n_true"].tolist() == [58], "over the levels with noise"
    assert told.margins.groupby("t")["n"].sum().to_dict() == {"501": 52, "finished": 54}
    with pytest.raises(NoFiniteScore, match="reward truth gives no pair a finite score") as error:
        quality({"truth": np.full_like(scores, np.nan)}, found, [501.0, None])
    assert error.value.exit_code == 4


def test_overall_a_pair_counts_by_the_levels_at_which_it_is_right():
    found = pairs([(1, 0), (0, 1)], [1.0, 0.0])
    scores = np.array([[[1.0, 0], [0, 1]], [[0, 0], [1, 1]], [[9, 9], [9, 9]]])
    told = quality({"a": scores}, found, [901.0, 501.0, None])
    assert told.levels["accuracy"].tolist() == [1.0, 0.5, 0.5]
    assert told.overall["accuracy"].tolist() == [0.75]
    assert told.overall["accuracy_se"].tolist() == [0.25]  # 1 and 1/2: s^2 = 1/8, by two pairs


def test_both_images_get_the_same_noise_and_their_own_level(make_policy, latent_reward):
    """The reward divides by alpha, so the gap is 8 (mean_0 - mean_1) at every level: the noise cancels."""
    policy, found = make_policy(adapter=False), some_pairs(12)
    levels = [901.0, 501.0, 1.0, None]
    scores = score_pairs({"mean": latent_reward}, policy, found, levels)["mean"]
    assert scores.shape == (4, 2, 12)
    gaps = np.broadcast_to(8 * np.diff(means_of(found))[:, 0] * -1, (4, 12))
    np.testing.assert_allclose(scores[:3, 0] - scores[:3, 1], gaps[:3], atol=2e-4)
    np.testing.assert_allclose(
        scores[3, 0] - scores[3, 1], gaps[3], rtol=1e-3
    )  # alpha at t = 0 is not quite 1
    np.testing.assert_allclose(scores[3, 0], 8 * means_of(found)[:, 0], rtol=1e-3)
    noise = scores[:3, 0] - 8 * means_of(found)[:, 0]
    assert np.abs(noise).min() > 1e-4
    assert len(np.unique(noise.round(5))) == noise.size, "other noise for every pair and level"


@pytest.mark.parametrize("batch_size", [1, 5, 7, 100])
def test_scores_depend_neither_on_the_batch_nor_on_the_other_pairs(make_policy, pixel_reward, batch_size):
    policy, found, rewards = make_policy(adapter=False), some_pairs(14), {"b": Brighter(), "p": pixel_reward}
    whole = score_pairs(rewards, policy, found, [701.0, None], batch_size=14)
    again = score_pairs(rewards, policy, found, [701.0, None], batch_size=batch_size)
    part = score_pairs(rewards, policy, found.take(np.array([3, 8])), [None, 701.0], batch_size=batch_size)
    for name in rewards:
        np.testing.assert_allclose(again[name], whole[name], atol=1e-6)
        np.testing.assert_allclose(part[name][::-1], whole[name][:, :, [3, 8]], atol=1e-6)
    other = score_pairs(rewards, policy, found, [701.0, None], seed=1)["b"]
    assert (other[0] != whole["b"][0]).all()
    assert (other[1] == whole["b"][1]).all(), "finished latents have no noise"


def test_pixel_rewards_share_the_estimate_and_progress_is_told(make_policy, pixel_reward):
    policy, told = make_policy(adapter=False), []
    rewards = {"a": pixel_reward, "b": pixel_reward, "c": Brighter()}
    score_pairs(rewards, policy, some_pairs(10), [901.0, None], batch_size=4, advance=told.append)
    assert (policy.calls, policy.decodes) == (3, 2 * 2 * 10)
    assert told == [4, 4, 4, 4, 2, 2]


def test_scores_of_a_spoilt_reward_come_back_as_they_are(make_policy):
    found = pairs([(1, 0), (0, 1)], [1.0, 0.0], captions=["13", "1"])
    scores = score_pairs({"spoilt": Spoilt()}, make_policy(adapter=False), found, [None])["spoilt"]
    assert np.isnan(scores[0]).tolist() == [[True, False], [True, False]]


def test_held_out_pairs_are_labelled_pairs_of_the_splits(tmp_path, make_policy):
    backbone = make_policy(adapter=False).backbone
    splits = ["train", "validation_unique", "test_unique", "test_unique"] * 5
    found = some_pairs(20)
    pairs_of = found.take(np.arange(20))
    pairs_of.table["split"] = splits
    pairs_of.table["has_label"] = [True] * 19 + [False]
    pairs_of.write(tmp_path / "pairs")
    source = str(tmp_path / "pairs")
    assert len(held_out_pairs(source, backbone)) == 14
    assert held_out_pairs(source, backbone, ["train"]).table["split"].unique().tolist() == ["train"]
    some = held_out_pairs(source, backbone, limit=3)
    assert some.table["image_0_uid"].tolist() == ["2", "18", "36"], "the first, the middle and the last"
    with pytest.raises(
        UserError, match="no labelled pair in the split valid; its splits: test_unique, train"
    ):
        held_out_pairs(source, backbone, ["valid"])


def test_pairs_without_a_winner_or_of_another_space_are_refused(tmp_path, make_policy):
    backbone = make_policy(adapter=False).backbone
    pairs([(1, 0), (0, 1)], [0.5, 0.5]).write(tmp_path / "ties")
    with pytest.raises(UserError, match="all 2 pairs are ties, there is no winner to find"):
        held_out_pairs(str(tmp_path / "ties"), backbone)
    with pytest.raises(UserError, match="of tiny-vae-f8c8, the backbone makes gaussian"):
        held_out_pairs("shapes-pairs", backbone)


def test_levels_are_timesteps_of_the_backbone(make_policy):
    diffusion, flow = (make_policy(kind, adapter=False).backbone for kind in ("epsilon", "flow"))
    assert [parse_level(text, diffusion) for text in ("999", "0", "finished")] == [999.0, 0.0, None]
    assert parse_level("999.5", flow) == 999.5
    for text, message in (
        ("1000", "a whole number from 0 to 999"),
        ("1.5", "a whole"),
        ("x", "a number from 0"),
    ):
        with pytest.raises(UserError, match=message):
            parse_level(text, diffusion)
    levels = usual_levels(diffusion)
    assert [level_name(level) for level in (*levels[:2], *levels[-2:])] == ["951", "901", "1", "finished"]
    assert len(levels) == len(usual_levels(flow)) == 21


def test_tables_have_a_row_for_each_reward_and_level():
    found = some_pairs(20)
    scores = {name: scores_of(means_of(found), 3) for name in ("a", "b", "c")}
    told = quality(scores, found, [2.0, 1.0, None])
    assert [len(table) for table in (told.levels, told.overall, told.calibration, told.margins)] == [
        9,
        3,
        90,
        180,
    ]
    assert told.agreement[["reward_a", "reward_b"]].drop_duplicates().to_numpy().tolist() == [
        ["a", "b"], ["a", "c"], ["b", "c"]
    ]  # fmt: skip
    assert (told.agreement["agreement"] == 1).all()
    assert isinstance(told.levels, pd.DataFrame)


def test_a_constant_reward_scored_for_real_is_undecided(make_policy):
    found = some_pairs(8)
    scores = score_pairs({"mute": Constant(value=3.0)}, make_policy(adapter=False), found, [501.0])
    row = quality(scores, found, [501.0]).levels.iloc[0]
    assert (row["accuracy"], row["mean"], row["spread"]) == (0.5, 3.0, 0.0)
    assert torch.is_grad_enabled()
