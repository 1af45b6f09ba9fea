"""The programs of docs/python.md run, in order, as one."""

import contextlib
import io
import os
import re
import tempfile
import unittest

from common import ROOT, TALES


class DocsTest(unittest.TestCase):
    def test_the_programs_of_the_manual_run(self):
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 4)
        before, names, out = os.getcwd(), {}, io.StringIO()
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out):
            os.symlink(TALES, os.path.join(folder, "model.mf"))
            os.chdir(folder)
            try:
                for block in blocks:
                    exec(compile(block, "docs/python.md", "exec"), names)
            finally:
                os.chdir(before)
        self.assertIn("widths S, M, L, XL", out.getvalue())
        self.assertIn("MF_E_WIDTH", out.getvalue())


if __name__ == "__main__":
    unittest.main()
