"""The programs of examples/python run, and do what they say."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

import matformer
from common import CHECKPOINTS, ROOT, TALES

EXAMPLES = ROOT / "examples" / "python"
WIDTHS = ("S", "M", "L", "XL")


def stay_on_one_core():
    """Threads that wait for each other make little of a machine that is busy."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def run(name, *arguments):
    """What it printed. It must end well, and say nothing on standard error."""
    done = subprocess.run([sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)], capture_output=True,
                          text=True, timeout=120, cwd=tempfile.gettempdir(), preexec_fn=stay_on_one_core)
    assert done.returncode == 0 and not done.stderr, f"{name}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class ExamplesTest(unittest.TestCase):
    def test_all_of_them_have_a_test(self):
        tested = set(re.findall(r'\brun\("(\w+)"', Path(__file__).read_text()))
        found = {file.stem for file in EXAMPLES.glob("*.py")}
        self.assertEqual(found - {"train_nested"}, tested)  # which test_torch.py runs

    def test_load_and_run(self):
        with matformer.open(TALES) as model:
            text = matformer.Session(model).generate("Once upon a time", "M", max_tokens=60).read()
        out = run("load_and_run", TALES, "M")
        self.assertIn("using 2.4 M as M", out)
        self.assertIn(text, out)
        self.assertRegex(out, r"\[\d+ tokens/s, ended by LENGTH\]")

    def test_switch_width(self):
        out = run("switch_width", TALES)
        self.assertEqual(re.findall(r"^\[(\w+), ", out, re.MULTILINE), list(WIDTHS))
        self.assertIn("[(0, 'S'), (24, 'M'), (48, 'L'), (72, 'XL')]", out)

    def test_budget(self):
        out = run("budget", TALES, "params<=3e6", "params<=1e3", "bytes<=1e7")
        fits, too_small, bytes_fit = out.splitlines()
        self.assertLessEqual(int(re.search(r"(\d+) parameters", fits)[1]), 3e6)
        self.assertIn("no entry", too_small)
        self.assertRegex(bytes_fit, r"[\d.]+ nats a token$")
        self.assertEqual(len(run("budget", TALES).splitlines()), 4)

    def test_speculate(self):
        out = run("speculate", TALES)
        accepted, drafted = map(int, re.search(r"(\d+) of (\d+) drafted", out).groups())
        self.assertGreater(accepted, 0)
        self.assertLessEqual(accepted, drafted)

    def test_batch_of_widths(self):
        out = run("batch_of_widths", TALES)
        self.assertEqual(re.findall(r"^\[(\w+)\] In the middle of the forest there stood ", out, re.MULTILINE),
                         list(WIDTHS))

    def test_image_features(self):
        out = run("image_features", CHECKPOINTS / "vit_pooler_f32")
        self.assertEqual(re.findall(r"a disk, (\w+): 32 features", out), list(WIDTHS))
        self.assertIn("XL: 32 features, cosine to the widest 1.0000", out)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "noise.npy")
            np.save(file, np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float32))
            self.assertEqual(len(run("image_features", CHECKPOINTS / "vit_pooler_f32", file).splitlines()), 4)

    @unittest.skipUnless(importlib.util.find_spec("llguidance"), "llguidance is not installed")
    def test_json_output(self):
        out = run("json_output", TALES)
        self.assertEqual(re.findall(r"^([^{]+) {", out, re.MULTILINE), [*WIDTHS, "XL, drafted by S"])
        for line in out.splitlines():
            value = json.loads(line[line.index("{"):])
            self.assertEqual(list(value), ["name", "kind", "age", "sons"])
            self.assertIn(value["kind"], ("king", "queen", "dragon", "miller"))
            self.assertIs(type(value["age"]), int)
            self.assertIn(value["age"], range(1, 901))
            self.assertIn(len(value["sons"]), (1, 2, 3))
            for name in (value["name"], *value["sons"]):
                self.assertRegex(name, r"\A[A-Z][a-z]{2,9}\Z")

    def test_without_the_grammar_the_model_writes_no_json(self):
        with matformer.open(TALES) as model:
            for seed in range(5):
                sampler = matformer.Sampler(model, temperature=0.8, seed=seed)
                with self.assertRaises(ValueError):
                    json.loads(matformer.Session(model).generate("Once upon a time there was", "XL", max_tokens=60,
                                                                 sampler=sampler).read())


if __name__ == "__main__":
    unittest.main()
