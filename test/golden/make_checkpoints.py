#!/usr/bin/env python3
"""Small random checkpoints as Hugging Face saves them, and what its models compute for them.

    pip install -r requirements.txt
    python3 make_checkpoints.py [NAME...]       writes checkpoints/NAME/, of all or of those named

Made with torch 2.13.0 and transformers 5.24.0; in that release the layers of Gemma 3n that share keys and values read
their donor's with a cache and without one. expected_file.py describes expected.bin. A model runs in f32, over weights
widened from the file's type, and is compared with itself in f64 and token by token, and cut views with masked ones
(AGREES). Prompts are drawn until greedy decoding is clear at every step (MARGIN) and does not go in small circles.

MatFormer-OLMo and Gemma 3n's file of several modalities are not written by transformers: matformer_olmo.py is the one's
reference, and the other is a text model under the names of the released files.
"""

import copy
import json
import os
import pathlib
import shutil
import sys

import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import (DynamicCache, Gemma3nForCausalLM, Gemma3nTextConfig, LlamaConfig, LlamaForCausalLM, ViTConfig,
                          ViTForImageClassification, ViTModel, logging)

import expected_file
import matformer_olmo
import slice_gemma3n

HERE = pathlib.Path(__file__).parent / "checkpoints"
MARGIN = 2e-3    # between the two largest logits of a greedy step, relative to the largest magnitude
AGREES = 2e-5    # between two ways to compute the same logits, relative to the largest magnitude
GREEDY = 64
DISTINCT = 12    # tokens that 64 greedy ones have at least
PROMPT = 18
STRETCH, ALTERNATING = 8, 512


# ---- Weights ----

def fill(model, gains, generator):
    """Random weights. The longest ending of a name in gains, else 1, gives the deviation: of a matrix in units of
    fan_in ** -0.5, of an embedding's rows as it is; and the mean of a norm's weights, which deviate by a fifth."""
    for name, parameter in model.named_parameters():
        matching = [ending for ending in gains if name.endswith(ending)]
        gain = gains[max(matching, key=len)] if matching else 1.0
        random = torch.randn(parameter.shape, generator=generator)
        if name.endswith(".bias"):
            random *= 0.2
        elif "norm" in name or name.endswith(("ln_f.weight", "correct_output_scale")):
            random = gain * (1 + 0.2 * random)
        elif name.endswith(("cls_token", "position_embeddings", "embed_tokens.weight", "wte.weight")):
            random *= gain
        else:
            random *= gain * (parameter[0].numel() ** -0.5)
        parameter.data.copy_(random)
    return model


def fresh_folder(name):
    shutil.rmtree(HERE / name, ignore_errors=True)
    (HERE / name).mkdir(parents=True)
    return HERE / name


