"""The unit that a file or its user states for a quantity, and the factor to ours; :class:`Units` is for all formats.

Ours are those of TARGETS. A unit is one word, with 1/ or an exponent of -1 where it is an inverse, in the spellings of
pint and of instruments (Å⁻¹, angstrom-1, 1/A, inverse nm); A is an ångström.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from homodyne.arguments import as_mapping, shown
from homodyne.arrays import as_array
from homodyne.errors import DataError

TARGETS = {"frame_time": "second", "q": "1/angstrom", "phi": "degree", "gap": "angstrom"}
"""Quantities and the units in which they are used."""

SHORT = {"frame_time": "s", "q": "1/Å", "phi": "degrees", "gap": "Å"}

ALIASES = {
    "dt": "frame_time",
    "t": "frame_time",
    "t1": "frame_time",
    "t2": "frame_time",
    "exposure_period": "frame_time",
}
"""Other names of quantities: all times of a measurement have one unit."""

_EXAMPLES = {"frame_time": "ms", "q": "1/nm", "phi": "rad", "gap": "um"}
_LETTERS = r"[^\W\d_]"
_UNIT = re.compile(rf"(?P<over>1\s*/\s*)?(?P<word>{_LETTERS}+|°)\s*(?:(?:\*\*|\^)?\s*(?P<power>[-+]?1))?\.?")


class Units:
    """Units in which the numbers of one source are, as its user says; what the source states must agree."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        self._given: dict[str, str] = {}
        for name, unit in as_mapping("units", given, "quantity and unit, such as {'frame_time': 'ms'}").items():
            quantity = ALIASES.get(name, name)
            if quantity not in TARGETS:
                raise DataError(
                    f"units has the quantity {shown(name)}; expected one of {', '.join([*TARGETS, *ALIASES])}."
                )
            if self._given.setdefault(quantity, unit) != unit:
                raise DataError(f"units gives {quantity} in {self._given[quantity]!r} and in {unit!r}; expected one.")
            if _factor(str(unit), quantity) is None:
                raise DataError(f"units has {name} in {shown(unit)}, which is no unit of it; {_expected(quantity)}.")
        self._used: set[str] = set()
        self.assumed: dict[str, str] = {}

    def factor(self, quantity: str, stated: str | None, where: str) -> float:
        """Return the factor from the numbers of a source to our unit.

        Parameters
        ----------
        quantity : str
            One of TARGETS or ALIASES.
        stated : str or None
            What the source states; nothing means ours, unless the user says otherwise.
        where : str
            Where that stands, for messages.

        Raises
        ------
        DataError
            The unit is not known and the user gives none, or contradicts his.
        """
        quantity = ALIASES.get(quantity, quantity)
        given, found = self._given.get(quantity), _factor(stated, quantity) if stated else None
        if given is None:
            if stated and found is None:
                raise DataError(
                    f"{where} is in {stated!r}, which is no unit of {quantity} that is known here. Say what it is: "
                    f"units={{{quantity!r}: {_EXAMPLES[quantity]!r}}} (--unit {quantity}={_EXAMPLES[quantity]})."
                )
            if not stated:
                self.assumed[quantity] = SHORT[quantity]
            return 1.0 if found is None else found
        self._used.add(quantity)
        factor = _factor(given, quantity)
        assert factor is not None
        if found is not None and abs(found - factor) > 1e-9 * factor:
            raise DataError(
                f"{where} is in {stated!r}, but units gives {given!r} for {quantity} (--unit). Leave one out, or "
                "correct the file."
            )
        return factor

    def scaled(self, quantity: str, values: object) -> Any:
        """Values of the user in our unit: as they are where none was given, or where they are no numbers."""
        factor = self.factor(quantity, None, quantity)
        if factor == 1.0 or values is None:
            return values
        array = as_array(quantity, values)
        return array * factor if array.dtype.kind in "fiu" else values

    def require_used(self) -> None:
        """Refuse units of quantities that the source does not hold."""
        unused = [name for name in self._given if name not in self._used]
        if unused:
            raise DataError(
                f"units names {', '.join(unused)} (--unit), of which there are no numbers without a unit: "
                f"numbers of your own are in {', '.join(SHORT[name] for name in unused)}."
            )


def _expected(quantity: str) -> str:
    return f"expected {SHORT[quantity]}, {_EXAMPLES[quantity]} or another one"


def _factor(text: str, quantity: str) -> float | None:
    """Factor from a unit to ours; None of a text that is no unit of this quantity."""
    plain = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").strip()
    plain = re.sub(r"(?i)^(inverse|reciprocal|per)[\s_]+", "1/", re.sub(r"[(){}\[\]]", "", plain))
    match = _UNIT.fullmatch(plain)
    if match is None or len(text) > 50:
        return None
    word = match["word"]
    if re.fullmatch(r"(?i)[åa]|aa|ang|[åa]ngstr[öo]ms?", word):
        word = "angstrom"
    inverse, target = (match["over"] is not None) != (match["power"] == "-1"), TARGETS[quantity]
    if inverse != target.startswith("1/"):
        return None
    factor = _pint_factor(word, target.removeprefix("1/"))
    return 1 / factor if inverse and factor is not None else factor


@lru_cache
def _pint_factor(word: str, target: str) -> float | None:
    """Factor from one unit to another by name; None if it is not known, or of something else."""
    import pint

    registry = _registry()
    wanted = registry.Unit(target)
    for name in dict.fromkeys((word, word.lower() if len(word) > 2 else word)):  # symbols mean what their case says
        try:
            one = registry.Quantity(1.0, name)
            # of root units, not dimensions: per cent is no angle
            if one.to_root_units().units == (1.0 * wanted).to_root_units().units:
                return float(one.to(wanted).magnitude)
        except pint.PintError:
            continue
    return None


@lru_cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()
