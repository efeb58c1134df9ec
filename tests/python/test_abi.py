"""The struct layouts: the headers against the library's table, and the table against the ctypes mirror."""
import ctypes
import re
import unittest
from pathlib import Path

from epgraph import _abi, _group, _library

HEADERS = Path(__file__).resolve().parents[2] / "include" / "epgraph"


def declared():
    """{struct: [field, ...]} of the public headers."""
    found = {}
    for header in sorted(HEADERS.glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.S)
        for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", text, re.S):
            fields = []
            for line in filter(None, map(str.strip, body.split(";"))):
                at = re.search(r"\(\*(\w+)\)", line) or re.search(r"(\w+)(?:\[\w+\])?$", line)
                fields.append(at[1])
            found[name] = fields
    return found


class Abi(unittest.TestCase):
    def setUp(self):
        self.rows = _library.abi_rows(_library.lib)

    def test_the_table_holds_every_field_of_its_structs(self):
        table = {}
        for kind, field, _, _ in self.rows:
            table.setdefault(kind, []).append(field)
        headers = declared()
        self.assertGreaterEqual(len(table), 16)
        for kind, fields in table.items():
            self.assertEqual(fields, [""] + headers[kind], kind)

    def test_the_mirror_lies_as_the_library(self):
        self.assertEqual(_abi.differences(self.rows), [])

    def test_differences_are_told_by_name(self):
        class Swapped(ctypes.Structure):
            _fields_ = [("timeout_ms", ctypes.c_uint32), ("size", ctypes.c_uint64)]

        told = _abi.differences(self.rows, {**_abi.STRUCTS, "epg_team_options": Swapped})
        self.assertEqual([line.split(":")[0] for line in told],
                         ["epg_team_options", "epg_team_options.size", "epg_team_options.timeout_ms"])

    def test_a_row_out_of_range(self):
        with self.assertRaises(_library.Error) as caught:
            _library.lib.epg_abi_get(9999, ctypes.byref(_abi.AbiRow()))
        self.assertIn("9999", caught.exception.message)

    def test_enums_and_defaults_are_the_headers(self):
        text = (HEADERS / "group.h").read_text() + (HEADERS / "runner.h").read_text()
        for table, prefix in ((_group.ROW_TYPES, ""), (_group.LAYOUTS, "LAYOUT_"), (_group.MODES, "MODE_")):
            for name, value in table.items():
                self.assertRegex(text, rf"EPG_{prefix}{name.upper()} = {value}\b")
        self.assertRegex(text, r"\{sizeof\(epg_group_options\), 0, 0, 0, 0, 0, 0, 1, EPG_FLOAT32, EPG_LAYOUT_IN_PLACE")
        self.assertEqual(_abi.init(_abi.GroupOptions).lanes, 1)

    def test_versions_agree(self):
        self.assertEqual(_library.lib.epg_version().decode(), _library.VERSION)


if __name__ == "__main__":
    unittest.main()
