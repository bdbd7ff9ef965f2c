"""A result as a NeXus file of its own, for the archive of a facility: :func:`nexus_bytes`.

/entry                  NXentry, its default plot is the first rate of the model
  process               NXprocess: program, version, verdict, the three sentences
    configuration       NXnote: everything to run it again, as YAML
    input               NXnote: the data file
    settings, versions  NXparameters: seed, method, model ...; versions of libraries
  parameters            NXparameters: posterior mean of each, NAME_errors are standard deviations
  maps                  NXcollection: q and phi of every map, gap of the plates
  rates                 NXcollection of NXdata: median of every rate against age, errors half of the central 68 %
  posterior             NXcollection: draws (chain, draw, ...)
"""

import io
import time

import h5py
import numpy as np

from homodyne.arrays import Array, evenly
from homodyne.config import yaml
from homodyne.files import NEXUS
from homodyne.result.netcdf import escaped
from homodyne.result.record import MCMCResult

MOST_AGES, MOST_DRAWS = 500, 1000
"""Ages at which rates are written, and draws that they are found from."""


def nexus_bytes(result: MCMCResult, data_file: str | None = None) -> bytes:
    """Content of a NeXus file with a result: what was found, how, from which file, and every draw.

    Parameters
    ----------
    result
        Names of parameters that HDF5 does not take are written with %2F for / and %25 for %.
    data_file
        Where the data are; by default as the configuration of the result says.
    """
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        file.attrs.update(NX_class="NXroot", creator="homodyne", default="entry")
        file.attrs["file_time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = _group(file, "entry", "NXentry", title=f"{result.analysis_mode} model by {result.method}")
        _write_process(entry, result, data_file)
        _write_parameters(_group(entry, "parameters", "NXparameters"), result)
        if result.q is not None:
            maps = _group(entry, "maps", "NXcollection")
            for name, unit in (("q", "1/angstrom"), ("phi", "degree"), ("gap", "angstrom")):
                if (value := getattr(result, name)) is not None:
                    _put(maps, name, value, unit)
        posterior = _group(entry, "posterior", "NXcollection")
        for name, draws in result.samples.items():
            _put(posterior, name, draws, result.units.get(name))
        if result.t is not None and not result.missing_model:
            _write_rates(entry, result, result.t)
    return sink.getvalue() + NEXUS.mark


def _group(parent: h5py.Group, name: str, kind: str, **fields: object) -> h5py.Group:
    group = parent.create_group(escaped(name))
    group.attrs["NX_class"] = kind
    for key, value in fields.items():
        if value is not None:
            _put(group, key, value)
    return group


def _put(group: h5py.Group, name: str, value: object, units: str | None = None) -> None:
    group[escaped(name)] = value
    if units:
        group[escaped(name)].attrs["units"] = units


def _write_process(entry: h5py.Group, result: MCMCResult, data_file: str | None) -> None:
    words, versions = result.words, dict(result.versions)
    said = {"verdict": str(result.verdict), "found": words.found, "trust": words.trust, "next": words.next}
    about = {"program": "homodyne", "version": versions.get("homodyne"), "sequence_index": 1, **said}
    process = _group(entry, "process", "NXprocess", **about)
    text = yaml.dump(dict(result.config))
    _group(process, "configuration", "NXnote", type="application/yaml", data=text)
    source = data_file or (result.config.get("experimental_data") or {}).get("file_path")
    if source:
        _group(process, "input", "NXnote", file_name=source)
    how = {name: getattr(result, name) for name in ("method", "uncertainty", "seed", "num_points", "num_shards")}
    _group(process, "settings", "NXparameters", model=result.analysis_mode, **how)
    _group(process, "versions", "NXparameters", **versions)


def _write_parameters(group: h5py.Group, result: MCMCResult) -> None:
    means, errors = result.mean, result.sd
    for name in dict.fromkeys((*result.parameter_names, *result.samples)):
        _put(group, name, means.get(name, result.fixed.get(name)), result.units.get(name))
        if name in errors:
            _put(group, f"{name}_errors", errors[name], result.units.get(name))


def _write_rates(entry: h5py.Group, result: MCMCResult, t: Array) -> None:
    from homodyne.result.curves import rate_draws  # JAX is loaded only where there are rates

    ages = t[evenly(t.size, MOST_AGES)]
    found = rate_draws(result, ages, evenly(result.num_chains * result.num_draws, MOST_DRAWS))
    if not found:
        return
    rates = _group(entry, "rates", "NXcollection")
    entry.attrs["default"], rates.attrs["default"] = "rates", escaped(found[0].rate.name)
    for rate, value, _ in found:
        low, middle, high = np.quantile(value, (0.16, 0.5, 0.84), axis=0)
        data = _group(rates, rate.name, "NXdata")
        data.attrs.update(signal=escaped(rate.name), axes=["age"])
        _put(data, rate.name, middle, rate.unit)
        _put(data, f"{rate.name}_errors", (high - low) / 2, rate.unit)
        _put(data, "age", ages, "s")
