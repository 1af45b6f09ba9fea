"""Objectives, torch.compile, and DistributedDataParallel with two processes."""

import copy
import os
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path

from torch_common import FIVE, LM, NESTED_HEADS, VIT, VIT_HEADS, random_model, random_pixels, random_tokens

import torch
from torch.nn import functional

from matformer.torch import (cross_entropy, distill_loss, joint_backward, joint_loss, kl_divergence, sample_granularity,
                             sampled_loss, view)

NAMES = ("S", "M", "L", "XL")
DRAWN_BY_SEED_1 = ["XL", "L", "XL", "M", "L", "XL", "XL", "XL"]


def batch(seed=2, n=4):
    tokens = random_tokens(17, n, seed=seed)
    return tokens[:, :-1], tokens[:, 1:]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


class LossTest(unittest.TestCase):
    def setUp(self):
        self.model = random_model(LM, NESTED_HEADS)
        self.x, self.y = batch()

    def losses(self):
        return {name: functional.cross_entropy(self.model(self.x, view=name).transpose(1, 2), self.y) for name in NAMES}

    def test_the_joint_loss_is_the_weighted_sum(self):
        losses = self.losses()
        torch.testing.assert_close(joint_loss(self.model, self.x, self.y), sum(losses.values()))
        weights = [0.1, 0.2, 0.3, 0.4]
        torch.testing.assert_close(joint_loss(self.model, self.x, self.y, weights=weights),
                                   sum(w * losses[name] for w, name in zip(weights, NAMES)))
        with self.assertRaisesRegex(ValueError, "3 weights for 4 views"):
            joint_loss(self.model, self.x, self.y, weights=[1, 1, 1])

    def test_the_joint_backward_has_its_gradients(self):
        joint_loss(self.model, self.x, self.y).backward()
        expected = gradients(self.model)
        self.model.zero_grad()
        total = joint_backward(self.model, self.x, self.y)
        torch.testing.assert_close(total, sum(self.losses().values()))
        for name, gradient in gradients(self.model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)

    def test_the_sampled_loss_is_that_of_the_granularity_drawn(self):
        losses = self.losses()
        for step in range(6):
            name = sample_granularity(self.model, step=step, seed=7)
            torch.testing.assert_close(sampled_loss(self.model, self.x, self.y, step=step, seed=7), losses[name])
        drawn = Counter(sample_granularity(self.model, step=step) for step in range(4000))
        for name in NAMES:
            self.assertAlmostEqual(drawn[name] / 4000, 0.25, delta=0.03)
        drawn = Counter(sample_granularity(self.model, step=s, probabilities=[0.7, 0, 0, 0.3]) for s in range(2000))
        self.assertEqual(set(drawn), {"S", "XL"})
        self.assertAlmostEqual(drawn["S"] / 2000, 0.7, delta=0.04)
        # The same on every rank, after a restart and in every release of Python.
        self.assertEqual([sample_granularity(self.model, step=s, seed=1) for s in range(8)], DRAWN_BY_SEED_1)

    def test_the_divergence_is_that_of_the_definition(self):
        a, b = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
        for temperature in (1.0, 2.5):
            p, q = (b / temperature).double().softmax(-1), (a / temperature).double().softmax(-1)
            expected = (p * (p / q).log()).sum(-1).mean() * temperature ** 2
            self.assertAlmostEqual(float(kl_divergence(a, b, temperature)), float(expected), places=5)
        self.assertAlmostEqual(float(kl_divergence(a, a)), 0, places=6)

    def test_distillation_teaches_the_narrow_views_alone(self):
        x, y = self.x, self.y
        logits = {name: self.model(x, view=name).detach() for name in NAMES}
        losses = self.losses()
        expected = losses["XL"] + sum(0.7 * losses[n] + 0.3 * kl_divergence(logits[n], logits["XL"], 2) for n in NAMES[:3]) / 3
        torch.testing.assert_close(distill_loss(self.model, x, y, alpha=0.3, temperature=2), expected)
        # Without the task's terms nothing moves beyond the widest student.
        distill_loss(self.model, x, views=["M"], alpha=1, train_teacher=False).backward()
        up = self.model.model.layers[0].mlp.up_proj.weight.grad
        self.assertEqual(up[64:].count_nonzero(), 0)
        self.assertGreater(up[:64].count_nonzero(), 0)
        with self.assertRaisesRegex(ValueError, "targets are None"):
            distill_loss(self.model, x)

    def test_distillation_lowers_the_divergence(self):
        """Of narrow views from the widest, in a model of which the widest alone was trained. No labels."""
        model = random_model(LM, NESTED_HEADS, deviation=0.05)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for step in range(30):
            optimizer.zero_grad()
            with view(model, "XL"):
                cross_entropy(model(self.x), self.y).backward()
            optimizer.step()

        def divergences():
            with torch.no_grad():
                teacher = model(self.x, view="XL")
                return {name: float(kl_divergence(model(self.x, view=name), teacher)) for name in NAMES[:3]}

        before = divergences()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for step in range(30):
            optimizer.zero_grad()
            distill_loss(model, self.x, self.y, alpha=0.9).backward()
            optimizer.step()
        after = divergences()
        for name in NAMES[:3]:
            self.assertLess(after[name], 0.5 * before[name], name)


