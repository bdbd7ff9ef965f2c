import homodyne.physics  # noqa: F401  # double precision