def rewrite_config(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def relative(ours, theirs):
    return float((ours.double() - theirs.double()).abs().max() / theirs.abs().max())


def check(what, ours, theirs, bound=AGREES):
    difference = relative(ours, theirs)
    print(f"    {what}: {difference:.1e}")
    assert difference < bound, what


# ---- Decoders ----

def runs(widths):
    """[128, 128, 64] -> 128x2,64"""
    out = []
    for width in widths:
        if out and out[-1][0] == width:
            out[-1][1] += 1
        else:
            out.append([width, 1])
    return ",".join(f"{width}x{count}" if count > 1 else str(width) for width, count in out)


def view_text(widths, skip=()):
    return "ffn=" + runs(widths) + (";skip=" + ",".join(map(str, skip)) if skip else "")


def greedy(logits_of, prompt, n_vocab):
    """The tokens that follow and the smallest margin. No cache: every step computes everything anew."""
    tokens, margin = list(prompt), 1.0
    for _ in range(GREEDY):
        logits = logits_of(torch.tensor(tokens))[-1, :n_vocab]
        best = logits.topk(2)
        margin = min(margin, float((best.values[0] - best.values[1]) / logits.abs().max()))
        if margin < MARGIN:
            break
        tokens.append(int(best.indices[0]))
    return tokens[len(prompt) :], margin


def decoder_case(name, view, logits_of, n_vocab, generator, must_contain=()):
    for attempt in range(200):
        prompt = torch.randint(3, n_vocab, (PROMPT,), generator=generator)
        for i, token in enumerate(must_contain):
            prompt[3 + 4 * i] = token
        following, margin = greedy(logits_of, prompt.tolist(), n_vocab)
        if len(following) == GREEDY and len(set(following)) >= DISTINCT:
            break
    else:
        raise RuntimeError(f"{name}: no prompt with a clear continuation")
    print(f"  {name} ({view}): prompt {attempt}, margin {margin:.1e}, {len(set(following))} distinct tokens")
    logits = logits_of(prompt)
    assert logits.abs().max() > 2 and logits.std() > 0.3, "logits hardly vary"
    return name, view, dict(tokens=prompt, logits=logits.float(), greedy=following)


def run(model, tokens, cache=None):
    with torch.no_grad():
        return model(input_ids=tokens[None], cache=cache, use_cache=cache is not None).logits[0]


def check_decoder(model, case):
    """The stored logits against f64, and prompt and continuation token by token with a cache against one pass."""
    tokens = torch.cat([case[2]["tokens"], torch.tensor(case[2]["greedy"])])
    whole = run(model, tokens)
    check("f64", whole, run(copy.deepcopy(model).double(), tokens))
    cache = DynamicCache(config=model.config)
    check("token by token", torch.cat([run(model, t, cache) for t in tokens.split(1)]), whole)


def load(model_class, folder):
    return model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


# ---- Llama ----

LLAMA_GAINS = {"q_proj.weight": 1.5, "k_proj.weight": 1.5, "o_proj.weight": 2.0, "down_proj.weight": 2.0,
               "embed_tokens.weight": 0.3, "lm_head.weight": 3.0, "model.norm.weight": 1.5}
LLAMA = {
    "llama_grouped_bf16_sharded": dict(
        type=torch.bfloat16, shard="150KB", widths=[96, 32],
        config=dict(head_dim=32, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, vocab_size=128,
                    rope_parameters=dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0,
                                         high_freq_factor=4.0, original_max_position_embeddings=32))),
    "llama_tied_biases_f32": dict(
        type=torch.float32, widths=[32, 64],
        config=dict(num_attention_heads=4, intermediate_size=64, vocab_size=128, tie_word_embeddings=True,
                    attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5)),
    "llama_linear_f16": dict(
        type=torch.float16, widths=[32, 128], old_rope=True,
        config=dict(num_attention_heads=4, num_key_value_heads=1, intermediate_size=128, vocab_size=128,
                    rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0))),
}


