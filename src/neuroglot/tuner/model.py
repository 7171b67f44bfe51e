"""The tuner: finds modules by exact full name, wraps them, and refuses what does not fit before changing anything."""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from neuroglot.errors import UserError, nearest
from neuroglot.selection import Selection
from neuroglot.tuner.config import NeuroglotConfig
from neuroglot.tuner.layer import Layout, NeuroglotLinear
from neuroglot.tuner.routing import Router


class NeuroglotModel(BaseTuner):
    """A model whose chosen rows can be trained; made by `peft.get_peft_model` from a `NeuroglotConfig`."""

    prefix = "neuroglot_"
    tuner_layer_cls = NeuroglotLinear
    target_module_mapping: dict[str, list[str]] = {}

    router: Router

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        # a model that carries layers already (PEFT's injection without a wrapper) goes on with their router
        layers = (m for m in model.modules() if isinstance(m, NeuroglotLinear))
        self.router = next((layer.router for layer in layers), Router())
        self.router.configs = self.peft_config

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        self.router.release()
        self.router.attach(model)

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        return key in cast(NeuroglotConfig, peft_config).layout

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
            users[id(parameter)].add(name.rpartition(".")[0].removesuffix(".base_layer"))
        for name, groups in peft_config.layout.items():
            linear = _linear(name, modules)
            shared = users[id(linear.weight)] - {name}
            if shared:
                raise UserError(
                    f"{name} shares its weight with {sorted(shared)[0]}; expected a weight of its own; leave it out, "
                    "or untie it (tie_word_embeddings=False) before"
                )
            if sum(groups.values()) > linear.out_features:
                raise UserError(
                    f"{name} has {linear.out_features} rows, but the adapter trains {sum(groups.values())} of them; "
                    "use the base model that the adapter was made for"
                )
            if peft_config.rows is not None:
                _check_rows(name, peft_config.rows[name], linear.out_features)

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
        peft_config = cast(NeuroglotConfig, peft_config)
        agnostic_only = all(set(groups) == {peft_config.agnostic} for groups in peft_config.layout.values())
        layout = Layout(dict(peft_config.layout[current_key]), tuple(peft_config.pairs), agnostic_only)
        rows_K = None if peft_config.rows is None else peft_config.rows[current_key]
        if isinstance(target, NeuroglotLinear):
            target.update_layer(adapter_name, layout, rows_K)
            return
        layer = NeuroglotLinear(cast(nn.Linear, target), current_key, self.router)
        layer.update_layer(adapter_name, layout, rows_K)
        self._replace_module(parent, target_name, layer, target)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the plain model with the adapters' rows merged."""
        self.router.release()
        return super().merge_and_unload(progressbar, safe_merge, adapter_names)

    def unload(self) -> nn.Module:
        """Return the plain model as it was."""
        self.router.release()
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
            if isinstance(layer, NeuroglotLinear) and adapter_name in layer.neuroglot_layout:
                expected = {
                    f"{name}.{key}": tuple(value.shape)
                    for key, value in layer.state_dict().items()
                    if _belongs(key, adapter_name)
                }
                _check_tensors(layer.module_name, expected, mapped)
                _check_rows(layer.module_name, mapped[f"{name}.neuroglot_rows.{adapter_name}"], layer.out_features)
                known |= set(expected)
        foreign = sorted(key for key in mapped if f".{cls.prefix}" in key and key not in known)
        if foreign:
            raise UserError(
                f"adapter: unexpected tensor {foreign[0]}; load it on the base model that it was trained on, with the "
                "adapter_config.json that was saved with it"
            )
        return mapped


def _linear(name: str, modules: dict[str, nn.Module]) -> nn.Linear:
    """Return the Linear of a name, looking through our own wrapper."""
    if name not in modules:
        linears = [n.removesuffix(".base_layer") for n, m in modules.items() if isinstance(m, nn.Linear)]
        raise UserError(f"the model has no module {name!r}; {nearest(name, linears)}")
    module = modules[name]
    if isinstance(module, NeuroglotLinear):
        return module.base_layer
    if isinstance(module, BaseTunerLayer):
        raise UserError(f"{name} is wrapped by {type(module).__module__}; merge or unload that adapter first")
    if not isinstance(module, nn.Linear):
        linears = [n for n, m in modules.items() if isinstance(m, nn.Linear)]
        raise UserError(f"{name} is a {type(module).__name__}, expected a Linear; {nearest(name, linears)}")
    return module


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
    pairs: tuple[str, ...] = ()
    for layer in model.modules():
        if isinstance(layer, NeuroglotLinear) and adapter in layer.neuroglot_layout:
            layout = layer.neuroglot_layout[adapter]
            parts = layer.neuroglot_rows[adapter].long().cpu().split(list(layout.groups.values()))
            rows[layer.module_name] = {
                frozenset(group.split(",")): part for group, part in zip(layout.groups, parts, strict=True)
            }
            pairs = layout.pairs
    if not rows:
        raise UserError(f"the model has no neuroglot adapter {adapter!r}; expected one made by NeuroglotConfig")
    return Selection(pairs, rows)
