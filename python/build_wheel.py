"""Builds the wheel, without any other package: `pip install ./python` needs no network.

The wheel carries libepgraph.so: the file that EPGRAPH_LIBRARY names, else the one in ../build. Where there is neither
it is pure Python, and the library is found when it is imported. One wheel serves every Python of 3.9 and later.
"""
import base64
import hashlib
import os
import re
import sysconfig
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ABOUT = (HERE / "pyproject.toml").read_text(encoding="utf-8")


def _told(key):
    return re.search(rf'^{key} = "(.*)"$', ABOUT, re.M)[1]


VERSION = _told("version")
SONAME = "libepgraph.so." + VERSION.split(".")[0]


def _library():
    named = os.environ.get("EPGRAPH_LIBRARY")
    found = [Path(named)] if named else sorted((HERE.parent / "build").glob(f"libepgraph.so.{VERSION}"))
    if named and not found[0].is_file():
        raise FileNotFoundError(f"EPGRAPH_LIBRARY names {named}, which is no file")
    return found[0] if found else None


def _info(tag):
    folder = f"epgraph-{VERSION}.dist-info"
    metadata = (f"Metadata-Version: 2.1\nName: epgraph\nVersion: {VERSION}\nSummary: {_told('description')}\n"
                f"License: Apache-2.0\nRequires-Python: {_told('requires-python')}\n"
                "Provides-Extra: numpy\nRequires-Dist: numpy; extra == 'numpy'\n")
    wheel = (f"Wheel-Version: 1.0\nGenerator: epgraph\nRoot-Is-Purelib: {'true' if tag.endswith('any') else 'false'}\n"
             f"Tag: {tag}\n")
    return folder, {f"{folder}/METADATA": metadata.encode(), f"{folder}/WHEEL": wheel.encode()}


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """PEP 517: writes the wheel and returns its name."""
    library = _library()
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform()) if library else "any"
    tag = f"py3-none-{platform}"
    folder, info = _info(tag)
    files = {f"epgraph/{path.name}": path.read_bytes() for path in sorted((HERE / "epgraph").glob("*"))
             if path.suffix == ".py" or path.name == "py.typed"}
    if library:
        files[f"epgraph/{SONAME}"] = library.read_bytes()
    files.update(info)
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{folder}/RECORD"] = (record + f"{folder}/RECORD,,\n").encode()
    name = f"epgraph-{VERSION}-{tag}.whl"
    with zipfile.ZipFile(Path(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path)   # its date is fixed: the same sources give the same wheel
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            wheel.writestr(entry, content)
    return name
