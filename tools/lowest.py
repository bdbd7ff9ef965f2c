"""Print the lowest minor versions that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from itertools import chain
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
    if lower := re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement):
        print(f"{lower[1]}=={lower[2]}.*")
