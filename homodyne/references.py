"""Objects that a user names as ``module:name``, such as a model of one's own."""

from importlib import import_module
from typing import Any

from homodyne.errors import InputError


def import_reference(reference: str, what: str) -> Any:
    """Import what ``module:name`` refers to.

    Parameters
    ----------
    reference
        Module, as for the import statement, and name in it.
    what
        What is expected there, for messages.

    Raises
    ------
    InputError
        There is no such module or no such name in it, or the module cannot be read.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot import the {what} {reference!r}: {error}; expected 'module:name' in a module that Python finds: "
            "in the working directory of a command, beside a script, or in a folder of PYTHONPATH"
        ) from error
