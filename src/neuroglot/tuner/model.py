"""The tuner: finds modules by exact full name, wraps them, and refuses what does not fit before changing anything."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import FAMILIES
from neuroglot.selection import Selection
from neuroglot.tuner.config import NeuroglotConfig
from neuroglot.tuner.engines.deltas import UnitLayer, shape_of
from neuroglot.tuner.engines.units import Layout
from neuroglot.tuner.engines.weight import HeldWeight, why_not_sliced
from neuroglot.tuner.layer import NeuroglotLinear, NeuroglotMatrix
from neuroglot.tuner.routing import Router, is_sharded

_log = logging.getLogger(__name__)


class NeuroglotModel(BaseTuner):
    """A model whose chosen rows can be trained; made by `peft.get_peft_model` from a `NeuroglotConfig`."""

    prefix = "neuroglot_"
    tuner_layer_cls = HeldWeight
    target_module_mapping: dict[str, list[str]] = {}

    router: Router

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        # a model that carries layers already (PEFT's injection without a wrapper) goes on with their router
        layers = (m for m in model.modules() if isinstance(m, HeldWeight))
        self.router = next((layer.router for layer in layers), Router())
        self.router.configs = self.peft_config

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        self.router.release()
        self.router.attach(model)
        _log.info("adapter %s: %s", adapter_name, modes(model, adapter_name))

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        config = cast(NeuroglotConfig, peft_config)
        return key in config.layout or key in config.bare

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Check the configuration against the model.

        Raises:
            UserError: no layout; a module that does not exist, is not a Linear, is wrapped by another method or is
                tied to another one; more rows than the module has, or an index out of range.
        """
        peft_config = cast(NeuroglotConfig, peft_config)
        if not peft_config.layout:
            raise UserError(
                "NeuroglotConfig has no layout; expected module names and groups; make it with "
                "NeuroglotConfig.from_selection(selection)"
            )
        modules = dict(model.named_modules(remove_duplicate=False))
        users = defaultdict(set)
        for name, parameter in model.named_parameters(remove_duplicate=False):
            users[id(parameter)].add(name.replace(".base_layer.", "."))
        for name, groups in peft_config.layout.items():
            module, weight = matrix_of(name, modules)
            if weight != "weight" and peft_config.bare.setdefault(name.rpartition(".")[0], name) != name:
                raise UserError(
                    f"{name} and {peft_config.bare[name.rpartition('.')[0]]} are bare matrices of one module; "
                    "expected one of them; leave the other out of the selection"
                )
            shared = users[id(getattr(module, weight))] - {name, f"{name}.{weight}"}
            if shared:
                raise UserError(
                    f"{name} shares its weight with {sorted(shared)[0].removesuffix('.weight')}; expected a weight of "
                    "its own; leave it out, or untie it (tie_word_embeddings=False) before"
                )
            axis = peft_config.axes.get(name, 0)
            outputs, inputs = shape_of(module, weight)
            size = outputs if axis == (0 if isinstance(module, nn.Linear) else 1) else inputs
            if sum(groups.values()) > size:
                raise UserError(
                    f"{name} has {size} rows, but the adapter trains {sum(groups.values())} of them; "
                    "use the base model that the adapter was made for"
                )
            if peft_config.units is not None:
                _check_rows(name, peft_config.units[name], size)
            reason = why_not_sliced(module, weight)
            if reason is not None and "quantised" in reason:
                peft_config.quantised = True
            if reason is not None and weight != "weight":
                raise UserError(f"{name}: {reason}; expected a dense bare matrix; leave it out of the selection")
            if reason is not None and peft_config.mode == "sliced":
                raise UserError(f"{name}: mode sliced does not work here, {reason}; use mode='auto' or 'additive'")

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        config = cast(NeuroglotConfig, peft_config)
        key = config.bare.get(current_key, current_key)
        agnostic_only = all(set(groups) == {config.agnostic} for groups in config.layout.values())
        layout = Layout(
            dict(config.layout[key]), tuple(config.pairs), agnostic_only, config.axes.get(key, 0), config.train_bias,
            {group: config.rank_of(key, group) for group in config.layout[key]}, config.mode,
        )  # fmt: skip
        rows_K = None if config.units is None else config.units[key]
        if isinstance(target, HeldWeight):
            target.update_layer(adapter_name, layout, rows_K, config.init_weights)
            return
        part = _part(self.model, key)
        if key == current_key:
            layer: HeldWeight = NeuroglotLinear(target, key, self.router, part)
        else:
            layer = NeuroglotMatrix(target, key, self.router, part, key.rpartition(".")[2])
        layer.update_layer(adapter_name, layout, rows_K, config.init_weights)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, NeuroglotMatrix) or isinstance(new_module, NeuroglotMatrix):
            setattr(parent, child_name, new_module)  # PEFT's own would look for the module's `weight`
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge the adapters' units into the weights; with `safe_merge` all layers are looked at before the first."""
        if safe_merge:
            self._check_merge(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _check_merge(self, adapter_names: list[str] | None) -> None:
        for layer in _layers(self.model):
            for adapter in adapter_names or layer.active_adapters:
                layer.check_merge(adapter)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the plain model with the adapters' rows merged."""
        if safe_merge:
            self._check_merge(adapter_names)
        self.router.release()
        park(self.model)
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def unload(self) -> nn.Module:
        """Return the plain model as it was."""
        self.router.release()
        park(self.model)
        return super().unload()

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Check saved tensors before they are copied into the layers.

        Raises:
            UserError: a tensor is missing or foreign, has the wrong shape, or names a row that the layer lacks.
        """
        mapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        known = set()
        for name, layer in model.named_modules():
            if isinstance(layer, HeldWeight) and adapter_name in layer.neuroglot_layout:
                expected = {
                    f"{name}.{key}": tuple(value.shape)
                    for key, value in layer.state_dict().items()
                    if _belongs(key, adapter_name)
                }
                _check_tensors(layer.module_name, expected, mapped)
                size = layer.out_features if layer.units_are_outputs(adapter_name) else layer.in_features
                _check_rows(layer.module_name, mapped[f"{name}.neuroglot_rows.{adapter_name}"], size)
                known |= set(expected)
        foreign = sorted(key for key in mapped if f".{cls.prefix}" in key and key not in known)
        if foreign:
            raise UserError(
                f"adapter: unexpected tensor {foreign[0]}; load it on the base model that it was trained on, with the "
                "adapter_config.json that was saved with it"
            )
        return mapped


def matrix_of(name: str, modules: dict[str, nn.Module]) -> tuple[nn.Module, str]:
    """Return the module of a name and its matrix's attribute, looking through our own wrappers.

    Raises:
        UserError: there is no such module or matrix, or it cannot be wrapped.
    """
    owner, _, leaf = name.rpartition(".")
    holder = modules.get(owner)
    if name not in modules and holder is not None:
        holder = holder.base_layer if isinstance(holder, NeuroglotMatrix) else holder
        if isinstance(getattr(holder, leaf, None), nn.Parameter) and getattr(holder, leaf).dim() == 2:
            return holder, leaf
    linears = [n.removesuffix(".base_layer") for n, m in modules.items() if isinstance(m, nn.Linear)]
    if name not in modules:
        raise UserError(f"the model has no module {name!r}; {nearest(name, linears)}")
    module = modules[name]
    if isinstance(module, NeuroglotLinear):
        return module.base_layer, "weight"
    if isinstance(module, BaseTunerLayer):
        raise UserError(f"{name} is wrapped by {type(module).__module__}; merge or unload that adapter first")
    if not isinstance(module, nn.Linear | Conv1D):
        raise UserError(f"{name} is a {type(module).__name__}, expected a Linear; {nearest(name, linears)}")
    if isinstance(holder, nn.MultiheadAttention):
        raise UserError(
            f"{name} lies in a torch MultiheadAttention, which reads the weight without calling the layer; expected a "
            "layer that is called; leave it out of the selection"
        )
    return module, "weight"


def _part(model: nn.Module, name: str) -> str | None:
    """Return the part of a module, `packed` for a vision side without an axis of samples; None if nobody knows."""
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    if family is None:
        return None
    part = family.part_of(name)
    return "packed" if part in ("vision", "connector") and family.vision_rows == "packed" else part


def _layers(model: nn.Module) -> list[HeldWeight]:
    return [module for module in model.modules() if isinstance(module, HeldWeight)]


def refresh(model: nn.Module) -> None:
    """Have the units written again before the next forward.

    Needed only after deltas were changed in a way that their version counters do not show (a fused or 8-bit
    optimiser, `.data`) and without a training forward or a change of mode in between.
    """
    for layer in _layers(model):
        layer.refresh()


def park(model: nn.Module) -> None:
    """Put the base's own units back into all weights, where the next forward replaces them again.

    Reading `state_dict()`, moving, merging and unloading do this by themselves; it is for those who read
    `layer.weight` directly, or shard the model after it has run.
    """
    for layer in _layers(model):
        layer.park()


def modes(model: nn.Module, adapter: str = "default") -> str:
    """Say in one line how many layers compute an adapter which way, and why those that are not `sliced` are not."""
    found: Counter[str] = Counter()
    sharded = is_sharded(model)
    for layer in _layers(model):
        if adapter in layer.neuroglot_layout:
            asked = layer.neuroglot_layout[adapter].mode
            reason = why_not_sliced(layer.base_layer, layer.weight_name)
            if asked == "additive":
                reason = "asked for"
            elif sharded or layer.router.sharded:  # a shard's type would be no explanation
                reason = "its weight is sharded"
            found["sliced" if reason is None else f"additive ({reason})"] += 1
    return ", ".join(f"{count} layers {how}" for how, count in found.most_common()) or "no layers"


def _belongs(key: str, adapter: str) -> bool:
    """Whether a layer's state key (`neuroglot_delta.<adapter>.<group>`) is the adapter's."""
    parts = key.split(".")
    return parts[0].startswith(NeuroglotModel.prefix) and len(parts) > 1 and parts[1] == adapter


def _check_tensors(module: str, expected: dict[str, tuple[int, ...]], found: dict[str, torch.Tensor]) -> None:
    for key, shape in expected.items():
        if key not in found:
            raise UserError(f"adapter: {key} is missing; load it on the base model that it was trained on")
        if tuple(found[key].shape) != shape:
            raise UserError(
                f"adapter: {module}: {key.rpartition('neuroglot_')[2]} has shape {tuple(found[key].shape)}, "
                f"expected {shape}; load it on the base model that it was trained on"
            )


def _check_rows(module: str, rows_K: torch.Tensor, outputs: int) -> None:
    wrong = rows_K[(rows_K < 0) | (rows_K >= outputs)]
    if wrong.numel():
        raise UserError(
            f"{module}: row {int(wrong[0])} is out of range; expected 0 to {outputs - 1}; "
            "select again for this model, or load the adapter on the model that it was trained on"
        )


def selection_of(model: nn.Module, adapter: str = "default") -> Selection:
    """Return what an adapter trains, as a selection.

    Raises:
        UserError: the model has no such adapter.
    """
    rows: dict[str, dict[frozenset[str], torch.Tensor]] = {}
    axes: dict[str, int] = {}
    pairs: tuple[str, ...] = ()
    for layer in model.modules():
        if isinstance(layer, UnitLayer) and adapter in layer.neuroglot_layout:
            layout = layer.neuroglot_layout[adapter]
            parts = layer.neuroglot_rows[adapter].long().cpu().split(list(layout.groups.values()))
            rows[layer.module_name] = {
                frozenset(group.split(",")): part for group, part in zip(layout.groups, parts, strict=True)
            }
            pairs = layout.pairs
            if layout.axis:
                axes[layer.module_name] = layout.axis
    if not rows:
        raise UserError(f"the model has no neuroglot adapter {adapter!r}; expected one made by NeuroglotConfig")
    return Selection(pairs, rows, axes=axes)


def trained_entries(model: nn.Module, adapter: str = "default") -> dict[str, int]:
    """Return how many numbers an adapter trains in each module: of deltas or their factors, and of biases."""
    found = {}
    for layer in _layers(model):
        if adapter in layer.neuroglot_layout:
            held = (p for name in layer.adapter_layer_names for p in getattr(layer, name)[adapter].parameters())
            found[layer.module_name] = sum(p.numel() for p in held)
    return found