class CompileTest(unittest.TestCase):
    """A compiled model is the eager one at every width, in its gradients too, with one graph for each width."""

    def expect_equal(self, model, inputs, views):
        torch._dynamo.reset()
        graphs = []

        def count(graph, example_inputs):
            graphs.append(graph)
            return graph

        compiled = torch.compile(model, backend=count, fullgraph=True)
        for _ in range(2):
            for spec in views:
                with view(compiled, spec):
                    found = compiled(inputs)
                torch.testing.assert_close(found, model(inputs, view=spec), rtol=1e-5, atol=1e-5)
        self.assertEqual(len(graphs), len(views))
        torch._dynamo.reset()

    def test_one_graph_for_each_width(self):
        self.expect_equal(random_model(LM, NESTED_HEADS), random_tokens(), FIVE)
        self.expect_equal(random_model(VIT, VIT_HEADS), random_pixels(), ("S", "XL"))

    def test_names_choose_widths_inside_the_graph(self):
        torch._dynamo.reset()
        model, tokens = random_model(LM, NESTED_HEADS), random_tokens()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for spec in ("S", "XL", "S"):
            torch.testing.assert_close(compiled(tokens, view=spec), model(tokens, view=spec))

    def test_inductor_trains_as_eager(self):
        torch._dynamo.reset()
        model = random_model(LM, NESTED_HEADS, deviation=0.05)
        other = copy.deepcopy(model)
        compiled = torch.compile(other, fullgraph=True)
        x, y = batch()
        for m in (model, compiled):
            with view(m, "S"):
                cross_entropy(m(x), y).backward()
        for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters()):
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)
        torch._dynamo.reset()


OBJECTIVES = ("sampled", "joint", "joint_backward")

# One rank of two: trains on its half of each batch, and leaves the weights.
RANK = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import test_torch_train as t
from matformer.torch import joint_backward, joint_loss, sampled_loss
rank, out = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + out + ".rendezvous", rank=rank, world_size=2)
for objective in t.OBJECTIVES:
    model = t.random_model(t.LM, t.NESTED_HEADS, deviation=0.05)
    if rank:  # the wrapper makes them equal
        torch.nn.init.zeros_(model.lm_head.weight)
    t.train(DistributedDataParallel(model), objective, slice(2 * rank, 2 * rank + 2))
    torch.save(model.state_dict(), f"{out}.{objective}.{rank}")
dist.destroy_process_group()
"""


def train(model, objective, rows, steps=6):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for step in range(steps):
        x, y = (part[rows] for part in batch(seed=step))
        optimizer.zero_grad()
        if objective == "sampled":
            sampled_loss(model, x, y, step=step, seed=3).backward()
        elif objective == "joint":
            joint_loss(model, x, y).backward()
        else:
            joint_backward(model, x, y)
        optimizer.step()


class ParallelTest(unittest.TestCase):
    def test_two_processes_equal_one(self):
        """Ranks end with the same bits, and with what one process has that takes both halves of each batch."""
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "weights")
            here = Path(__file__).resolve().parent
            env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
                   "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), out], env=env, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True) for rank in (0, 1)]
            for rank in ranks:
                said, _ = rank.communicate(timeout=240)
                self.assertEqual(rank.returncode, 0, said)
            found = {objective: [torch.load(f"{out}.{objective}.{rank}") for rank in (0, 1)] for objective in OBJECTIVES}
        for objective in OBJECTIVES:
            first, second = found[objective]
            alone = random_model(LM, NESTED_HEADS, deviation=0.05)
            before = copy.deepcopy(alone.state_dict())
            train(alone, objective, slice(0, 4))
            for name, expected in alone.state_dict().items():
                what = f"{objective}, {name}"
                self.assertTrue(torch.equal(first[name], second[name]), what)
                torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-6, msg=what)
            self.assertFalse(torch.allclose(before["lm_head.weight"], alone.lm_head.weight, atol=1e-3))


if __name__ == "__main__":
    unittest.main()
