"""The examples run and say that they are right."""
import os
import subprocess
import sys
import unittest
from pathlib import Path

try:
    import numpy
except ImportError:
    numpy = None

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "python").glob("*.py"))


class Examples(unittest.TestCase):
    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_each_exits_with_0(self):
        self.assertTrue(EXAMPLES)
        for example in EXAMPLES:
            with self.subTest(example.name):
                ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=120,
                                     env=dict(os.environ))
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
                self.assertTrue(ran.stdout)


if __name__ == "__main__":
    unittest.main()
