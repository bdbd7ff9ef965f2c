"""Public names of a package that are imported when they are first used, so that importing the package stays cheap."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def attributes(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and the ``__dir__`` of a package.

    Parameters
    ----------
    package
        Its name.
    homes
        Modules, by their name in the package or by one with dots in full, and the public names that each defines.
    """
    module_of = {
        name: module if module.startswith("homodyne.") else f"{package}.{module}"
        for module, names in homes.items()
        for name in names
    }

    def find(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(module_of[name]), name)
        return found

    return find, lambda: sorted(module_of)
