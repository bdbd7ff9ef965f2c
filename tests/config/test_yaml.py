import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homodyne.config import yaml
from homodyne.config.io import load_config
from homodyne.errors import ConfigError

SCALARS = {
    "1e4": 1e4,
    "1.5e-3": 1.5e-3,
    "-2E6": -2e6,
    ".5": 0.5,
    "010": 10,
    "1:30": "1:30",
    "-30:30": "-30:30",
    "no": "no",
    "on": "on",
    "true": True,
    "null": None,
    "~": None,
    "": None,
    "2020-01-01": "2020-01-01",
    "0x10": "0x10",
    "1_000": "1_000",
}


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_follow_yaml_1_2(text):
    value = yaml.parse(text, "test")
    assert value == SCALARS[text]
    assert type(value) is type(SCALARS[text])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("abc1eE.", min_size=1), children),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("abcdef"), plain | st.sampled_from(list(SCALARS)), max_size=4))
def test_what_is_written_reads_back(data):
    assert yaml.parse(yaml.dump(data), "test") == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3, column 1: key 'a' stands here twice"),
        ("a: {b: 1, b: 2}", "key 'b' stands here twice"),
        ("a: [1, 2", "line 1, column"),
        ("a: &x [1]\nb: *x\n", "line 2, column 4: tags .* and aliases .* are not accepted"),
        ("a: !!python/object/apply:os.system [echo]", "are not accepted"),
        ("? [1, 2]\n: 3", "keys must be plain words"),
        ("a: 1\n---\nb: 2\n", "a second document begins; expected one"),
        ("a:\n\tb: 2\n", "indent by spaces, not by tabs"),
        ("\x00", "not readable as YAML"),
        ("[" * 20_000, "nested too deeply"),
        ("a" * (yaml.MAX_BYTES + 1), "longer than"),
    ],
)
def test_text_that_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        yaml.parse(text, "run.yaml")


def test_files_that_are_refused(tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\x89HDF\r\n\xff\xfe")
    listing = tmp_path / "list.yaml"
    listing.write_text("- 1\n- 2\n")
    huge = tmp_path / "huge.yaml"
    huge.write_text("# " + "x" * (2 * yaml.MAX_BYTES))
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path, message in [
        (tmp_path / "absent.yaml", "No such file"),
        (tmp_path, "no ordinary file"),
        (pipe, "no ordinary file"),
        (binary, "not a text file"),
        (listing, "expected keys and values .* found list"),
        (huge, "longer than"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(path)


def test_empty_file_is_the_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing but a comment\n")
    assert load_config(path) == load_config()


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", "a.=3"])
def test_override_that_is_no_key_and_value(text):
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(None, [text])
