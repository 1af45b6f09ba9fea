"""Nested modules: slices of plain ones, their gradients, views, and models of the transformers package."""

import unittest

from torch_common import LM, NESTED_HEADS, VIT, needs_transformers, random_model, random_pixels, random_tokens, worst

import torch
from torch import nn
from torch.nn import functional

from matformer.torch import (LMConfig, NestedAttention, NestedFFN, NestedLinear, NestedLM, View, from_transformers,
                             nested, nesting_of, select, view)


class ModuleTest(unittest.TestCase):
    def gradients(self, module, output):
        module.zero_grad()
        (output * torch.arange(output.numel()).view_as(output).float().cos()).sum().backward()
        return {name: p.grad.clone() for name, p in module.named_parameters()}

    def expect_equal_gradients(self, found, expected):
        self.assertEqual(found.keys(), expected.keys())
        for name in found:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-7, msg=name)

    def test_a_prefix_of_a_linear_layer_is_the_slice_with_its_gradients(self):
        torch.manual_seed(0)
        layer, x = NestedLinear(64, 96), torch.randn(5, 64)
        for n, k in ((32, 64), (96, 32), (64, 32), (96, 64)):
            found = layer(x[:, :k], n)
            expected = x[:, :k] @ layer.weight[:n, :k].T + layer.bias[:n]
            torch.testing.assert_close(found, expected)
            self.expect_equal_gradients(self.gradients(layer, found), self.gradients(layer, expected))

    def test_a_narrow_ffn_is_equation_1_with_its_gradients(self):
        x = torch.randn(2, 5, 64)
        for gated, bias in ((True, False), (True, True), (False, True)):
            torch.manual_seed(0)
            ffn = NestedFFN(64, 256, gated=gated, bias=bias, activation="silu")
            for m in (32, 96, 256):
                found = ffn(x, m)
                up, down = ffn.up_proj, ffn.down_proj
                b = [p.bias[:m] if bias else 0 for p in (up,)][0]
                hidden = x @ up.weight[:m].T + b
                if gated:
                    g = x @ ffn.gate_proj.weight[:m].T + (ffn.gate_proj.bias[:m] if bias else 0)
                    hidden = functional.silu(g) * hidden
                else:
                    hidden = functional.silu(hidden)
                expected = hidden @ down.weight[:, :m].T + (down.bias if bias else 0)
                torch.testing.assert_close(found, expected)
                self.expect_equal_gradients(self.gradients(ffn, found), self.gradients(ffn, expected))

    def test_a_step_at_any_width_leaves_zeros_beyond_it_and_no_parameter_out(self):
        model = random_model(LM, NESTED_HEADS)
        model(random_tokens(), view="S").sum().backward()
        for name, parameter in model.named_parameters():
            self.assertIsNotNone(parameter.grad, name)
        mlp = model.model.layers[1].mlp
        self.assertEqual(mlp.up_proj.weight.grad[32:].count_nonzero(), 0)
        self.assertEqual(mlp.down_proj.weight.grad[:, 32:].count_nonzero(), 0)
        self.assertGreater(mlp.down_proj.weight.grad[:, :32].count_nonzero(), 0)

    def test_fewer_heads_are_an_attention_that_was_cut(self):
        torch.manual_seed(0)
        x = torch.randn(2, 7, 64)
        for n_head, n_kv, heads in ((4, 4, 2), (4, 2, 2), (4, 2, 3), (4, 1, 2), (6, 2, 4)):
            for causal in (True, False):
                whole = NestedAttention(64, n_head, n_kv_head=n_kv, d_head=16, causal=causal, bias=True)
                with torch.no_grad():
                    q = (x @ whole.q_proj.weight.T + whole.q_proj.bias).view(2, 7, n_head, 16)[:, :, :heads]
                    k = (x @ whole.k_proj.weight.T + whole.k_proj.bias).view(2, 7, n_kv, 16)
                    v = (x @ whole.v_proj.weight.T + whole.v_proj.bias).view(2, 7, n_kv, 16)
                    of = [h // (n_head // n_kv) for h in range(heads)]
                    scores = torch.einsum("bihd,bjhd->bhij", q, k[:, :, of]) / 4
                    if causal:
                        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
                    out = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v[:, :, of]).flatten(2)
                    expected = out @ whole.o_proj.weight[:, :heads * 16].T + whole.o_proj.bias
                torch.testing.assert_close(whole(x, heads=heads), expected, rtol=1e-4, atol=1e-5)

    def test_a_narrow_model_is_one_that_was_physically_cut(self):
        wide = random_model(LM, NESTED_HEADS)
        narrow = random_model(LMConfig(**{**LM.__dict__, "d_ff": 32, "n_head": 2, "n_kv_head": 1}), {"XL": 1.0})
        state = {name: wide.state_dict()[name][tuple(slice(n) for n in tensor.shape)]
                 for name, tensor in narrow.state_dict().items()}
        narrow.load_state_dict(state)
        tokens = random_tokens()
        self.assertLess(worst(wide(tokens, view="S"), narrow(tokens)), 1e-6)

    def test_bf16(self):
        """Autocast, and weights in bf16: what differs is the rounding."""
        model, tokens = random_model(LM, NESTED_HEADS, deviation=0.1), random_tokens()
        expected = model(tokens, view="M")
        with torch.autocast("cpu", torch.bfloat16):
            found = model(tokens, view="M")
        self.assertLess(worst(found, expected), 0.05)
        found.float().sum().backward()
        self.assertEqual(model.lm_head.weight.grad.dtype, torch.float32)
        self.assertLess(worst(model.bfloat16()(tokens, view="M"), expected), 0.05)


