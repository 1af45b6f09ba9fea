"""The stored plan, and budgets that are answered from it: against the library's own words and the program."""

import json
import subprocess
import unittest

import numpy as np

import matformer
from common import CHECKPOINTS, PROGRAM, TALES
from matformer import Session, Submodel


class PlanTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = matformer.open(TALES)
        cls.plan = cls.model.plan

    def test_entries(self):
        entries = self.plan.entries
        self.assertEqual(len(entries), self.plan.info.n_entry)
        self.assertGreater(len(entries), 10)
        losses = [entry.loss for entry in entries[:-1]]  # the last is the whole model, whatever its loss
        self.assertEqual(sorted(losses, reverse=True), losses)
        for entry in entries:
            info = Submodel(self.model, entry.text).info
            self.assertEqual((entry.n_param, entry.bytes_per_token, entry.flops_per_token, entry.n_shell),
                             (info.n_param, info.bytes_per_token, info.flops_per_token, info.n_shell))
        self.assertEqual(entries[-1].n_param, self.model.info.n_param)
        self.assertAlmostEqual(entries[-1].kl, 0, places=6)
        self.assertEqual(entries[-1].agreement, 1)

    @unittest.skipUnless(PROGRAM, "MATFORMER_PROGRAM names no program")
    def test_is_the_programs(self):
        out = subprocess.run([PROGRAM, "info", str(TALES), "--json"], check=True, capture_output=True, text=True).stdout
        plan = json.loads(out)["plan"]
        info = self.plan.info
        self.assertEqual((info.n_entry, info.calibration, info.machine, info.n_thread, info.is_timed_here),
                         tuple(plan[key] for key in ("entries", "calibration", "machine", "threads", "timed_here")))
        self.assertIsInstance(info.is_timed_here, bool)

    def test_budgets(self):
        def best(cost, budget):
            return min((e for e in self.plan.entries if getattr(e, cost) <= budget), key=lambda entry: entry.loss).text

        for text, name, cost, budget in (("params<=3e6", "max_params", "n_param", 3e6),
                                         ("bytes<=5.5e6", "max_bytes", "bytes_per_token", 5.5e6),
                                         ("flops<=8e6", "max_flops", "flops_per_token", 8e6)):
            expected = Submodel(self.model, best(cost, budget)).layers
            self.assertEqual(Submodel(self.model, text).layers, expected)
            self.assertEqual(Submodel(self.model, **{name: budget}).layers, expected)
        both = Submodel(self.model, "params<=4e6;bytes<=5e6").info
        self.assertTrue(both.n_param <= 4e6 and both.bytes_per_token <= 5e6)
        # Where a view is taken, its text form will do.
        np.testing.assert_array_equal(Session(self.model).forward([1, 2], "params<=3e6").logits,
                                      Session(self.model).forward([1, 2], best("n_param", 3e6)).logits)
        with self.assertRaisesRegex(matformer.NotFoundError, "least"):
            Submodel(self.model, "params<=1e3")
        if self.plan.info.is_timed_here:
            self.assertEqual(Submodel(self.model, max_ms=1e6).layers, Submodel(self.model, best("n_param", 1e9)).layers)
        else:
            with self.assertRaises(matformer.UnsupportedError):
                Submodel(self.model, "ms<=20")

    def test_the_draft_is_the_entry_that_its_formula_finds(self):
        for greedy in (True, False):
            draft = self.model.plan_draft(greedy=greedy)
            if draft is None:
                continue
            a, g = draft.acceptance, draft.length
            entry = self.plan.entries[draft.entry]
            self.assertAlmostEqual(a, entry.agreement if greedy else entry.acceptance)
            self.assertAlmostEqual(draft.cost, entry.decode_ms / self.plan.entries[-1].decode_ms)
            expected = (1 - a ** (g + 1)) / (1 - a) / (g * draft.cost + draft.verify_cost)
            self.assertAlmostEqual(draft.speedup, expected, places=6)
            drafted = Session(self.model).generate("Once", draft=entry.text, draft_tokens=g, max_tokens=20)
            self.assertEqual(drafted.read(), Session(self.model).generate("Once", max_tokens=20).read())

    def test_a_file_without_a_plan(self):
        with matformer.open(CHECKPOINTS / "gemma3n_nested") as model:
            self.assertIsNone(model.plan)
            self.assertIsNone(model.plan_draft())
            with self.assertRaises(matformer.UnsupportedError):
                Submodel(model, max_params=10**6)


if __name__ == "__main__":
    unittest.main()
