"""Build, try and tag a release; nothing is pushed, and a release that fails leaves nothing behind but a message."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
VERSION_FILE = Path("homodyne/versions.py")
STATEMENT = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
SECTION = re.compile(r"^## (?P<title>.+)\n(?P<text>(?:(?!## ).*\n?)*)", re.MULTILINE)
FIT = """
import homodyne
truth = {"D0": 2e4, "alpha": -0.5, "D_offset": 100.0}
maps = {"q": 0.01, "num_frames": 40, "dt": 0.1, "phi": [0.0, 90.0], "contrast": 0.3, "sigma": 0.01}
data = homodyne.simulate(truth, kind="independent", seed=1, **maps)
result = homodyne.fit(data, mode="static", seed=0)
assert result.verdict in ("CERTIFIED", "CORRECTED"), result.verdict
print(result.verdict)
"""


def main() -> None:
    """Parse the command line; end with one sentence where the release is refused or fails."""
    parser = argparse.ArgumentParser(prog="make release VERSION=x.y.z", description=__doc__)
    parser.add_argument("version", help="what the release is called, such as 1.2.3")
    parser.add_argument("--dry-run", action="store_true", help="do all but the commit and the tag")
    given = parser.parse_args()
    version: str = given.version
    if reason := refusal(version):
        sys.exit(f"no release: {reason}")
    try:
        with checkout() as tree:
            commit = bump(version, tree)
            (wheel,) = build(tree)
            smoke_test(wheel, version)
            if given.dry_run:
                print(f"{version} can be released; nothing was committed or tagged")
                return
            shutil.copytree(tree / "dist", ROOT / "dist", dirs_exist_ok=True)
        git("merge", "--quiet", "--ff-only", commit)
        git("tag", "--annotate", f"v{version}", "--message", f"homodyne {version}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"no release: {' '.join(map(str, error.cmd))} has failed\n{error.output or ''}")
    print(f"dist/ holds {version}, the tag v{version} is set; look at both, then push with  git push --follow-tags")


def refusal(version: str) -> str:
    """Why this state of the repository cannot become that version; empty where it can."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return f"{version!r} is no version; expected three numbers, such as 1.2.3"
    if changed := git("status", "--porcelain"):
        return f"the tree has changes; commit or remove them\n{changed}"
    if git("tag", "--list", f"v{version}"):
        return f"the tag v{version} is there; take another number"
    now = version_in(ROOT)
    if [int(part) for part in version.split(".")] < [int(part) for part in now.split(".")]:
        return f"{version} is older than {now}"
    sections = {
        found["title"]: found["text"].strip() for found in SECTION.finditer((ROOT / "CHANGELOG.md").read_text())
    }
    if not any(
        text and re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", title) for title, text in sections.items()
    ):
        return f"CHANGELOG.md says nothing under '## {version} - YYYY-MM-DD'; write that, with the day of the release"
    if sections.get("Unreleased"):
        return f"CHANGELOG.md has entries under '## Unreleased'; move them to {version}"
    return ""


@contextmanager
def checkout() -> Iterator[Path]:
    """Make a second work tree of the last commit, which goes when the block ends."""
    with TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--quiet", "--detach", tree)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", tree)


def bump(version: str, tree: Path) -> str:
    """Commit the version in a work tree, unless it is there already; return the commit."""
    file = tree / VERSION_FILE
    if version_in(tree) != version:
        file.write_text(STATEMENT.sub(f'__version__ = "{version}"', file.read_text()))
        git("commit", "--quiet", "--no-verify", "--all", "--message", f"Version {version}", tree=tree)
    return git("rev-parse", "HEAD", tree=tree)


def build(tree: Path) -> list[Path]:
    """Make the archive and from it the wheel, in ``dist/`` of a work tree; return the wheels there."""
    call(sys.executable, "-m", "build", "--no-isolation", tree)
    return list((tree / "dist").glob("*.whl"))


def smoke_test(wheel: Path, version: str) -> None:
    """Install a wheel where nothing else is, ask it for its version, and fit a small measurement."""
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        call(f"{folder}/bin/pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
        said = call(f"{folder}/bin/homodyne", "--version", folder=folder)
        if said.splitlines()[0] != f"homodyne {version}" or "commit none" in said or "-dirty" in said:
            sys.exit(f"no release: the installed program calls itself\n{said}")
        print(said + call(f"{folder}/bin/python", "-I", "-c", FIT, folder=folder), end="")


def version_in(tree: Path) -> str:
    """Version that a work tree states."""
    found = STATEMENT.search((tree / VERSION_FILE).read_text())
    if found is None:
        sys.exit(f'no release: {VERSION_FILE} has no line  __version__ = "x.y.z"')
    return found["version"]


def git(*words: str | Path, tree: Path = ROOT) -> str:
    """What git says about a work tree."""
    return call("git", "-C", tree, *words).strip()


def call(*words: str | Path, folder: str | Path = ROOT) -> str:
    """Run a program to its end and return what it says; it imports from its own environment only."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env=environment, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


if __name__ == "__main__":
    main()
