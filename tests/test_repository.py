"""What stands at the root: hooks and workflow call what there is, and the version is told in one place."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from homodyne import __version__

ROOT = Path(__file__).resolve().parent.parent
JOBS = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]


def makes(target, variables):
    words = ["make", "--dry-run", "--always-make", target]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("job", JOBS)
def test_the_workflow_runs_what_make_knows(job):
    variables = JOBS[job]["env"]
    targets = [target for step in JOBS[job]["steps"] for target in re.findall(r"\bmake (\S+)", step.get("run", ""))]
    assert "test" in targets
    assert all(makes(target, variables) for target in targets)
    assert not makes("tset", variables)  # planted


def test_the_workflow_takes_every_python_that_is_promised():
    promised = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert JOBS["newest"]["strategy"]["matrix"]["python"] == promised


def test_hooks_are_lint():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    assert [hook["entry"] for hook in repositories[0]["hooks"]] == ["make lint"]
    assert makes("lint", {})


def test_a_citation_has_what_the_format_needs_and_no_second_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "homodyne developers"}]
    assert {"message", "title"} <= citation.keys()
    assert "version" not in citation


def test_the_changelog_has_this_version():
    assert re.search(rf"^## {re.escape(__version__)} - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_lowest_versions_are_those_of_the_project():
    lowest = subprocess.run([sys.executable, ROOT / "tools/lowest.py"], capture_output=True, text=True, check=True)
    needed = re.findall(r'^    "([\w.-]+)>=([\w.]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert {"jax==0.6.*", "numpyro==0.18.*"} < set(lowest.stdout.splitlines())
    assert set(lowest.stdout.splitlines()) >= {f"{name}=={version}.*" for name, version in needed}
