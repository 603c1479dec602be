"""What an ablation varies: the shipped files against the paper's tables, a user's own, and what is wrong with it."""

import pytest

from lpobench.ablation.definition import built_in, find, for_backbone, split, titles
from lpobench.plugin import UserError
from lpobench.records.published import numbers_of
from lpobench.records.sweep import Axis

NAMES = [
    "beta",
    "candidates",
    "data",
    "eta",
    "lora-rank",
    "method",
    "mpcf",
    "reward",
    "reward-timestep",
    "threshold",
    "threshold-strategy",
    "timesteps",
    "vfe",
]
PUBLISHED = {
    "threshold": "ablate_threshold",
    "threshold-strategy": "ablate_threshold_strategy",
    "timesteps": "ablate_timesteps",
    "vfe": "ablate_vfe",
    "mpcf": "ablate_mpcf",
    "beta": "ablate_beta",
    "reward-timestep": "ablate_reward_timestep",
}
"""And the paper's tables."""


def on(name, backbone):
    stem, axes, about = find(name)
    return for_backbone(stem, about, axes, backbone)


def labels(name, backbone):
    (dimension,) = on(name, backbone).dimensions
    return [choice.label for choice in dimension.choices]


def test_the_thirteen():
    assert sorted(built_in()) == sorted(NAMES)
    assert all(titles().values())


@pytest.mark.parametrize("name", NAMES)
def test_each_says_where_its_values_are_from(name):
    for backbone in ("sd15", "tiny-sd15", "tiny-sdxl", "tiny-sd3", "sdxl", "sd35"):
        ablation = on(name, backbone)
        assert ablation.source.endswith(".")
        assert len(labels(name, backbone)) == len(set(labels(name, backbone))) >= 2


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_own_values_under_its_own_names(name):
    settings = list(dict.fromkeys(number.setting for number in numbers_of(PUBLISHED[name])))
    (dimension,) = on(name, "sd15").dimensions
    ours = [f"{dimension.axis.label}={choice.label}" for choice in dimension.choices]
    assert [text for text in ours if text in settings] == settings
    own = {"threshold-strategy": ["strategy=constant"], "reward-timestep": ["reward_timestep=t"]}
    assert [text for text in ours if text not in settings] == own.get(name, [])


def test_where_the_embedded_values_differ_it_is_said():
    assert labels("threshold", "tiny-sd15") != labels("threshold", "sd15")
    assert "margins are lower" in on("threshold", "tiny-sd15").source
    assert "margins are lower" not in on("threshold", "sd15").source
    assert "[0, 620]" in labels("timesteps", "tiny-sd15")
    assert "[0, 620], is added" in on("timesteps", "tiny-sd15").source
    assert "[200, 700]" in labels("timesteps", "tiny-sd3")


def test_the_same_steps_under_the_papers_name():
    (dimension,) = on("timesteps", "sd15").dimensions
    assert dimension.choices[-1].label == "[0, 950]"
    assert dimension.choices[-1].set == {"method.timestep_range": [0, 1000]}  # the recipe's own


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1, 0.2", ["0.1", "0.2"]),
        ("0.1,[0.05,0.15],std", ["0.1", "[0.05,0.15]", "std"]),
        ("[0, 200]", ["[0, 200]"]),
        (" , ", []),
    ],
)
def test_values_are_cut_at_commas_outside_of_brackets(text, values):
    assert split(text) == values


def test_values_by_label_or_of_ones_own():
    chosen = on("vfe", "tiny-sd15").choosing("7.5,2").dimensions[0].choices
    assert [(c.label, c.set) for c in chosen] == [
        ("7.5", {"reward.vfe_scale": "none"}),
        ("2", {"reward.vfe_scale": 2}),
    ]
    chosen = on("mpcf", "tiny-sd15").choosing("none,2").dimensions[0].choices
    assert [c.set for c in chosen] == [{"reward.training.mpcf": "none"}, {"reward.training.mpcf": "2"}]
    chosen = on("threshold", "tiny-sd15").choosing("0.3,[0.05,0.15]").dimensions[0].choices
    assert [c.label for c in chosen] == ["0.3", "[0.05, 0.15]"]
    chosen = on("lora-rank", "tiny-sd15").choosing("3").dimensions[0].choices
    assert chosen[0].set == {"lora.rank": 3, "lora.alpha": "none"}


def test_named_choices_cannot_be_made_up():
    with pytest.raises(UserError, match=r'--values lrn: no "lrn" on this axis; did you mean "lrm"\?'):
        on("reward", "tiny-sd15").choosing("lrn")
    with pytest.raises(UserError, match="--values: should be a list such as 20, 100"):
        on("beta", "tiny-sd15").choosing(" , ")


@pytest.fixture
def own(tmp_path):
    """`own(text)` -> the ablation in a user's file, for a backbone called toy."""

    def read(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        stem, axes, about = find(str(path))
        return for_backbone(stem, about, axes, "toy")

    return read


def test_a_users_grid(own):
    ablation = own('[sweep]\nmethod.beta = [100, 500]\n"lora.rank" = { values = [4], label = "r" }\n')
    assert ablation.name == "mine"
    assert [d.axis for d in ablation.dimensions] == [
        Axis(key="method.beta", label="beta"),
        Axis(key="lora.rank", label="r"),
    ]
    with pytest.raises(UserError, match="ablation mine has 2 axes"):
        ablation.choosing("100")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sweep", "not valid TOML"),
        ("[ablation]\ntitle = 'x'", r"has no \[sweep\] with an axis"),
        ("[method]\nbeta = 3\n[sweep]\nx = [1]", "method is no table of an ablation; known: ablation, sweep"),
        (
            "[ablation]\ntitel = 'x'\n[sweep]\nx = [1]",
            'titel is not a setting of ablation; did you mean "title"',
        ),
        ("[sweep]\n'method.beta' = 5", "sweep.method.beta: should be a list of values, got 5"),
        ("[sweep]\n'method.beta' = []", r"sweep.method.beta: should be a list of values, got \[\]"),
        ("[sweep]\n'a.b' = { values = [1, 2], labels = ['x'] }", "sweep.a.b: 1 labels for 2 values"),
        ("[sweep]\n'a.b' = { values = [1], lable = 'x' }", "lable is not a setting"),
        ("[[sweep.a]]\nset = { 'b.c' = 1 }", "a choice: label: is required"),
        ("[[sweep.a]]\nlabel = 'x'\non = 'sd*'", "nothing of a is for backbone toy"),
    ],
)
def test_what_is_wrong_with_a_users_file_is_said(own, text, message):
    with pytest.raises(UserError, match=message):
        own(text)


def test_spo_scores_with_its_own_reward_where_the_backbone_has_no_recipe_of_it():
    (dimension,) = on("data", "tiny-sdxl").dimensions
    assert dimension.choices[0].set == {"method": "spo", "reward": "spm"}


def test_an_unknown_name(tmp_path):
    with pytest.raises(UserError, match='no ablation "treshold": neither a file nor built in; did you mean'):
        find("treshold")
