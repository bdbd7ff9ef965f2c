"""How far an answer can be trusted: one word, what it means, and the exit code of a program that ends with it."""

from enum import StrEnum


class Verdict(StrEnum):
    """The verdict on a posterior; it is also a string."""

    CERTIFIED = "CERTIFIED"
    """The draws agree with the exact posterior, within the limits of the certificate."""

    CORRECTED = "CORRECTED"
    """The draws were off; points weighted by the exact posterior have taken their place."""

    UNCERTIFIED = "UNCERTIFIED"
    """No certificate was asked for."""

    REFUSED = "REFUSED"
    """The numbers must not be used."""

    @property
    def usable(self) -> bool:
        """Whether the draws are known to be those of the posterior."""
        return self in (Verdict.CERTIFIED, Verdict.CORRECTED)

    @property
    def exit_code(self) -> int:
        """Exit code of a command that ends with it."""
        return 3 if self is Verdict.REFUSED else 0
