"""``python -m epgraph``: what was found."""
from __future__ import annotations

import importlib
import importlib.util
import sys

from . import _library, scope, settings
from ._arrays import numpy
from ._device import Device
from ._library import Error, UNSUPPORTED


def _devices() -> None:
    print("Devices")
    for kind in ("host", "cuda"):
        ordinal = 0
        while True:
            try:
                with Device(kind, ordinal) as device:
                    told = device.describe()
            except Error as error:
                # Past the last GPU the library says so; without any, the reason is worth a line.
                if ordinal == 0:
                    print(f"  {kind}: {error.message}")
                elif error.code not in (UNSUPPORTED, _library.INVALID):
                    print(f"  {kind} {ordinal}: {error}")
                break
            print(f"  {told['name']}, {told['units']} units, {told['memory_bytes'] / 2**30:.1f} GiB of memory")
            ordinal += 1
            if kind == "host":
                break


def _runtimes() -> None:
    """What a scope finds once the libraries that are installed are imported. One of the legacy stream changes nothing
    that lasts."""
    print("Runtimes")
    for name in ("torch", "cupy", "paddle", "tvm_ffi"):
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever it needs and does not find
            print(f"  {name}, which is installed, cannot be imported: {error}")
    with scope(0, best_effort=True) as entered:
        for runtime in entered.report or ():
            print(f"  {runtime}")


def main() -> int:
    print(f"epgraph {_library.VERSION}, Python {sys.version.split()[0]}, "
          f"numpy {numpy.__version__ if numpy is not None else 'is not installed'}")
    print(f"Library\n  {_library.loaded_from()}, version {_library.lib.epg_version().decode()}")
    _devices()
    _runtimes()
    print("Settings")
    for setting in settings():
        print(f"  {setting['name']} = {setting['value']} (default {setting['default']}): {setting['help']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
