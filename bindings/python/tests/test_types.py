"""Types, where mypy is installed: pip install mypy."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

from common import ROOT

USER = """
import numpy as np
import matformer
with matformer.open("model.mf", load="copy", progress=True) as model:
    session = matformer.Session(model, cache_type=matformer.CacheType.BF16)
    for event in session.generate(np.array([1, 2]), "M", sampler=matformer.Sampler(model, temperature=1)):
        reveal_type(event.text)
    reveal_type(session.forward([1]).logits)
"""


@unittest.skipUnless(importlib.util.find_spec("mypy"), "mypy is not installed")
class TypesTest(unittest.TestCase):
    def mypy(self, *arguments):
        with tempfile.TemporaryDirectory() as cache:
            return subprocess.run([sys.executable, "-m", "mypy", "--strict", f"--cache-dir={cache}", *arguments],
                                  capture_output=True, text=True, env={**os.environ, "MYPYPATH": ""})

    def test_strict(self):
        package = ROOT / "bindings" / "python"
        checked = self.mypy(str(package / "matformer"), str(package / "generate_abi.py"), str(package / "bench.py"))
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_what_a_user_sees(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "user.py")
            with open(file, "w") as out:
                out.write(USER)
            checked = self.mypy(file)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertRegex(checked.stdout, 'revealed type is "(builtins.)?str"|Revealed type is "(builtins.)?str"')
        self.assertRegex(checked.stdout, r"float")


if __name__ == "__main__":
    unittest.main()
