"""save(): logits of the C library against PyTorch's, names of other models, and refusals."""

import os
import re
import tempfile
import unittest
from pathlib import Path

from common import ROOT
from torch_common import (FIVE, LM, NESTED_HEADS, VIT, VIT_FIVE, VIT_HEADS, library_logits, needs_safetensors,
                          needs_transformers, random_model, random_pixels, random_tokens, worst)

import torch
from torch import nn

import matformer
from matformer.torch import LMConfig, from_transformers, nested, save

TOLERANCE = 1e-4  # of the largest logit


@needs_safetensors
class SaveTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "model.mf"

    def expect_logits(self, logits_of, inputs, views, tolerance=TOLERANCE):
        for spec in views:
            with torch.no_grad():
                expected = logits_of(inputs[None], spec)[0]
            found = library_logits(self.path, inputs, spec)
            self.assertLess(worst(found, expected), tolerance, spec)

    def test_five_widths_of_language_models(self):
        tokens = random_tokens()[0]
        for more in ({}, {"tied": True}, {"norm": "layer", "ffn": "plain", "activation": "gelu"},
                     {"attention_bias": True, "ffn_bias": True, "norm": "layer"},
                     {"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "d_ff": (256, 320, 256)}):
            model = random_model(LMConfig(**{**LM.__dict__, **more}), NESTED_HEADS)
            save(model, self.path)
            self.expect_logits(lambda x, v: model(x, view=v), tokens, FIVE)
            with matformer.open(self.path) as opened:
                self.assertEqual(opened.granularities, ("S", "M", "L", "XL"))
                self.assertEqual(opened.info.n_shell, 4)
        self.assertEqual(os.listdir(self.folder), ["model.mf"])

    def test_five_widths_of_images(self):
        model, pixels = random_model(VIT, VIT_HEADS), random_pixels()[0]
        save(model, self.path)
        self.expect_logits(lambda x, v: model(x, view=v), pixels, VIT_FIVE)
        with matformer.open(self.path) as opened:
            session = matformer.Session(opened)
            for spec in VIT_FIVE:
                request = matformer.Request(session, spec, pixels=pixels.numpy(), hidden="all", logits="all")
                found = session.executor.forward([request])[0].hidden
                with torch.no_grad():
                    self.assertLess(worst(found, model.features(pixels[None], view=spec)[0]), TOLERANCE, spec)

    def test_types(self):
        """bf16 weights keep their bits; f32 ones may be rounded on the way."""
        model, tokens = random_model(LM, NESTED_HEADS).bfloat16(), random_tokens()[0]
        save(model, self.path)
        small = self.path.stat().st_size
        model.float()
        self.expect_logits(lambda x, v: model(x, view=v), tokens, FIVE)
        save(model, self.path)
        self.assertGreater(self.path.stat().st_size, 1.5 * small)
        save(model, self.path, type="bf16", types={"ffn": "q8"})
        self.expect_logits(lambda x, v: model(x, view=v), tokens, FIVE, tolerance=0.1)

    @needs_transformers
    def test_models_of_transformers(self):
        from test_torch_modules import TransformersTest
        tokens, pixels = random_tokens()[0], random_pixels()[0]
        llama, vit = TransformersTest.llama(), TransformersTest.vit()
        for model, inputs in ((llama, tokens), (vit, pixels)):
            with torch.no_grad():
                expected = model(inputs[None]).logits[0]
            save(model, self.path)  # as it is
            self.assertLess(worst(library_logits(self.path, inputs, "XL"), expected), TOLERANCE)
            ours = from_transformers(model, NESTED_HEADS if model is llama else VIT_HEADS)
            save(ours, self.path)
            self.expect_logits(lambda x, v: ours(x, view=v), inputs, FIVE if model is llama else VIT_FIVE)
            save(nested(model, {"half": 0.5, "all": 1.0}), self.path)
            self.expect_logits(lambda x, v: ours(x, view={"half": 0.5, "all": 1.0}[v]), inputs, ("half", "all"))

    @needs_transformers
    def test_a_vit_under_older_names_with_a_pooler(self):
        from transformers import ViTConfig as Config, ViTModel
        torch.manual_seed(1)
        model = ViTModel(Config(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                                image_size=16, patch_size=4, initializer_range=0.2)).eval()
        save(model, self.path)
        pixels = random_pixels()[0]
        with matformer.open(self.path) as opened:
            session = matformer.Session(opened)
            request = matformer.Request(session, "XL", pixels=pixels.numpy(), pooled=True)
            found = session.executor.forward([request])[0].pooled
        with torch.no_grad():
            self.assertLess(worst(found, model(pixels[None]).pooler_output[0]), TOLERANCE)

    def foreign(self):
        """The same decoder under other names, and something that a .mf file has no place for."""
        ours = random_model(LM, NESTED_HEADS)
        names = {"model.embed_tokens.weight": "wte", "model.norm.weight": "ln_f", "lm_head.weight": "head"}
        layer = {"input_layernorm.weight": "ln_1", "post_attention_layernorm.weight": "ln_2",
                 "self_attn.q_proj.weight": "q", "self_attn.k_proj.weight": "k", "self_attn.v_proj.weight": "v",
                 "self_attn.o_proj.weight": "o", "mlp.gate_proj.weight": "w1", "mlp.up_proj.weight": "w3",
                 "mlp.down_proj.weight": "w2"}
        foreign, mapping = nn.Module(), {f"{new}": old for old, new in names.items()}
        for old, new in names.items():
            foreign.register_parameter(new, ours.get_parameter(old))
        for n in range(LM.n_layer):
            block = nn.Module()
            for old, new in layer.items():
                block.register_parameter(new, ours.get_parameter(f"model.layers.{n}.{old}"))
            foreign.add_module(f"block{n}", block)
        foreign.register_buffer("seen", torch.zeros(1))
        mapping.update({f"block{{}}.{new}": f"model.layers.{{}}.{old}" for old, new in layer.items()})
        return ours, foreign, {**mapping, "seen": None}

    def test_foreign_names(self):
        ours, foreign, mapping = self.foreign()
        save(foreign, self.path, config=LM, mapping=mapping, granularities=NESTED_HEADS)
        self.expect_logits(lambda x, v: ours(x, view=v), random_tokens()[0], FIVE)
        first = self.path.read_bytes()

        def function(name):
            block, _, rest = name.partition(".")
            if rest:
                return mapping["block{}." + rest].format(block.removeprefix("block"))
            return mapping[name]

        save(foreign, self.path, config=LM, mapping=function, granularities=NESTED_HEADS)
        self.assertEqual(self.path.read_bytes(), first)

    def test_what_is_wrong_is_named(self):
        ours, foreign, mapping = self.foreign()
        self.path.write_bytes(b"what was there")

        def without(key):
            return {old: new for old, new in mapping.items() if old != key}

        cases = [
            (foreign, {}, "Module does not say what it is; give save\\(\\) an LMConfig"),
            (foreign, {"config": LM, "mapping": without("block{}.w2")}, "tensor block0.w2 is not in the mapping; add it"),
            (foreign, {"config": LM, "mapping": {**mapping, "ln_f": None}}, "tensor model.norm.weight is missing; give"),
            (foreign, {"config": LM, "mapping": {**mapping, "wte": "model.embed_token.weight"}},
             "tensor wte \\(as model.embed_token.weight\\) is none that .* nearest is model.embed_tokens.weight"),
            (foreign, {"config": LM, "mapping": {**mapping, "block{}.w1": "model.layers.{}.mlp.up_proj.weight"}},
             "tensors block0.w1 and block0.w3 would both be model.layers.0.mlp.up_proj.weight"),
            (foreign, {"config": LMConfig(**{**LM.__dict__, "d_ff": 512}), "mapping": mapping},
             "tensor block0.w1 .* is \\[256, 64\\], but the configuration asks for \\[512, 64\\]"),
            (ours, {"type": "q3"}, "type is 'q3', and must be one of"),
            (ours, {"types": {"mlp": "q8"}}, "roles are ffn, attention"),
            (ours, {"tokenizer": self.folder}, "has no tokenizer.json"),
            (nn.Linear(2, 2), {"config": "llama"}, "must be an LMConfig or a ViTConfig"),
        ]
        for model, options, says in cases:
            with self.assertRaisesRegex((ValueError, TypeError), says, msg=says):
                save(model, self.path, **options)
        with torch.no_grad():
            ours.lm_head.weight[3, 5] = torch.nan
        with self.assertRaisesRegex(matformer.MatformerError, "lm_head.weight has weights that are not finite"):
            save(ours, self.path)
        with self.assertRaisesRegex(ValueError, "is of torch.int8"):
            broken = random_model(LM)
            broken.lm_head.weight = nn.Parameter(torch.zeros(96, 64, dtype=torch.int8), requires_grad=False)
            save(broken, self.path)
        self.assertEqual(self.path.read_bytes(), b"what was there")
        self.assertEqual(os.listdir(self.folder), ["model.mf"])

    def test_wrapped_and_pickled_models_are_the_same_file(self):
        """torch.compile outside and inside, and torch.save of a whole model."""
        model = random_model(LMConfig(**{**LM.__dict__, "activation": "gelu_pytorch_tanh"}), NESTED_HEADS)
        save(model, self.path)
        whole = self.path.read_bytes()
        stored = self.folder / "model.pt"
        torch.save(model, stored)
        inside = torch.load(stored, weights_only=False)
        inside.model.layers[1] = torch.compile(inside.model.layers[1])
        for other in (torch.compile(model), torch.load(stored, weights_only=False), inside):
            save(other, self.path)
            self.assertEqual(self.path.read_bytes(), whole)

    def test_progress_runs_to_the_end_and_can_stop(self):
        model, seen = random_model(LM), []
        save(model, self.path, progress=lambda done, total: seen.append((done, total)))
        self.assertEqual(seen, sorted(seen))
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.path.unlink()

        def stop(done, total):
            raise InterruptedError

        with self.assertRaises(InterruptedError):
            save(model, self.path, progress=stop)
        self.assertEqual(os.listdir(self.folder), [])

    @needs_transformers
    def test_a_tokenizer_goes_along(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
        own = Tokenizer(models.BPE())
        own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        own.train_from_iterator(["hello there, hello world"] * 3, trainers.BpeTrainer(
            vocab_size=270, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        model = random_model(LMConfig(**{**LM.__dict__, "n_vocab": 270}))
        file = self.folder / "elsewhere" / "tokenizer.json"
        file.parent.mkdir()
        own.save(str(file))
        for tokenizer in (PreTrainedTokenizerFast(tokenizer_object=own), file, file.parent):
            save(model, self.path, tokenizer=tokenizer)
            with matformer.open(self.path) as opened:
                self.assertEqual(opened.tokenize("hello Wörld").tolist(), own.encode("hello Wörld").ids)

    def test_shards_are_the_same_model(self):
        from matformer.torch import _save
        model = random_model(LM, NESTED_HEADS)
        save(model, self.path)
        whole = self.path.read_bytes()
        before, _save._SHARD_BYTES = _save._SHARD_BYTES, 100_000
        self.addCleanup(setattr, _save, "_SHARD_BYTES", before)
        save(model, self.path)
        self.assertEqual(self.path.read_bytes(), whole)


@needs_safetensors
class DocumentTest(unittest.TestCase):
    def test_its_programs_run(self):
        """Those of docs/pytorch.md, one after another."""
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "pytorch.md").read_text(), re.DOTALL | re.MULTILINE)
        self.assertGreater(len(blocks), 3)
        with tempfile.TemporaryDirectory() as folder:
            before = os.getcwd()
            self.addCleanup(os.chdir, before)
            os.chdir(folder)
            names = {}
            for block in blocks:
                exec(compile(block, "docs/pytorch.md", "exec"), names)
            os.chdir(before)
            for file, granularities in (("model.mf", ("S", "M", "L", "XL")), ("mine.mf", ("half", "all"))):
                with matformer.open(Path(folder) / file) as model:
                    self.assertEqual(model.granularities, granularities)


if __name__ == "__main__":
    unittest.main()
