"""The correlation models that come with the package, one file each; importing them registers them."""

from homodyne.physics.models import heterodyne, laminar_flow, static, stretched

__all__ = ["heterodyne", "laminar_flow", "static", "stretched"]