class ViewTest(unittest.TestCase):
    def setUp(self):
        self.model = random_model(LM, NESTED_HEADS)

    def test_all_forms(self):
        of = nesting_of(self.model).view
        self.assertEqual(of("M").ffn, (64,) * 3)
        self.assertEqual(of("M").heads, (3,) * 3)
        self.assertEqual(of(0.3).ffn, (96,) * 3)  # rounded up to the quantum, as in C
        self.assertEqual(of("0.3"), View((96,) * 3, (4,) * 3))
        self.assertEqual(of(64).ffn, (64,) * 3)
        self.assertEqual(of((32, 64, 256)).ffn, (32, 64, 256))
        self.assertEqual(of({"ffn": 64, "heads": (2, 3, 4)}), View((64,) * 3, (2, 3, 4)))
        self.assertEqual(of("ffn=32x2,64;heads=2x3"), View((32, 32, 64), (2, 2, 2)))
        self.assertEqual(of("S ffn=64x3"), View((64,) * 3, (2, 2, 2)))
        for name in "S", "M", "XL":
            self.assertEqual(of(of(name).text), View(of(name).ffn, of(name).heads))

    def test_refused_with_a_sentence(self):
        of = nesting_of(self.model).view
        for spec, says in ((33, "layer 0: the width 33 is no multiple of 32; 64 is"), ((32, 64), "2 entries"),
                           (512, "from 1 to 256"), (0.0, "ratio"), ("XS", "none of the granularities S, M, L, XL"),
                           ({"width": 3}, "width"), ("ffn=a", "expected a number"), ({"heads": 5}, "from 1 to 4"),
                           ("skip=1", "neither")):
            with self.assertRaisesRegex(ValueError, says, msg=spec):
                of(spec)

    def test_granularities_that_do_not_nest_are_refused(self):
        for granularities, says in (({"S": 0.5, "M": 0.25, "L": 1.0}, "granularity S, layer 0: ffn is 128, and only 64"),
                                    ({"S": 0.5}, "add one with the ratio 1.0"), ({"2": 1.0}, "must be a letter"),
                                    ({"S": 33, "L": 1.0}, "granularity S: layer 0")):
            with self.assertRaisesRegex(ValueError, says):
                NestedLM(LM, granularities)
        narrow = LMConfig(**{**LM.__dict__, "d_head": 16})
        with self.assertRaisesRegex(ValueError, "3 heads of 16 are no multiple of 32"):
            NestedLM(narrow, {"S": {"heads": 3}, "L": 1.0})

    def test_a_block_has_its_width_and_gives_the_old_one_back(self):
        tokens, model = random_tokens(), self.model
        select(model, "M")
        expected = {name: model(tokens, view=name) for name in ("S", "M", "XL")}
        self.assertTrue(torch.equal(model(tokens), expected["M"]))
        with view(model, "S") as chosen:
            self.assertEqual(chosen.name, "S")
            self.assertTrue(torch.equal(model(tokens), expected["S"]))
            with view(model, "XL"):
                self.assertTrue(torch.equal(model(tokens), expected["XL"]))
            self.assertTrue(torch.equal(model(tokens), expected["S"]))
        with self.assertRaises(RuntimeError), view(model, "XL"):
            raise RuntimeError
        self.assertTrue(torch.equal(model(tokens), expected["M"]))

    def test_a_model_that_is_not_nested_is_named(self):
        with self.assertRaisesRegex(ValueError, "Linear is not nested"), view(nn.Linear(2, 2), "S"):
            pass
        with self.assertRaisesRegex(ValueError, "Linear has no FFN"):
            nested(nn.Linear(2, 2))

    def test_own_modules_become_nested(self):
        model = nn.Sequential(NestedFFN(64, 128), nn.LayerNorm(64), NestedFFN(64, 256))
        nested(model, {"half": 0.5, "all": 1.0})
        x = torch.randn(3, 64)
        with view(model, "half"):
            found = model(x)
        torch.testing.assert_close(found, model[2](model[1](model[0](x, 64)), 128))


