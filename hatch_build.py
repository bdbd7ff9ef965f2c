"""Builds record the commit they are made from in the package, where ``homodyne --version`` finds it."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Add the record to archives and wheels of a checkout; wheels of an archive take over the one that lies there."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the record outside the checkout, whose files stay as they are."""
        sys.path.insert(0, self.root)
        from homodyne.versions import RECORD, commit

        found = commit()
        if version == "editable" or RECORD.exists() or found is None:
            return
        self.folder = TemporaryDirectory()  # until the build has ended
        record = Path(self.folder.name, RECORD.name)
        record.write_text(f"{found}\n", encoding="ascii")
        build_data["force_include"][str(record)] = f"homodyne/{RECORD.name}"
