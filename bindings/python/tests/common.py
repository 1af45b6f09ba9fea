"""Where things are. MATFORMER_LIBRARY names the library under test, MATFORMER_PROGRAM the command line program."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TALES = ROOT / "models" / "tales.mf"
CHECKPOINTS = ROOT / "test" / "golden" / "checkpoints"
PROGRAM = os.environ.get("MATFORMER_PROGRAM")

sys.path.insert(0, str(ROOT / "test" / "golden"))
import expected_file  # noqa: E402, F401


def start_python(code: str, **options) -> subprocess.Popen:
    """A Python program of its own, which has the package and `tales`, the path of the shipped model."""
    code = f"tales = {str(TALES)!r}\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            **options)


def run_python(code: str) -> str:
    """What it printed. It must end well, and say nothing on standard error."""
    program = start_python(code)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 0 and not err, f"status {program.returncode}\n{out}\n{err}"
    return out
