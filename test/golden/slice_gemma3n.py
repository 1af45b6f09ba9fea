"""A Gemma 3n checkpoint cut to widths per layer and without some layers: the rules of Google's MatFormer Lab notebook,
written from their description, as the second opinion on our views.

The notebook leaves `layer_types` alone, so that a layer behind a skipped one changes its type unless the skipped ones
are whole periods; here it goes with the layer. Its sparsity pattern, 0.95 on the first ten kept layers of those that
had it, is the same as taking each kept layer's own.
"""

import copy

import torch


def layers_of(config, skip):
    """The kept layers' old numbers; refuses the layers whose keys and values others read."""
    n_layer = config["num_hidden_layers"]
    n_owner = n_layer - config["num_kv_shared_layers"]
    types = config["layer_types"]
    for donor in {max(i for i in range(n_owner) if types[i] == kind) for kind in set(types[n_owner:])}:
        assert donor not in skip, f"layer {donor} feeds the shared keys and values"
    return [i for i in range(n_layer) if i not in skip]


def slice_config(config, widths, skip):
    """widths: one per kept layer."""
    kept, cut = layers_of(config, skip), copy.deepcopy(config)
    assert len(widths) == len(kept)
    n_owner = config["num_hidden_layers"] - config["num_kv_shared_layers"]
    cut["num_hidden_layers"] = len(kept)
    cut["num_kv_shared_layers"] -= sum(i >= n_owner for i in skip)
    cut["intermediate_size"] = list(widths)
    for key in ("layer_types", "activation_sparsity_pattern"):
        cut[key] = [config[key][i] for i in kept]
    return cut


def slice_matrix(name, tensor, width):
    if name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight")):
        return tensor[:width]
    return tensor[:, :width] if name.endswith("mlp.down_proj.weight") else tensor


def slice_tensors(tensors, config, widths, skip, prefix="model."):
    kept, cut = layers_of(config, skip), {}
    new_number = {old: new for new, old in enumerate(kept)}
    n_layer, per_layer = config["num_hidden_layers"], config["hidden_size_per_layer_input"]
    for name, tensor in tensors.items():
        inner = name.removeprefix(prefix)
        if inner.startswith("layers."):
            _, old, role = inner.split(".", 2)
            if int(old) in skip:
                continue
            new = new_number[int(old)]
            name, tensor = f"{prefix}layers.{new}.{role}", slice_matrix(role, tensor, widths[new])
        elif inner == "per_layer_model_projection.weight":
            tensor = tensor.view(n_layer, per_layer, -1)[kept].reshape(len(kept) * per_layer, -1)
        elif inner == "embed_tokens_per_layer.weight":
            tensor = tensor.view(-1, n_layer, per_layer)[:, kept].reshape(-1, len(kept) * per_layer)
        cut[name] = tensor.contiguous().clone()
    return cut


def mask_model(model, widths, skip):
    """The same view by masking in the whole model: unit by unit, and a skipped layer hands its input on."""
    kept = layers_of(model.config.to_dict(), skip)
    for i, layer in enumerate(model.model.layers):
        if i in skip:
            layer.forward = lambda hidden_states, *_, **__: hidden_states
        else:
            layer.mlp.forward = masked_feed_forward(layer.mlp, widths[kept.index(i)])
    return model


def masked_feed_forward(mlp, width):
    live = torch.arange(mlp.intermediate_size) < width

    def forward(x):
        gate = mlp.gate_proj(x)
        if mlp.activation_sparsity > 0:
            # the statistics are those of the units that live: mean and population variance over `width` of them
            mean = (gate * live).sum(-1, keepdim=True) / width
            variance = (((gate - mean) ** 2) * live).sum(-1, keepdim=True) / width
            quantile = torch.special.ndtri(torch.tensor(mlp.activation_sparsity, dtype=torch.float64)).to(gate.dtype)
            gate = torch.relu(gate - (mean + quantile * variance.sqrt()))
        return mlp.down_proj(mlp.act_fn(gate) * mlp.up_proj(x) * live)

    return forward
