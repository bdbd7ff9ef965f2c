"""Objects that a user names as ``module:name``, such as a model of one's own, and modules."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from homodyne.errors import InputError


def import_reference(reference: str, what: str) -> Any:
    """Import what ``module:name``, or the name of a module, refers to.

    Parameters
    ----------
    reference
        Module, as for the import statement, and name in it; ``module.name`` will do where there is no such module.
    what
        What is expected there, for messages.

    Raises
    ------
    InputError
        There is no such module or no such name in it, or the module cannot be read.
    """
    module, _, name = reference.partition(":")
    try:
        if not name and "." in module and not is_module(module):
            module, _, name = module.rpartition(".")
        found = import_module(module)
        return getattr(found, name) if name else found
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot import the {what} {reference!r}: {error}; expected 'module:name' in a module that Python finds: "
            "in the working directory of a command, beside a script, or in a folder of PYTHONPATH"
        ) from error


def is_module(name: str) -> bool:
    """Whether Python finds a module of this name; packages above it are imported."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what is before the last dot is no package
        return False