@needs_transformers
class TransformersTest(unittest.TestCase):
    @staticmethod
    def llama(**more):
        from transformers import LlamaConfig, LlamaForCausalLM
        torch.manual_seed(4)
        options = dict(vocab_size=96, hidden_size=64, intermediate_size=256, num_hidden_layers=3,
                       num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=64,
                       initializer_range=0.2)
        return LlamaForCausalLM(LlamaConfig(**{**options, **more})).eval()

    @staticmethod
    def vit(**more):
        from transformers import ViTConfig as Config
        from transformers import ViTForImageClassification
        torch.manual_seed(5)
        options = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=16,
                       patch_size=4, num_labels=10, initializer_range=0.2)
        return ViTForImageClassification(Config(**{**options, **more})).eval()

    def test_the_whole_ffn_is_their_llama_mlp(self):
        mlp = self.llama(mlp_bias=True).model.layers[0].mlp
        ffn = NestedFFN.sharing(mlp, ("gate_proj", "up_proj", "down_proj"), "silu")
        x = torch.randn(2, 5, 64)
        torch.testing.assert_close(ffn(x), mlp(x), rtol=0, atol=0)

    def test_the_converter_keeps_logits(self):
        tokens = random_tokens(40)
        for more in ({}, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
                     {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4}},
                     {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                          "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
                                          "rope_theta": 10000.0}}, {"num_key_value_heads": 4, "hidden_act": "gelu"}):
            theirs = self.llama(**more)
            with torch.no_grad():
                expected = theirs(tokens).logits
                ours = from_transformers(theirs, NESTED_HEADS)
                self.assertLess(worst(ours(tokens), expected), 1e-5, more)
            self.assertIs(ours.model.layers[0].mlp.up_proj.weight, theirs.model.layers[0].mlp.up_proj.weight)
            self.assertEqual(set(ours.state_dict()), set(theirs.state_dict()))
        theirs, pixels = self.vit(), random_pixels(2)
        with torch.no_grad():
            ours = from_transformers(theirs)
            self.assertLess(worst(ours(pixels), theirs(pixels).logits), 1e-5)
            self.assertLess(worst(ours.features(pixels), theirs.vit(pixels).last_hidden_state), 1e-5)
        self.assertEqual(set(ours.state_dict()), set(theirs.state_dict()))

    def test_in_place_their_model_stays_theirs(self):
        tokens, model = random_tokens(), self.llama()
        names, whole = set(model.state_dict()), model(tokens).logits
        nested(model)
        self.assertEqual(set(model.state_dict()), names)
        torch.testing.assert_close(model(tokens).logits, whole, rtol=0, atol=0)
        with view(model, "S"):
            narrow = model(tokens).logits
            written = model.generate(tokens[:, :4], max_new_tokens=4, do_sample=False)
        self.assertEqual(written.shape, (1, 8))
        self.assertLess(worst(narrow, from_transformers(self.llama())(tokens, view="S")), 1e-5)
        self.assertGreater(worst(narrow, whole), 1e-2)

    def test_their_state_dict_loads_into_ours_and_back(self):
        theirs = self.llama()
        ours = NestedLM(LM, NESTED_HEADS)
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())

    def test_what_does_not_fit_is_refused(self):
        with self.assertRaisesRegex(ValueError, "heads of LlamaForCausalLM cannot be nested in place"):
            nested(self.llama(), NESTED_HEADS)
        with self.assertRaisesRegex(ValueError, "is no Llama or ViT"):
            from_transformers(nn.Linear(2, 2))
        with self.assertRaisesRegex(ValueError, "only default, linear and llama3"):
            from_transformers(self.llama(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4,
                                                          "original_max_position_embeddings": 32}))


if __name__ == "__main__":
    unittest.main()
