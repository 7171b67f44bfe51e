"""The tuner: finds modules by exact full name, wraps them, and refuses what does not fit before changing anything."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import FAMILIES, image_token_id
from neuroglot.selection import Selection
from neuroglot.tuner.adapter import check_rows, check_tensors, matrix_of, part_of
from neuroglot.tuner.config import NeuroglotConfig, StrictTuner
from neuroglot.tuner.deltas import Layout, UnitLayer, shape_of
from neuroglot.tuner.layer import NeuroglotLinear, NeuroglotMatrix, check_base
from neuroglot.tuner.routing import Router, is_sharded
from neuroglot.tuner.weight import WeightLayer, why_not_sliced

# ---- What the model trains, and how it computes ---------------------------------------------------------------------


def layers_of(model: nn.Module) -> list[WeightLayer]:
    return [module for module in model.modules() if isinstance(module, WeightLayer)]


def refresh(model: nn.Module) -> None:
    """Write the units again before the next forward.

    Needed only after deltas were changed in a way that their version counters do not show (a fused or 8-bit
    optimiser, `.data`) and without a training forward or a change of mode in between.
    """
    for layer in layers_of(model):
        layer.refresh()


def park(model: nn.Module) -> None:
    """Put the base's own units back into all weights, until the next forward replaces them.

    Reading `state_dict()`, moving, merging and unloading do this by themselves; it is for those who read
    `layer.weight` directly, or shard the model after it has run.
    """
    for layer in layers_of(model):
        layer.park()


def modes(model: nn.Module, adapter: str = "default") -> str:
    """Return one line on how many layers compute an adapter in which mode, and why any are not `sliced`."""
    counts: Counter[str] = Counter()
    sharded = is_sharded(model)
    for layer in layers_of(model):
        if adapter in layer.neuroglot_layout:
            asked = layer.neuroglot_layout[adapter].mode
            reason = why_not_sliced(layer.base_layer, layer.weight_name)
            if asked == "additive":
                reason = "asked for"
            elif sharded or layer.router.sharded:  # a shard's type would be no explanation
                reason = "its weight is sharded"
            counts["sliced" if reason is None else f"additive ({reason})"] += 1
    return ", ".join(f"{count} layers {how}" for how, count in counts.most_common()) or "no layers"


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
    counts = {}
    for layer in layers_of(model):
        if adapter in layer.neuroglot_layout:
            parameters = (p for name in layer.adapter_layer_names for p in getattr(layer, name)[adapter].parameters())
            counts[layer.module_name] = sum(p.numel() for p in parameters)
    return counts


# ---- The tuner ------------------------------------------------------------------------------------------------------

_log = logging.getLogger(__name__)

_INPUTS = ("input_ids", "inputs", "inputs_embeds")
"""Inputs that show the batch size of any model."""


class NeuroglotModel(StrictTuner):
    """A model whose chosen rows can be trained; made by `peft.get_peft_model` from a `NeuroglotConfig`."""

    prefix = "neuroglot_"
    tuner_layer_cls = WeightLayer

    router: Router

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        # a model that has layers already (PEFT's injection without a wrapper) keeps their router
        layers = (m for m in model.modules() if isinstance(m, WeightLayer))
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
            users[_memory(parameter)].add(name.replace(".base_layer.", "."))
        for name, groups in peft_config.layout.items():
            module, weight = matrix_of(name, modules)
            if weight != "weight" and peft_config.bare.setdefault(name.rpartition(".")[0], name) != name:
                raise UserError(
                    f"{name} and {peft_config.bare[name.rpartition('.')[0]]} are bare matrices of one module; "
                    "expected one of them; leave the other out of the selection"
                )
            check_base(name, module, weight)
            start, end = _memory(getattr(module, weight))
            sharing = (names for (low, high), names in users.items() if low < end and start < high)
            shared = set().union(*sharing) - {name, f"{name}.{weight}"}
            if shared:
                raise UserError(
                    f"{name} shares its weight with {min(shared).removesuffix('.weight')}; expected a weight of "
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
                check_rows(name, peft_config.units[name], size)
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
        if isinstance(target, WeightLayer):
            target.update_layer(adapter_name, layout, rows_K, config.init_weights)
            return
        part = part_of(self.model, key)
        if key == current_key:
            layer: WeightLayer = NeuroglotLinear(target, key, self.router, part)
        else:
            layer = NeuroglotMatrix(target, key, self.router, part, key.rpartition(".")[2])
        layer.update_layer(adapter_name, layout, rows_K, config.init_weights)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if isinstance(child, NeuroglotMatrix) or isinstance(new_module, NeuroglotMatrix):
            setattr(parent, child_name, new_module)  # PEFT's own looks for the module's `weight`
        else:
            super()._replace_module(parent, child_name, new_module, child)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Give each sample its own adapter while PEFT runs forward or generate with `adapter_names`.

        Raises:
            UserError: training, a name that is not known, another number of names than samples, a merged adapter, or
                vision rows that cannot be told apart.
        """
        self._refuse_keywords(kwargs, "alora_offsets")
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        self._check_adapter_names(names, [*args, *(kwargs.get(key) for key in _INPUTS), *kwargs.values()], kwargs)
        with ExitStack() as stack:
            for module in self.model.modules():
                if isinstance(module, AuxiliaryTrainingWrapper):
                    hook = partial(_with_names, names=list(names))
                    stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            self.router.adapters = tuple(names)
            stack.callback(setattr, self.router, "adapters", None)
            yield

    def _check_adapter_names(self, names: Any, values: Sequence[Any], inputs: Mapping[str, Any]) -> None:
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise UserError(f"adapter_names must be a list with one name for each sample, got {names!r}")
        if self.training:
            raise UserError("adapter_names is for inference, but the model is in training mode; call model.eval()")
        known = {*self.peft_config, "__base__"}
        for name in names:
            if name not in known:
                raise UserError(f"adapter_names: {name!r} is no adapter of this model; {nearest(name, known)}")
        size = next((len(value) for value in values if torch.is_tensor(value)), None)
        if size != len(names):
            raise UserError(f"adapter_names names {len(names)} adapters for {size} samples; expected one for each")
        layers = [layer for layer in layers_of(self.model) if set(names) & set(layer.neuroglot_layout)]
        merged = next((layer for layer in layers if layer.merged), None)
        if merged is not None:
            raise UserError(
                f"adapter_names: adapter {merged.merged_adapters[0]!r} is merged; call model.unmerge_adapter() first"
            )
        if any(key.startswith("pixel") for key in inputs) and any(layer.part != "language" for layer in layers):
            self._check_images_alike(inputs.get("input_ids"))

    def _check_images_alike(self, ids: torch.Tensor | None) -> None:
        """Refuse images that cannot be assigned to samples with certainty."""
        family = FAMILIES.get(getattr(getattr(self.model, "config", None), "model_type", ""))
        token = None if family is None else image_token_id(self.model, family)
        counts = None
        if family is not None and family.vision_rows == "even" and ids is not None and token is not None:
            counts = ids.eq(token).sum(1)
        if counts is None or (counts != counts[0]).any():
            raise UserError(
                "adapter_names: an adapter has layers that see the images, and it is not certain which rows there are "
                "which sample's; expected as many images of one size for each sample; run the samples of each adapter "
                "by themselves with model.set_adapter(name)"
            )

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge the adapters' units into the weights; with `safe_merge` all layers are checked before the first."""
        self._check_names(adapter_names)
        if safe_merge:
            self._check_merge(adapter_names)
        super().merge_adapter(adapter_names, safe_merge)

    def _check_merge(self, adapter_names: list[str] | None) -> None:
        for layer in layers_of(self.model):
            for adapter in adapter_names or layer.active_adapters:
                layer.check_merge(adapter)

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: list[str] | None = None
    ) -> nn.Module:
        """Return the plain model with the adapters' rows merged."""
        self._check_names(adapter_names)
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
            if isinstance(layer, WeightLayer) and adapter_name in layer.neuroglot_layout:
                expected = {
                    f"{name}.{key}": tuple(value.shape)
                    for key, value in layer.state_dict().items()
                    if _belongs(key, adapter_name)
                }
                check_tensors(layer.module_name, expected, mapped)
                size = layer.out_features if layer.units_are_outputs(adapter_name) else layer.in_features
                check_rows(layer.module_name, mapped[f"{name}.neuroglot_rows.{adapter_name}"], size)
                known |= set(expected)
        foreign = sorted(key for key in mapped if f".{cls.prefix}" in key and key not in known)
        if foreign:
            raise UserError(
                f"adapter: unexpected tensor {foreign[0]}; load it on the base model that it was trained on, with the "
                "adapter_config.json that was saved with it"
            )
        return mapped


def _with_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the adapters of the samples to a module that PEFT trains whole (`modules_to_save`)."""
    return args, {**kwargs, "adapter_names": names}


def _memory(parameter: torch.Tensor) -> tuple[int, int]:
    """Return where a parameter's values begin and end, which shows ties between objects and between parts of them."""
    if type(parameter.data) is not torch.Tensor or parameter.is_meta or not parameter.data_ptr():
        return -id(parameter), 1 - id(parameter)  # it has no memory to compare
    return parameter.data_ptr(), parameter.data_ptr() + parameter.numel() * parameter.element_size()


def _belongs(key: str, adapter: str) -> bool:
    """Whether a layer's state key (`neuroglot_delta.<adapter>.<group>`) is the adapter's."""
    parts = key.split(".")
    return parts[0].startswith(NeuroglotModel.prefix) and len(parts) > 1 and parts[1] == adapter
