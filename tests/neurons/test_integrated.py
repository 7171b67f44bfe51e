"""Integrated gradients: complete, as their definition says, and equal to the exact integral where that is known."""

from __future__ import annotations

import pytest
import torch

from neuroglot.errors import UserError
from neuroglot.neurons.ffn import ffn_layers
from neuroglot.neurons.inventory import inventory
from neuroglot.neurons.profiling.integrated import attributions, integrated_gradients
from neuroglot.pair import Condition

DE = Condition.parse("image_translation:en-de")
ENDS = (
    "language_model.layers.1.mlp.up_proj",
    "language_model.layers.0.self_attn.v_proj",
    "layers.1.mlp.fc1",  # of the vision part
    "language_model.layers.1.mlp",  # a block's units
)


def losses(model, samples, kit, silent=None):
    """Each sample's loss by the model's own formula, with a layer's output (or a matrix's input) at zero."""
    hook = None
    if silent is not None and silent.writes:
        hook = model.get_submodule(silent.writes).register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    elif silent is not None:
        hook = model.get_submodule(silent.name).register_forward_hook(lambda module, args, output: output * 0)
    with torch.no_grad():
        found = [model(**kit.collate([sample])).loss for sample in samples]
    if hook:
        hook.remove()
    return torch.stack(found)


@pytest.mark.parametrize("end", ENDS)
def test_they_sum_to_what_the_layer_adds_to_the_loss(kit, llava, end):
    samples = kit.make_samples(3)
    (layer,) = (x for x in (*inventory(llava), *ffn_layers(llava)) if x.name.endswith(end))
    found = attributions(llava, kit.collate(samples, "left"), DE, layer, 48)
    assert found.shape == (3, layer.neurons)
    added = (losses(llava, samples, kit) - losses(llava, samples, kit, layer)).double()
    torch.testing.assert_close(found.sum(1), added, rtol=1e-3, atol=2e-4)
    one = attributions(llava, kit.collate(samples, "left"), DE, layer, 1).sum(1)
    assert (one - added).abs().max() > (found.sum(1) - added).abs().max()


def test_the_score_is_the_mean_of_absolute_attributions(kit, llava):
    samples = kit.make_samples(4)
    name = "model.language_model.layers.1.mlp.up_proj"
    layer = next(x for x in inventory(llava) if x.name == name)
    batches = [(kit.collate(samples[:3]), DE), (kit.collate(samples[3:]), str(DE))]
    found = integrated_gradients(llava, batches, [name], 8)
    each = torch.cat([attributions(llava, kit.collate([sample]), DE, layer, 8) for sample in samples])
    kit.assert_relatively_close(found[DE][name], each.abs().mean(0))


def test_the_model_is_left_as_it_was_and_mistakes_are_explained(kit):
    model = kit.make_llava()
    model.train()
    batch = (kit.collate(kit.make_samples(2)), DE)
    before = [module.training for module in model.modules()]
    integrated_gradients(model, [batch], ["model.language_model.layers.0.mlp.down_proj"], 2)
    assert [module.training for module in model.modules()] == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with pytest.raises(UserError, match="layer 'model.language_model.layers.0.mlp.down' is not known; did you mean"):
        integrated_gradients(model, [batch], ["model.language_model.layers.0.mlp.down"])
    with pytest.raises(UserError, match="steps must be 1 or more, got 0"):
        integrated_gradients(model, [batch], ["model.language_model.layers.0.mlp.down_proj"], 0)
