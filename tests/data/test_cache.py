"""A cached result is whole or absent, and found by everything it depends on."""

import pytest

from lpobench.data.cache import cached, content, folder_of


def test_made_once_per_key(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "result").write_text(f"{len(made)}")

    first, reused = cached(tmp_path / "cache", "base", {"a": 1, "b": [2]}, make)
    assert (reused, (first / "result").read_text()) == (False, "1")
    assert cached(tmp_path / "cache", "base", {"b": [2], "a": 1}, make) == (first, True)
    other, reused = cached(tmp_path / "cache", "base", {"a": 2, "b": [2]}, make)
    assert (reused, (other / "result").read_text(), len(made)) == (False, "2", 2)
    assert sorted(path.name for path in first.iterdir()) == ["key.json", "result"]


def test_a_failure_leaves_nothing(tmp_path):
    def make(folder):
        (folder / "half").write_text("")
        raise KeyError

    with pytest.raises(KeyError):
        cached(tmp_path, "base", {}, make)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_to_finish_is_kept(tmp_path):
    def make(folder):
        (folder / "by").write_text("us")
        winner = folder_of(tmp_path, "base", {})
        winner.mkdir()
        (winner / "by").write_text("them")

    folder, _ = cached(tmp_path, "base", {}, make)
    assert (folder / "by").read_text() == "them"
    assert list(tmp_path.iterdir()) == [folder]


def test_content_is_names_and_bytes(tmp_path):
    def tree(name, files):
        for path, text in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        return content(tmp_path / name)

    same = tree("1", {"a": "x", "b/c": "y"}), tree("2", {"b/c": "y", "a": "x"})
    assert same[0] == same[1]
    assert len({same[0], tree("3", {"a": "x", "b/d": "y"}), tree("4", {"a": "x", "b/c": "z"})}) == 3
    assert content(tmp_path / "1" / "a") == content(tmp_path / "2" / "a")
