"""Which program this is, and which libraries compute with it: for records of answers and for reports of faults."""

from pathlib import Path

__version__ = "0.2.0"
"""Version of the package; nothing else has it."""

RECORD = Path(__file__).with_name("commit.txt")
"""The commit that a wheel or an archive was built from; there is none in a checkout."""
_CHECKOUT = RECORD.parent.parent
_LIBRARIES = ("jax", "numpyro", "numpy", "scipy")


def used_versions() -> dict[str, str]:
    """Version of all that has a part in the numbers, by name."""
    from importlib.metadata import version  # late, as subprocess: until the program handles signals little is imported

    return {"homodyne": __version__, **{library: version(library) for library in _LIBRARIES}}


def commit() -> str | None:
    """Commit of this code, with ``-dirty`` where tracked files differ from it; None where nothing tells."""
    if RECORD.exists():
        return RECORD.read_text(encoding="ascii").strip()
    if not (_CHECKOUT / ".git").exists():  # a repository further up has other commits
        return None
    import subprocess

    words = ["git", "-C", str(_CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return done.stdout.strip() or None


def version_lines() -> str:
    """Lines for a person: version, commit, and versions of JAX and NumPyro, none of which is imported for it."""
    from importlib.metadata import version

    lines = {"homodyne": __version__, "commit": commit() or "none", **{x: version(x) for x in _LIBRARIES[:2]}}
    return "\n".join(f"{name} {value}" for name, value in lines.items())
