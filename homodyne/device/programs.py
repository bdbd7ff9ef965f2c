"""One compiled program for all devices of a host: compiled for the first that calls it, loaded onto the others.

JAX compiles a jitted function once for every device that calls it. An executable can also be written out, and loaded
onto another device of the same kind in a twentieth of the time.
"""

import io
import logging
import pickle
import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable
from jaxlib import xla_client

logger = logging.getLogger(__name__)


class SharedProgram:
    """A function as by `jax.jit`, whose compiled form is shared by threads that have a default device each.

    Devices wait for each other only while a program is compiled or loaded.

    Parameters
    ----------
    function
        Function of trees of arrays without side effects.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._jitted = jax.jit(function)
        self._making = threading.Lock()
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        self._loaded: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """Call the function on the default device of this thread; without one this is nothing but `jax.jit`."""
        device = jax.config.jax_default_device  # type: ignore[attr-defined]
        if not isinstance(device, jax.Device):
            return self._jitted(*args)
        leaves, structure = jax.tree.flatten(args)
        shapes = structure, *map(jax.typeof, leaves)
        if (shapes, device) not in self._loaded:
            with self._making:
                if (shapes, device) not in self._loaded:
                    self._loaded[shapes, device] = self._load((shapes, device.device_kind), device, args)
        return self._loaded[shapes, device](*args)

    def _load(self, key: Any, device: jax.Device, args: Any) -> Callable[..., Any]:
        """Compile, or load what was compiled for another device.

        Where that cannot be done every device has its own, so programs from JAX's cache on disk, which cannot be
        written out a second time.
        """
        if key not in self._compiled:
            self._compiled[key] = self._jitted.lower(*args).compile()
            return self._compiled[key]
        try:
            loaded = _load_onto(device, *serialize_executable.serialize(self._compiled[key]))
            jax.block_until_ready(loaded(*args))  # type: ignore[no-untyped-call]
        except (jax.errors.JaxRuntimeError, AttributeError, NotImplementedError, TypeError, ValueError) as error:
            logger.info("a program is compiled anew for %s: %s", device, error)
            return self._jitted
        return loaded


def _load_onto(device: jax.Device, content: bytes, arguments: Any, result: Any) -> Callable[..., Any]:
    executable, shapes, no_keywords = _Onto(device, content).load()
    return jax.stages.Compiled(executable.load(), [], arguments.unflatten(shapes), result, no_kwargs=no_keywords)


class _Onto(pickle.Unpickler):
    """Reads an executable of this process as if it had been compiled for another device, which JAX's reader cannot."""

    def __init__(self, device: jax.Device, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._device = device

    def persistent_load(self, pid: Any) -> Any:
        """Find what is not written out: the device, its client, and the machine code."""
        if pid[0] in ("device", "client"):
            return self._device if pid[0] == "device" else self._device.client
        options = xla_client.CompileOptions()
        place = xla_client.DeviceAssignment.create(np.array([[self._device.id]]))
        options.device_assignment = options.executable_build_options.device_assignment = place
        return self._device.client.deserialize_executable(pid[1], xla_client.DeviceList((self._device,)), options)
