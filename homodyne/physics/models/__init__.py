"""The correlation models that come with the package, one file each; importing them registers them."""

from homodyne.physics.models import laminar_flow, static

__all__ = ["laminar_flow", "static"]