def to_old_rope(config):
    """The spelling of releases before 5: rope_theta and rope_scaling, with the older `type`."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type")} | rope
    config["torch_dtype"] = config.pop("dtype")


def cut_llama(model, widths):
    cut = copy.deepcopy(model)
    for layer, width in zip(cut.model.layers, widths):
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight.data = linear.weight.data[:width]
            if linear.bias is not None:
                linear.bias.data = linear.bias.data[:width]
        layer.mlp.down_proj.weight.data = layer.mlp.down_proj.weight.data[:, :width]
    return cut


def make_llama(name, seed):
    m, generator, folder = LLAMA[name], torch.Generator().manual_seed(seed), fresh_folder(name)
    config = LlamaConfig(hidden_size=64, num_hidden_layers=2, max_position_embeddings=256, **m["config"])
    model = fill(LlamaForCausalLM(config), LLAMA_GAINS, generator).to(m["type"])
    model.save_pretrained(folder, max_shard_size=m.get("shard", "50GB"))
    if m.get("old_rope"):
        rewrite_config(folder, to_old_rope)
    full, cases = load(LlamaForCausalLM, folder), []
    for case, widths in ("full", [config.intermediate_size] * 2), ("ragged", m["widths"]):
        cut = cut_llama(full, widths)
        cases.append(decoder_case(case, view_text(widths), lambda t: run(cut, t), config.vocab_size, generator))
        check_decoder(cut, cases[-1])
    return folder, cases


# ---- Gemma 3n ----

GEMMA_GAINS = {"embed_tokens.weight": 0.15, "embed_tokens_per_layer.weight": 3.0, "model.norm.weight": 3.0,
               "q_norm.weight": 0.7, "k_norm.weight": 0.7, "modality_router.weight": 32.0,
               "prediction_coefs.weight": 0.2, "correction_coefs.weight": 0.4}
SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA = dict(
    vocab_size=300, vocab_size_per_layer_input=288, hidden_size=64, hidden_size_per_layer_input=32, laurel_rank=32,
    intermediate_size=256, num_hidden_layers=12, num_kv_shared_layers=5, num_attention_heads=4, num_key_value_heads=2,
    head_dim=32, sliding_window=8, activation_sparsity_pattern=[0.95, 0.8, 0.9, 0.8] + [0.0] * 8,
    max_position_embeddings=1024)
# Donors are 4 and 6. Layers 0 to 3 are sparse: with few units of those, only a small part of one may be left, which
# the norm behind would blow up together with its rounding.
GEMMA_VIEWS = {
    "full": ([256] * 12, []),
    "half": ([128] * 12, []),
    "ragged": ([256, 128, 96, 224, 32, 64, 160, 192, 32, 256, 96, 64], []),
    "half_without_shared": ([128] * 9, [7, 8, 10]),
    "ragged_without_owners": ([128, 192, 96, 256, 64, 224, 32, 160], [1, 2, 5, 9]),
}
GEMMA_NESTED = dict(
    vocab_size=100, vocab_size_per_layer_input=96, hidden_size=32, hidden_size_per_layer_input=32, laurel_rank=32,
    intermediate_size=[64, 96, 32, 64, 96], num_hidden_layers=5, num_kv_shared_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32, sliding_window=5, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.75, 0.0],
    layer_types=[SLIDING, FULL, SLIDING, SLIDING, FULL], altup_correct_scale=False,
    final_logit_softcapping=20.0, max_position_embeddings=256)
GEMMA_NESTED_VIEWS = {
    "full": (GEMMA_NESTED["intermediate_size"], []),
    "narrow": ([32, 64, 32, 64, 32], []),
    "without": ([64, 32, 64], [0, 3]),
}


def gemma_model(config, tensors):
    model = Gemma3nForCausalLM._from_config(Gemma3nTextConfig(**config), dtype=torch.float32,
                                            attn_implementation="eager").eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model


def cut_gemma(config, tensors, widths, skip):
    return gemma_model(slice_gemma3n.slice_config(config, widths, skip),
                       slice_gemma3n.slice_tensors(tensors, config, widths, skip))


def gemma_cases(config, tensors, views, generator):
    cases = []
    for name, (widths, skip) in views.items():
        cut = cut_gemma(config, tensors, widths, skip)
        beyond = [config["vocab_size"] - 1, config["vocab_size_per_layer_input"], 0]
        cases.append(decoder_case(name, view_text(widths, skip), lambda t: run(cut, t), config["vocab_size"], generator,
                                  beyond))
        check_decoder(cut, cases[-1])
        masked = slice_gemma3n.mask_model(gemma_model(config, tensors), widths, skip)
        check("masked", run(masked, cases[-1][2]["tokens"]), cases[-1][2]["logits"])
    return cases


def alternate(models, tokens):
    """The logits of the last position of each stretch. Models that skip shared layers alone have the same owners of
    keys and values at the same places, so one cache serves them in turn."""
    cache = DynamicCache(config=models[0].config)
    return torch.stack([run(models[i % len(models)], stretch, cache)[-1]
                        for i, stretch in enumerate(tokens.split(STRETCH))])


def alternating_case(config, tensors, views, generator):
    models = [cut_gemma(config, tensors, *view) for view in views]
    tokens = torch.randint(config["vocab_size"], (ALTERNATING,), generator=generator)
    for name, model in zip(("full", "narrow"), models):
        check(f"{name} by stretches", alternate([model], tokens), run(model, tokens)[STRETCH - 1 :: STRETCH])
    masked = [slice_gemma3n.mask_model(gemma_model(config, tensors), *view) for view in views]
    logits = alternate(models, tokens)
    check("alternating, masked", alternate(masked, tokens), logits)
    apart = relative(alternate(models[:1], tokens)[::2], logits[::2])
    assert apart > 1e-2, "the narrow stretches should leave a trace in the full ones"
    text = " | ".join(view_text(*view) for view in views)
    return "alternate", text, dict(tokens=tokens, stretch=[STRETCH], logits=logits)


def make_gemma(name, seed):
    generator, folder = torch.Generator().manual_seed(seed), fresh_folder(name)
    model = fill(Gemma3nForCausalLM(Gemma3nTextConfig(**GEMMA)), GEMMA_GAINS, generator).to(torch.bfloat16)
    model.save_pretrained(folder)
    config = model.config.to_dict()
    tensors = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    cases = gemma_cases(config, tensors, GEMMA_VIEWS, generator)
    loaded = load(Gemma3nForCausalLM, folder)
    check("as transformers loads it", run(loaded, cases[0][2]["tokens"]), cases[0][2]["logits"])
    cases.append(alternating_case(config, tensors, [([256] * 12, []), ([128] * 10, [8, 10])], generator))
    return folder, cases


def nested_config(text):
    """The config.json of the released files: the text decoder's is one of three, in the spelling before release 5."""
    left_out = ("architectures", "transformers_version", "dtype")
    text = {k: v for k, v in text.items() if v is not None and k not in left_out}
    rope = text.pop("rope_parameters")
    text |= dict(rope_theta=rope[FULL]["rope_theta"], rope_local_base_freq=rope[SLIDING]["rope_theta"],
                 rope_scaling=None, torch_dtype="float32")
    return dict(architectures=["Gemma3nForConditionalGeneration"], model_type="gemma3n", torch_dtype="float32",
                text_config=text, audio_config=dict(model_type="gemma3n_audio", hidden_size=48),
                vision_config=dict(model_type="gemma3n_vision", hidden_size=40), eos_token_id=[1, 106],
                image_token_id=97, audio_token_id=98, initializer_range=0.02)


