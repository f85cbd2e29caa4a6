"""YAML in and out, and what stands in the way of a file."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.parsing import parse_yaml, read_yaml_mapping, write_yaml
from hpo.errors import ConfigurationError

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=30)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_:-# 'é", max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abcxyz_. -", min_size=1, max_size=10), values, max_size=5))
def test_what_is_written_is_read_back_equal(content: dict[str, Any]) -> None:
    assert parse_yaml(write_yaml(content), "test") == content


@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "~", "null", "1e-4", "0x1f", "012", "1_000", "12:30", "=", ""]
)
def test_a_text_that_looks_like_something_else_is_written_as_a_text(text: str) -> None:
    assert parse_yaml(write_yaml({"value": text}), "test") == {"value": text}


def test_keys_keep_their_order() -> None:
    assert list(parse_yaml(write_yaml({"b": 1, "a": 2, "c": {"z": 1, "y": 2}}), "test")) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E5", 3e5),
        (".5", 0.5),
        ("-2", -2),
        ("off", "off"),
        ("No", "No"),
        ("yes", "yes"),
        ("true", True),
        ("null", None),
        ("010", 10),
    ],
)
def test_yaml_is_of_version_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text, "test")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "study.yaml is not valid YAML: line 1: "),
        ("a: 1\na: 2", "study.yaml is not valid YAML: line 2: found duplicate key"),
        ("a: 1\n\tb: 2", "study.yaml is not valid YAML: line 2: "),
        ("a: &x [*y]", "study.yaml is not valid YAML: line 1: found undefined alias"),
        ("a: !!python/object:os.system x", "study.yaml is not valid YAML: line 1: could not determine a constructor"),
        ("a: \x01", "study.yaml is not valid YAML: "),
        ("a: 2024-13-45", "study.yaml is not valid YAML: month must be in 1..12."),
        ("a: " + "[" * 500, "study.yaml is not valid YAML: maximum recursion depth exceeded"),
        ("a: 1\n---\nb: 2", "study.yaml is not valid YAML: line 2: "),
        ("- 1\n- 2", "study.yaml must hold `key: value` lines, but holds a list."),
        ("", "study.yaml must hold `key: value` lines, but holds nothing."),
        ("word", "study.yaml must hold `key: value` lines, but holds a str."),
    ],
)
def test_a_file_that_is_no_mapping_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as error:
        read_yaml_mapping(Path("study.yaml"))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Cannot read .*nowhere\.yaml: No such file or directory\."):
        read_yaml_mapping(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match="it is a folder, but a study file is expected"):
        read_yaml_mapping(tmp_path, "a study file")
    (tmp_path / "cls.yaml").write_text("study: cls\n")
    with pytest.raises(ConfigurationError, match=r"No such file or directory\. Did you mean '.*/cls\.yaml'\?$"):
        read_yaml_mapping(tmp_path / "cls.yml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigurationError, match="it is not UTF-8 text"):
        read_yaml_mapping(tmp_path / "latin.yaml")
