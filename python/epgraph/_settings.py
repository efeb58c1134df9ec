"""The environment variables that the library reads."""
from __future__ import annotations

import ctypes as c
from typing import Dict, List

from . import _abi
from ._library import lib


def settings() -> List[Dict[str, str]]:
    """Every setting: its ``name`` (the environment variable), ``default``, ``help``, and the ``value`` in force."""
    told = []
    for index in range(lib.epg_setting_count()):
        info = _abi.SettingInfo()
        lib.epg_setting_get(index, c.byref(info))
        told.append({"name": info.name.decode(), "default": info.default_value.decode(), "help": info.help.decode(),
                     "value": info.value.decode(errors="replace")})
    return told
