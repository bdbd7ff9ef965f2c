"""Versions and releases: what the program says of itself, what is no release, and what built files hold."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import jax
import numpyro
import pytest

import homodyne
from homodyne.versions import used_versions

ROOT = Path(__file__).resolve().parent.parent
RUBBISH = ("notes.txt", "data.h5", ".venv/lib/a.py", "demo/run.h5", "homodyne/__pycache__/a.pyc", "tests/x/.cache/b")
CHANGES = "# Changelog\n\n## Unreleased\n\n## 9.0.0 - 2030-01-31\n\n- Something.\n\n## 8.0.0 - 2029-12-24\n\n- This.\n"


def git(folder, *words):
    return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()


def commit_all(folder):
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "tester")
    git(folder, "config", "user.email", "tester@example.org")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "--message", "state")


def put(folder, name, text="rubbish"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


# what the program says of itself


@pytest.fixture
def copy(tmp_path):
    """The few modules that tell versions, elsewhere."""
    for name in ("__init__.py", "lazy.py", "versions.py"):
        put(tmp_path, f"homodyne/{name}", (ROOT / "homodyne" / name).read_text())
    return tmp_path


def told(folder):
    words = [sys.executable, "-Bc", "from homodyne.versions import version_lines; print(version_lines())"]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(line.split() for line in done.stdout.splitlines())


def test_libraries_are_those_that_are_imported(copy):
    said = told(copy)
    assert said.pop("commit") == "none"
    assert said == {"homodyne": homodyne.__version__, "jax": jax.__version__, "numpyro": numpyro.__version__}
    assert said.items() <= used_versions().items()


def test_a_checkout_tells_its_commit_and_whether_files_differ(copy):
    git(copy, "init", "--quiet")
    assert told(copy)["commit"] == "none"  # there is none yet
    commit_all(copy)
    git(copy, "tag", "v1")
    commit = git(copy, "rev-parse", "HEAD")[:12]
    assert told(copy)["commit"] == commit
    put(copy, "homodyne/lazy.py", "attributes = lambda *names: (None, None)\n")
    assert told(copy)["commit"] == f"{commit}-dirty"


def test_the_record_of_a_build_tells_and_a_repository_further_up_does_not(copy):
    commit_all(copy)
    shutil.move(copy / "homodyne", copy / "site/homodyne")
    assert told(copy / "site")["commit"] == "none"
    put(copy, "site/homodyne/commit.txt", "0123456789ab\n")
    assert told(copy / "site")["commit"] == "0123456789ab"


# what is no release


@pytest.fixture
def repository(tmp_path):
    put(tmp_path, "tools/release.py", (ROOT / "tools/release.py").read_text())
    put(tmp_path, "homodyne/versions.py", '__version__ = "8.0.0"\n')
    put(tmp_path, "CHANGELOG.md", CHANGES)
    commit_all(tmp_path)
    return tmp_path


def refused(folder, version, *options):
    before = git(folder, "rev-parse", "HEAD"), git(folder, "tag")
    words = [sys.executable, folder / "tools/release.py", version, *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (git(folder, "rev-parse", "HEAD"), git(folder, "tag")) == before
    assert len(git(folder, "worktree", "list").splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("version", ["9.0", "v9.0.0", "9.0.0rc1", ""])
def test_a_number_of_another_form(repository, version):
    assert "expected three numbers" in refused(repository, version)


@pytest.mark.parametrize("file", ["homodyne/versions.py", "new.py"])
def test_a_tree_with_changes(repository, file):
    put(repository, file, '__version__ = "8.0.1"\n')
    said = refused(repository, "9.0.0")
    assert "the tree has changes" in said
    assert file in said


@pytest.mark.parametrize("planted", ["", "## 9.0.0\n\n- No day.\n", "## 9.0.0 - 2030-01-31\n\n## 8.0.0\n\n- Old.\n"])
def test_a_version_without_its_section(repository, planted):
    put(repository, "CHANGELOG.md", f"# Changelog\n\n{planted}")
    commit_all(repository)
    assert "CHANGELOG.md says nothing under '## 9.0.0 - YYYY-MM-DD'" in refused(repository, "9.0.0")


def test_entries_that_belong_to_no_version(repository):
    put(repository, "CHANGELOG.md", CHANGES.replace("Unreleased\n", "Unreleased\n\n- More.\n"))
    commit_all(repository)
    assert "entries under '## Unreleased'" in refused(repository, "9.0.0")


def test_a_version_that_was_released(repository):
    git(repository, "tag", "v9.0.0")
    assert "the tag v9.0.0 is there" in refused(repository, "9.0.0")


def test_a_version_older_than_this_one(repository):
    assert "7.10.0 is older than 8.0.0" in refused(repository, "7.10.0")


def test_a_build_that_fails_leaves_nothing(repository):
    said = refused(repository, "9.0.0")
    assert "-m build" in said
    assert "has failed" in said


# what built files hold


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Archive and wheel of a copy of this tree, built as a release is, with rubbish lying there."""
    folder, dist = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    listed = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    files = {name for name in listed if name and (ROOT / name).exists()}
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    commit_all(folder)
    spec = spec_from_file_location("release", folder / "tools/release.py")
    release = module_from_spec(spec)
    spec.loader.exec_module(release)
    with release.checkout() as tree:
        commit = release.bump("99.0.0", tree)
        for name in RUBBISH:
            put(tree, name)
        release.build(tree)
        shutil.copytree(tree / "dist", dist, dirs_exist_ok=True)
    assert git(folder, "rev-parse", "HEAD") == git(folder, "rev-parse", f"{commit}~1")
    assert release.version_in(folder) == homodyne.__version__
    with tarfile.open(dist / "homodyne-99.0.0.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(dist / "homodyne-99.0.0-py3-none-any.whl") as wheel:
        wheel.extractall(dist / "installed")
    return SimpleNamespace(files=files, commit=commit, archive=names, installed=dist / "installed")


def test_the_archive_has_all_but_what_serves_the_repository(built):
    wanted = {name for name in built.files if not name.startswith((".ci/", ".github/", ".pre-commit"))}
    assert built.archive == wanted | {"PKG-INFO", "homodyne/commit.txt"}


def test_the_wheel_has_the_package_alone(built):
    files = {file.relative_to(built.installed).as_posix() for file in built.installed.rglob("*") if file.is_file()}
    package = {name for name in built.files if name.startswith("homodyne/")} | {"homodyne/commit.txt"}
    assert {name for name in files if not name.startswith("homodyne-99.0.0.dist-info/")} == package


def test_the_installed_program_tells_its_version_and_commit(built):
    said = told(built.installed)
    assert (said["homodyne"], said["commit"]) == ("99.0.0", built.commit[:12])
