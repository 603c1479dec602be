"""Names without imports, and help for those who mistype them."""

import json
from importlib.metadata import EntryPoint

import pytest
from fake_plugins import Pairwise, fakes  # noqa: F401
from processes import worked

from lpobench import registry
from lpobench.cli.list import SECTIONS
from lpobench.cli.show import settings_of
from lpobench.plugin import MissingAsset, UserError

REAL = [(kind, name) for kind in registry.KINDS for name in registry.names(kind)]


def test_names_are_found_and_sorted(fakes):  # noqa: F811
    assert registry.names("methods") == ["idle", "listwise", "pairwise"]
    assert registry.get("methods", "pairwise").__name__ == "Pairwise"
    assert registry.summary("backbones", "toy") == "A small backbone."


def test_name_of_is_the_inverse_of_get(fakes):  # noqa: F811
    assert registry.name_of("methods", registry.get("methods", "listwise")) == "listwise"


def test_an_unregistered_class_goes_by_module_and_class():
    assert registry.name_of("methods", Pairwise) == "fake_plugins:Pairwise"
    assert registry.get("methods", "fake_plugins:Pairwise") is Pairwise


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("rewards", "latnt", 'unknown reward "latnt"; did you mean "latent"? known: latent, pixel'),
        ("rewards", "Pixel", 'unknown reward "Pixel"; did you mean "pixel"? known: latent, pixel'),
        ("backbones", "zzz", 'unknown backbone "zzz"; known: other, toy'),
        (
            "rewards",
            "fake_plugins:Toy",
            "reward fake_plugins:Toy is no RewardSettings class",
        ),
        (
            "rewards",
            "fake_plugins:Nope",
            "reward fake_plugins:Nope is no RewardSettings class",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(fakes, kind, name, message):  # noqa: F811
    with pytest.raises(UserError) as caught:
        registry.get(kind, name)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_a_plugin_whose_package_is_absent_is_a_missing_asset():
    with pytest.raises(
        MissingAsset, match=r"reward not_here:X needs the module not_here, not installed here"
    ):
        registry.get("rewards", "not_here:X")


def test_two_packages_with_one_name_are_refused(monkeypatch):
    points = [EntryPoint("lpo", "a:A", "g"), EntryPoint("lpo", "b:B", "g")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    with pytest.raises(UserError, match='two methods are called "lpo": a:A and b:B'):
        registry.table.__wrapped__("methods")


@pytest.mark.parametrize(("kind", "name"), REAL)
def test_every_plugin_has_a_summary_and_help_for_every_setting(kind, name):
    assert registry.summary(kind, name)
    silent = [row["name"] for row in settings_of(registry.get(kind, name)) if not row["help"]]
    assert silent == []


@pytest.mark.parametrize(("kind", "name"), REAL)
def test_every_plugin_is_its_own_json(kind, name):
    cls = registry.get(kind, name)
    settings = cls()
    assert cls.model_validate(json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_has_help_for_every_setting(section):
    assert all(row["help"] for row in settings_of(SECTIONS[section]))


def test_names_are_known_without_importing_a_plugin():
    script = (
        "import sys; from lpobench import registry\n"
        "for kind in registry.KINDS: assert registry.names(kind)\n"
        "print([name for name in ('backbones', 'methods', 'rewards', 'evaluators') if name in sys.modules])"
    )
    assert worked(["-c", script]).strip() == "[]"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in registry.KINDS for n in registry.names(k)])
def test_an_entry_point_names_the_module_its_class_is_written_in(kind, name):
    """Not one that passes it on: a record would call the plug-in by another name than the user did."""
    assert registry.name_of(kind, registry.get(kind, name)) == name
