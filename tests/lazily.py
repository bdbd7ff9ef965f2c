"""Check of types that is made when a function is first called: most functions are not called by most tests."""

from functools import wraps

from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)  # a float may be an int


def checked(function):
    made = []

    @wraps(function)
    def call(*args, **kwargs):
        if not made:
            made.append(beartype(function, conf=CONF))
        return made[0](*args, **kwargs)

    return call
