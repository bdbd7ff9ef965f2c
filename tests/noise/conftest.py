import homodyne.core  # noqa: F401  # double precision