def make_gemma_nested(name, seed):
    """As the release: under `model.language_model.`, with keys and values for layers that never use theirs, and
    tensors of the towers in between."""
    generator, folder = torch.Generator().manual_seed(seed), fresh_folder(name)
    text = Gemma3nTextConfig(**GEMMA_NESTED)
    tensors = dict(fill(Gemma3nForCausalLM(text), GEMMA_GAINS, generator).model.state_dict())
    stored = {"model.language_model." + k: v for k, v in tensors.items()}
    for i in range(3, 5):
        at = f"model.language_model.layers.{i}.self_attn."
        stored |= {at + "k_proj.weight": torch.randn(32, 32, generator=generator),
                   at + "v_proj.weight": torch.randn(32, 32, generator=generator),
                   at + "k_norm.weight": torch.randn(32, generator=generator)}
    stored["model.vision_tower.timm_model.conv_stem.conv.weight"] = torch.randn(8, 3, 3, 3, generator=generator)
    stored["model.audio_tower.conformer.0.norm.weight"] = torch.randn(48, generator=generator)
    stored["model.embed_vision.embedding.weight"] = torch.randn(4, 40, generator=generator)
    save_file({k: v.contiguous() for k, v in stored.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(nested_config(text.to_dict()), indent=2, sort_keys=True) + "\n")

    config = Gemma3nTextConfig(**json.loads((folder / "config.json").read_text())["text_config"]).to_dict()
    assert config["rope_parameters"] == text.rope_parameters
    return folder, gemma_cases(config, {"model." + k: v for k, v in tensors.items()}, GEMMA_NESTED_VIEWS, generator)


# ---- MatFormer-OLMo ----

OLMO_BASE = dict(
    model_type="matformer_olmo", activation_type="gelu", alibi=True, alibi_bias_max=8.0, rope=False,
    flash_attention=False, attention_dropout=0.0, multi_query_attention=True, attention_layer_norm=False,
    residual_dropout=0.0, embedding_dropout=0.0, layer_norm_type="low_precision", max_sequence_length=256,
    include_bias=True, vocab_size=100, embedding_size=112, eos_token_id=99, pad_token_id=99, init_std=0.02, n_layers=2)
OLMO = {
    "olmo_sequential": dict(block_type="sequential", d_model=64, n_heads=4, mlp_ratio=4),
    "olmo_parallel": dict(block_type="parallel", d_model=32, n_heads=2, mlp_ratio=8),
}
OLMO_GAINS = {"wte.weight": 0.15, "att_proj.weight": 2.0, "fused_attn_ff_proj.weight": 2.0, "attn_out.weight": 2.0,
              "ff_out.weight": 2.0, "ln_f.weight": 4.0}


class Parameters(torch.nn.Module):
    """Tensors under names with dots, for fill()."""

    def __init__(self, shapes):
        super().__init__()
        self.tensors = {name: torch.nn.Parameter(torch.empty(shape)) for name, shape in shapes}

    def named_parameters(self):
        return self.tensors.items()


def make_olmo(name, seed):
    generator, folder, config = torch.Generator().manual_seed(seed), fresh_folder(name), OLMO_BASE | OLMO[name]
    tensors = fill(Parameters(matformer_olmo.tensor_shapes(config)), OLMO_GAINS, generator).tensors
    save_file({k: v.data for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights, cases = {k: v.data.double() for k, v in tensors.items()}, []
    for factor in 1, 2, 4, 8:
        widths = [config["mlp_ratio"] * config["d_model"] // factor] * config["n_layers"]
        case = decoder_case(f"factor{factor}", view_text(widths),
                            lambda t: matformer_olmo.logits(config, weights, t, widths),
                            config["vocab_size"], generator)
        by_token = matformer_olmo.logits_token_by_token(config, weights, case[2]["tokens"].tolist(), widths)
        check("token by token, masked", by_token, case[2]["logits"])
        cases.append(case)
    return folder, cases


# ---- Vision transformers ----

VIT_GAINS = {"cls_token": 1.0, "position_embeddings": 0.5, "q_proj.weight": 1.5, "k_proj.weight": 1.5,
             "classifier.weight": 3.0, "projection.weight": 1.0}
VIT = {
    "vit_classifier_f32": dict(
        model=ViTForImageClassification, views={"full": [64, 64], "narrow": [64, 32]},
        config=dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64, num_labels=10)),
    "vit_pooler_f32": dict(
        model=ViTModel, new_names=True, views={"full": [64, 64], "narrow": [32, 64]},
        config=dict(hidden_size=32, num_attention_heads=1, num_hidden_layers=2, intermediate_size=64)),
    "matvit_f32": dict(
        model=ViTForImageClassification, new_names=True,
        views={"XL": [256] * 2, "L": [128] * 2, "M": [64] * 2, "S": [32] * 2, "ragged": [32, 192]},
        config=dict(hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=256, num_labels=7,
                    hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)),
}


def cut_vit(model, widths):
    cut = copy.deepcopy(model)
    for layer, width in zip(getattr(cut, "vit", cut).layers, widths):
        layer.mlp.fc1.weight.data = layer.mlp.fc1.weight.data[:width]
        layer.mlp.fc1.bias.data = layer.mlp.fc1.bias.data[:width]
        layer.mlp.fc2.weight.data = layer.mlp.fc2.weight.data[:, :width]
    return cut


def mask_vit(model, widths):
    """As Scenic's MatViT masks: what goes into the activation becomes 0, which stays 0."""
    masked = copy.deepcopy(model)
    for layer, width in zip(getattr(masked, "vit", masked).layers, widths):
        layer.mlp.fc1.register_forward_hook(lambda _, __, out, w=width: out * (torch.arange(out.shape[-1]) < w))
    return masked


def run_vit(model, pixels):
    inner = getattr(model, "vit", model)
    with torch.no_grad():
        out = inner(pixel_values=pixels[None])
        results = dict(hidden=out.last_hidden_state[0])
        if out.pooler_output is not None:
            results["pooled"] = out.pooler_output[0]
        if inner is not model:
            results["logits"] = model(pixel_values=pixels[None]).logits[0]
    return results


def make_vit(name, seed):
    m, generator, folder = VIT[name], torch.Generator().manual_seed(seed), fresh_folder(name)
    config = ViTConfig(image_size=32, patch_size=8, num_channels=3, **m["config"])
    model = fill(m["model"](config), VIT_GAINS, generator)
    model.save_pretrained(folder)  # under the names of the released files
    if m.get("new_names"):
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    full, cases = load(m["model"], folder), []
    for case, widths in m["views"].items():
        pixels = torch.rand(3, 32, 32, generator=generator) * 2 - 1
        cut = cut_vit(full, widths)
        results = run_vit(cut, pixels)
        for kind, exact in run_vit(copy.deepcopy(cut).double(), pixels.double()).items():
            check(f"{case} {kind}, f64", results[kind], exact)
        for kind, masked in run_vit(mask_vit(full, widths), pixels).items():
            check(f"{case} {kind}, masked", masked, results[kind])
        cases.append((case, view_text(widths), dict(pixels=pixels) | results))
    return folder, cases


MAKERS = ({name: make_llama for name in LLAMA} | {"gemma3n": make_gemma, "gemma3n_nested": make_gemma_nested}
          | {name: make_olmo for name in OLMO} | {name: make_vit for name in VIT})


def main():
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(MAKERS)
    for name in names:
        print(name)
        folder, cases = MAKERS[name](name, 1 + list(MAKERS).index(name))
        expected_file.write(folder / "expected.bin", cases)
        for (_, _, arrays), (_, _, again) in zip(cases, expected_file.read(folder / "expected.bin")):
            assert all(numpy.array_equal(numpy.asarray(arrays[key]), again[key]) for key in arrays)
    total = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"{total} bytes in all")
    assert total < 6_000_000


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
