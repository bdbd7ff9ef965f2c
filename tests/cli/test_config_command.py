import json

import pytest

from homodyne.config.io import load_config
from homodyne.physics.model import MODELS


def test_new_writes_a_template_that_check_accepts(homodyne, tmp_path):
    for mode in MODELS:
        assert homodyne("config", "new", f"{mode}.yaml", "--mode", mode).code == 0
        checked = homodyne("config", "check", f"{mode}.yaml", "seed=5")
        assert checked.code == 0
        (tmp_path / "again.yaml").write_text(checked.out)
        assert load_config(tmp_path / "again.yaml") == load_config(tmp_path / f"{mode}.yaml", ["seed=5"])


@pytest.mark.parametrize(
    ("options", "method", "backend"),
    [
        (["--cluster", "slurm"], "cmc", "slurm"),
        (["--cluster", "pbs", "--method", "cmc"], "cmc", "pbs"),
        (["--method", "nuts"], "nuts", "auto"),
    ],
)
def test_new_takes_method_and_cluster(homodyne, tmp_path, options, method, backend):
    made = homodyne("config", "new", "run.yaml", "--mode", "static", *options)
    assert made.code == 0, made
    assert ("jobs" in made.out) == (backend != "auto")
    assert homodyne("config", "check", "run.yaml").code == 0
    config = load_config(tmp_path / "run.yaml")
    assert (config.analysis_mode, config.optimization.method) == ("static", method)
    assert config.optimization.cmc.backend.name == backend
    text = (tmp_path / "run.yaml").read_text()
    assert "but for those of analysis_mode, optimization.method" in text
    assert ("optimization.cmc.backend.name." in text) == (backend != "auto")


def test_new_refuses_a_cluster_for_a_method_without_shards(homodyne, tmp_path):
    outcome = homodyne("config", "new", "run.yaml", "--cluster", "pbs", "--method", "nuts")
    assert outcome.code == 2
    assert "--cluster pbs: jobs sample shards of cmc, not nuts" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_new_replaces_nothing(homodyne, tmp_path):
    (tmp_path / "run.yaml").write_text("mine")
    outcome = homodyne("config", "new", "run.yaml")
    assert (outcome.code, (tmp_path / "run.yaml").read_text()) == (2, "mine")
    assert "'run.yaml' exists" in outcome.err
    assert homodyne("config", "new", "nowhere/run.yaml").code == 2
    assert "'flow'" in homodyne("config", "new", "flow.yaml", "--mode", "flow").err


def test_check_tells_every_problem(homodyne, tmp_path):
    (tmp_path / "run.yaml").write_text("sed: 1\noptimization: {method: nutz}\n")
    outcome = homodyne("config", "check", "run.yaml", "output.figures=maybe")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: 3 problems in run.yaml:",
        "  optimization.method: unknown method 'nutz'; did you mean nuts? Known are auto, cmc, laplace, nuts, "
        "or 'module:name' of your own",
        "  output.figures: 'maybe' given, expected a valid boolean",
        "  sed: unknown key; did you mean seed?",
    ]
    assert outcome.out == ""


def test_check_looks_for_the_data_file(homodyne, tmp_path):
    (tmp_path / "run.yaml").write_text("experimental_data: {file_path: absent.h5}\nseed: -1\n")
    outcome = homodyne("config", "check", "run.yaml")
    assert (outcome.code, outcome.out) == (2, "")
    assert "error: 2 problems in run.yaml:" in outcome.err
    assert "file_path: 'absent.h5' given, there is no such file" in outcome.err
    (tmp_path / "folder").mkdir()
    there = homodyne("config", "check", "run.yaml", "seed=1", "experimental_data.file_path=folder")
    assert "'folder' given, which is no file" in there.err
    (tmp_path / "absent.h5").touch()
    assert homodyne("config", "check", "run.yaml", "seed=1").code == 0
    (tmp_path / "bare.yaml").write_text("seed: 1\n")
    bare = homodyne("config", "check", "bare.yaml")
    assert bare.code == 0
    assert "experimental_data.file_path is not given" in bare.err


EXPLAINED = {
    "optimization.method": ["auto takes the cheapest method", "one of: auto, cmc, laplace, nuts", "default: auto"],
    "cmc.combination.method": ["optimization.cmc.combination.method: product of", "one of: weighted, consensus"],
    "parameters.D0": ["transport amplitude", "hold the parameter at this value"],
    "model.shear_convention": ["default: he2024"],
    "experimental_data": ["file_path", "data file; relative to the folder"],
}


@pytest.mark.parametrize("key", EXPLAINED)
def test_a_key_is_explained(homodyne, key):
    outcome = homodyne("config", "explain", key)
    assert outcome.code == 0, outcome
    assert all(part in outcome.out for part in EXPLAINED[key]), outcome.out


@pytest.mark.parametrize("key", ["optimization.methd", "seed.more", "nothing"])
def test_a_key_that_is_none_is_not_explained(homodyne, key):
    outcome = homodyne("config", "explain", key)
    assert outcome.code == 2
    assert f"{key}: no such key" in outcome.err


def test_the_schema_for_editors(homodyne, tmp_path):
    assert homodyne("config", "schema").code == 0
    assert homodyne("config", "schema").code == 0, "its own file is replaced"
    schema = json.loads((tmp_path / "homodyne.schema.json").read_text())
    assert schema["$defs"]["CMCConfig"]["additionalProperties"] is False
    assert schema["properties"]["seed"]["description"]
    (tmp_path / "mine.json").write_text("{}")
    assert homodyne("config", "schema", "mine.json").code == 2
    assert (tmp_path / "mine.json").read_text() == "{}"
