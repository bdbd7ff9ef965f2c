"""From a measurement and a configuration to what is fitted: likelihood, thinned data, starting point."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from homodyne.config.schema import Config, ParameterConfig
from homodyne.core.blocks import Block, block_from_maps
from homodyne.core.likelihood import Likelihood, ScalingPrior
from homodyne.core.moments import BlockSlot
from homodyne.core.parameters import ParameterSpace, parameter_space
from homodyne.core.priors import Prior, make_prior
from homodyne.core.thin import row_sample, thin_block
from homodyne.data.twotime import TwoTimeData
from homodyne.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

_BETWEEN = 40  # pairs of the larger sample for the pilot fit, over those of the small one


@dataclass(frozen=True, eq=False)
class Target:
    """What is fitted.

    Attributes
    ----------
    likelihood : Likelihood
        Of all usable data.
    thin : Block
        A small part of them for the pilot fit.
    between : Block or None
        A larger part, where all data are much more than the small one.
    initial : (dim,) array or None
        Where the user wants the pilot fit to start.
    """

    likelihood: Likelihood
    thin: Block
    between: Block | None
    initial: Array | None


def build_target(data: TwoTimeData, config: Config) -> Target:
    """Bring data and configuration together.

    Raises
    ------
    InputError
        When laminar flow has no gap, or a prior, bound or starting value does not fit.
    """
    gap = data.gap if config.experimental_data.gap is None else config.experimental_data.gap
    if config.analysis_mode == "laminar_flow" and gap is None:
        raise InputError(
            "laminar_flow needs the distance between the plates: give gap in Å (2e6 Å = 200 µm), or use mode static"
        )
    space = space_of(config, data.t)
    if data.wavevectors.size > 1:
        raise InputError(f"data hold {data.wavevectors.size} values of q; expected one wave vector in a fit")
    frames, c2 = np.flatnonzero(data.good), marked_maps(data)
    likelihood = Likelihood(
        BlockSlot(block_from_maps(c2, rows=frames, columns=frames)),
        space,
        data.t,
        data.phi,
        float(data.q[0]),
        gap if config.analysis_mode == "laminar_flow" else None,
        scaling_of(config),
        shear_convention_of(config),
    )
    points = config.optimization.nlsq.thin_points
    thin, between = thin_block(c2, data.good, points), row_sample(c2, data.good, _BETWEEN * points)
    return Target(likelihood, thin, between, _initial(space, config.parameters.given()))


def marked_maps(data: TwoTimeData) -> Array:
    """Maps with NaN in place of what a map has at frames that carry data in others only."""
    maps = np.asarray(data.c2)
    if data.alive[:, data.good].all():
        return maps
    return np.where(data.alive[:, :, None] & data.alive[:, None, :], maps, np.float32(np.nan))


def space_of(config: Config, t: Array) -> ParameterSpace:
    """Build the parameters with their priors for a record of times t (n,)."""
    given = config.parameters.given()
    return parameter_space(
        config.analysis_mode,
        t,
        priors={
            name: _prior(name, own) for name, own in given.items() if own.prior is not None or own.bounds is not None
        },
        fixed={name: own.fixed for name, own in given.items() if own.fixed is not None},
    )


def shear_convention_of(config: Config) -> str:
    """Equation of the shear factor."""
    return str(config.model.given().get("shear_convention", "he2024"))


def scaling_of(config: Config) -> ScalingPrior:
    """Build the prior of contrast and offset."""
    offset, contrast = config.parameters.offset.prior, config.parameters.contrast.prior
    return ScalingPrior(offset.mean, offset.sd, contrast.mean, contrast.sd)


def _prior(name: str, given: ParameterConfig) -> Prior:
    from homodyne.core.parameters import DEFAULT_PRIORS

    if given.prior is None:
        kind, arguments = DEFAULT_PRIORS[name]
    else:
        kind, arguments = given.prior.type, given.prior.model_dump(exclude={"type"})
    return make_prior(kind, arguments, given.bounds, name=name)


def _initial(space: ParameterSpace, given: dict[str, ParameterConfig]) -> Array | None:
    """Starting point from the user's values, completed by prior medians."""
    values = {name: own.initial for name, own in given.items() if own.initial is not None}
    if not values:
        return None
    params = {name: values.get(name, float(space.priors[name].quantile(0.5))) for name in space.free_names}
    return space.coordinates({**params, **space.fixed})
