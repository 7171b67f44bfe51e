"""A matrix that no Linear holds (Gemma3's connector): a layer like any other, stored the other way round."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import families
import pytest
import torch

from neuroglot.neurons import inventory
from neuroglot.neurons.inventory import fingerprint, matrix, module_of
from neuroglot.neurons.layers import activation_similarity
from neuroglot.neurons.profiling.importance import profile
from neuroglot.neurons.profiling.scores import neuron_norms, weight_of

DE = "image_translation:en-de"


@pytest.fixture(scope="module")
def gemma():
    model, inputs = families.build("gemma3")
    inputs["pixel_values"] = inputs["pixel_values"].double()
    return model.double(), inputs


@pytest.fixture(scope="module")
def bare(gemma):
    (layer,) = (layer for layer in inventory(gemma[0]) if layer.part == "connector")
    return layer


def test_it_is_in_the_inventory(gemma, bare):
    model, _ = gemma
    assert (bare.name, bare.axis) == (families.BARE, 1)
    weight = matrix(model, bare)
    assert weight is model.get_parameter(families.BARE)
    assert tuple(weight.shape) == (bare.inputs, bare.neurons)
    assert torch.allclose(neuron_norms(weight_of(model), [bare])[bare.name], weight.norm(dim=0).double(), rtol=1e-6)
    before = fingerprint(model, [bare])
    weight.data += 1
    changed = fingerprint(model, [bare])
    weight.data -= 1
    assert changed != before == fingerprint(model, [bare])


def test_its_profile_is_that_of_its_modules_output(gemma, bare, kit):
    model, inputs = gemma
    found = profile(model, [(inputs, DE)])
    expected = torch.zeros(bare.neurons).double()
    for row in range(2):
        outputs = []

        def keep(module, args, output, outputs=outputs):
            output.retain_grad()
            outputs.append(output)

        hook = module_of(model, bare).register_forward_hook(keep)
        model(**{key: x[row : row + 1] for key, x in inputs.items()}).loss.backward()
        hook.remove()
        model.zero_grad()
        (output,) = outputs
        expected += (output.detach() * output.grad).abs().reshape(-1, bare.neurons).mean(0)
    assert expected.any()
    kit.assert_relatively_close(found.sums[bare.name][0, 0, 0], expected, 1e-4)


def test_similarity_reaches_it(gemma, bare):
    model, inputs = gemma
    weight = matrix(model, bare)

    @contextmanager
    def turned():
        weight.data[:, ::2] *= -1
        yield
        weight.data[:, ::2] *= -1

    found = activation_similarity(model, [(inputs, DE)], nullcontext, turned)
    vision = [layer.name for layer in inventory(model, ("vision",))]
    assert all(found[name]["en-de"] == pytest.approx(1) for name in vision)
    assert found[bare.name]["en-de"] < 0.9
