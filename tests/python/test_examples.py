"""The examples run and say that they are right; those that need a GPU are skipped without one."""
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
        self.assertGreaterEqual(len(EXAMPLES), 3)
        for example in EXAMPLES:
            with self.subTest(example.name):
                ran = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=240,
                                     env=dict(os.environ))
                self.assertTrue(ran.stdout)
                if ran.returncode == 77:
                    self.assertTrue(ran.stdout.startswith("skipped: "), ran.stdout)
                    self.assertNotIn("numpy", example.name)
                    continue
                self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)


if __name__ == "__main__":
    unittest.main()
