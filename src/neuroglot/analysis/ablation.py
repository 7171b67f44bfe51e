"""Causal ablation: does silencing the neurons of a pair hurt that pair more than the others, and more than chance?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroglot.analysis import figures
from neuroglot.analysis.context import Figure, Found, Kind, Setting, Table, Work, interval, text_pairs
from neuroglot.analysis.statistics import Array, resamples, spanned
from neuroglot.data.corpus import items_in_turn
from neuroglot.errors import UserError
from neuroglot.file_format import ADAPTER, digests, read_manifest
from neuroglot.models.families import family_of
from neuroglot.neurons.inventory import Layer
from neuroglot.neurons.profiling.positions import Positions, forward_inputs, unpack
from neuroglot.selection import Group, group_name

if TYPE_CHECKING:
    from neuroglot.analysis.context import Setting
    from neuroglot.data.example import Example


# ---- Silencing units ------------------------------------------------------------------------------------------------
# A unit is a row of a layer (its output is set to zero, or to its mean over data), a column (its input is), or a unit
# of a feed-forward block (what goes into the writing matrix is). Hooks do it, so that quantised weights can stay as
# they are; a bare matrix, which no module yields, has its weights zeroed for the time.


@dataclass(frozen=True)
class Place:
    """Where a layer's units are found in the model: the outputs or the inputs of a module, or an axis of a matrix."""

    module: str
    side: str
    axis: int = 0


def place_of(model: nn.Module, layer: Layer | str, axis: int = 0) -> Place:
    """Return where the units of a profile's layer, or of a selection's module with its axis, are.

    Raises:
        UserError: the model has no such module.
    """
    if isinstance(layer, Layer):
        if layer.writes:
            return Place(layer.writes, "inputs")
        return place_of(model, layer.name, layer.axis)
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(modules.get(layer), nn.Linear):
        return Place(layer, "inputs" if axis else "outputs")
    if layer in modules:  # transformers' Conv1D, stored as [inputs, outputs]
        return Place(layer, "outputs" if axis else "inputs")
    if not any(name == layer for name, _ in model.named_parameters()):
        raise UserError(f"the model has no layer {layer!r} to ablate; give a selection that was made for this model")
    return Place(layer, "matrix", axis)


def size_of(model: nn.Module, place: Place) -> int:
    """Return how many units there are at a place."""
    if place.side == "matrix":
        return model.get_parameter(place.module).shape[place.axis]
    module = model.get_submodule(place.module)
    if isinstance(module, nn.Linear):
        return module.out_features if place.side == "outputs" else module.in_features
    weight: Any = module.weight  # of a Conv1D, stored as [inputs, outputs]
    return int(weight.shape[1 if place.side == "outputs" else 0])


@contextmanager
def ablated(
    model: nn.Module, units: Mapping[Place, Tensor], means: Mapping[Place, Tensor] | None = None
) -> Iterator[None]:
    """Silence units for the time of the block.

    Args:
        model: any.
        units: place -> indices.
        means: place -> what all its units yield instead of zero.

    Raises:
        UserError: a mean is asked of a bare matrix, of which no module yields the output.
    """
    with ExitStack() as stack:
        for position, index in units.items():
            if not len(index):
                continue
            if position.side == "matrix":
                if means is not None:
                    raise UserError(f"{position.module} is a bare matrix, whose units have no mean; use --ablate zero")
                stack.enter_context(_zeroed(model.get_parameter(position.module), position.axis, index))
                continue
            module = model.get_submodule(position.module)
            value = None if means is None else means[position][index]
            if position.side == "outputs":
                stack.callback(module.register_forward_hook(_output_hook(index, value)).remove)
            else:
                stack.callback(module.register_forward_pre_hook(_input_hook(index, value)).remove)
        yield


def _output_hook(index: Tensor, value: Tensor | None) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda module, args, output: _filled(output, index, value)


def _input_hook(index: Tensor, value: Tensor | None) -> Callable[[nn.Module, Any], tuple[Any, ...]]:
    return lambda module, args: (_filled(args[0], index, value), *args[1:])


def _filled(x: Tensor, index: Tensor, value: Tensor | None) -> Tensor:
    """Return x with what lies at the indices of its last axis replaced."""
    x = x.clone()
    x[..., index.to(x.device)] = 0 if value is None else value.to(x)
    return x


@contextmanager
def _zeroed(matrix: nn.Parameter, axis: int, index: Tensor) -> Iterator[None]:
    index = index.to(matrix.device)
    kept = matrix.data.index_select(axis, index)
    try:
        matrix.data.index_fill_(axis, index, 0)
        yield
    finally:
        matrix.data.index_copy_(axis, index, kept)


@torch.no_grad()
def mean_units(model: nn.Module, places: Mapping[Place, str], batches: Iterable[Sequence[Any]]) -> dict[Place, Tensor]:
    """Return what the units of modules yield on average, over the tokens of a sample and then over samples.

    Args:
        model: in evaluation mode.
        places: place -> the part that it is in.
        batches: as for a profile.
    """
    family = family_of(model)
    sums: dict[Place, Tensor] = {}
    now: dict[str, Positions] = {}
    samples = 0

    def keep(place: Place, part: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any = None) -> None:
            value = args[0] if place.side == "inputs" else output
            layer = Layer(place.module, part, value.shape[-1], 0, False)
            total = now["positions"].average(layer, value.float())[:, 0].sum(0)
            sums[place] = sums[place] + total if place in sums else total

        return hook

    with ExitStack() as stack:
        for place, part in places.items():
            if place.side == "matrix":
                continue
            module = model.get_submodule(place.module)
            register = module.register_forward_hook if place.side == "outputs" else module.register_forward_pre_hook
            stack.callback(register(keep(place, part)).remove)
        for batch in batches:
            inputs, _, _ = unpack(batch)
            now["positions"] = Positions(model, family, inputs, ("all",))
            model(**forward_inputs(model, inputs, gradient=False), use_cache=False)
            samples += len(inputs["input_ids"])
    return {place: total / samples for place, total in sums.items()}


# ---- The cost of silencing: loss on held-out targets ----------------------------------------------------------------
# Legend: I items, K pairs.


class Losses:
    """Measures the loss of held-out examples again and again: nats of each target, inputs made once."""

    def __init__(self, setting: Setting, model: Any) -> None:
        from neuroglot.systems import HFSystem

        self.examples: list[Example] = setting.heldout
        self.items = list(dict.fromkeys(e.item for e in self.examples))
        self.pairs = [pair for pair in setting.context.corpus.pairs if any(str(e.pair) == pair for e in self.examples)]
        self._at = [(self.items.index(e.item), self.pairs.index(str(e.pair))) for e in self.examples]
        self._progress = setting.progress
        batcher: Any = _Remembering(setting.context.batcher)  # only asked for likelihoods
        self._system = HFSystem(model, batcher, "ablated", setting.recipe.evaluate.batch_size)
        self.characters = self.spread([len(e.target) for e in self.examples])

    def nats(self) -> Array:
        """Return the nats of each target: (items, pairs), 0 where an item lacks a pair."""
        result = self.spread(self._system.nll(self.examples))
        self._progress(len(self.examples))
        return result

    def spread(self, values: Sequence[float]) -> Array:
        """Return values of the examples by item and pair."""
        table = np.zeros((len(self.items), len(self.pairs)))
        for (i, k), value in zip(self._at, values, strict=True):
            table[i, k] = value
        return table

    def per_character(self, nats: Array, weights: Array) -> Array:
        """Return nats per character of each pair, items weighted: (..., I, K) and (I,) -> (..., K)."""
        return np.asarray(np.einsum("...ik,i->...k", nats, weights) / np.maximum(weights @ self.characters, 1e-12))


class _Remembering:
    """A batcher that makes the inputs of the same examples once."""

    def __init__(self, batcher: Any) -> None:
        self._batcher = batcher
        self._made: dict[tuple[int, ...], dict[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batcher, name)

    def encode(self, examples: Sequence[Example]) -> dict[str, Any]:
        key = tuple(map(id, examples))  # the examples live as long as this does
        if key not in self._made:
            self._made[key] = self._batcher.encode(examples)
        return dict(self._made[key])


# ---- The ablation matrix: groups by pairs, beside random groups of the same size ------------------------------------

DRAWS = 5
"""Random groups at least."""
RESAMPLES = 1000

Silence = Callable[[Mapping[str, Tensor]], AbstractContextManager[None]]
"""Makes a context in which units (layer -> indices) are silenced."""
Groups = Mapping[str, tuple[Group, Mapping[str, Tensor]]]
"""Name -> its pairs, and its units: layer -> indices."""


def draws_of(setting: Setting) -> int:
    """Return the number of random groups."""
    return max(DRAWS, setting.seeds)


def matrix(
    losses: Losses, base: Array, groups: Groups, silence: Silence, pool: Mapping[str, Tensor], draws: int
) -> Found:
    """Silence each group, and random groups of its size per layer; return the loss added for every pair.

    Args:
        losses: what is measured.
        base: nats before, (items, pairs).
        groups: what is silenced.
        silence: how.
        pool: layer -> the units that random groups are drawn from.
        draws: random groups for each group.
    """
    own, random = [], []
    for position, (_, units) in enumerate(groups.values()):
        with silence(units):
            own.append(losses.nats() - base)
        drawn = []
        for draw in range(draws):
            with silence(drawn_like(units, pool, seed=1000 * draw + position)):
                drawn.append(losses.nats() - base)
        random.append(drawn)
    a, r = np.stack(own), np.stack([np.stack(drawn) for drawn in random])  # (G, I, K), (G, R, I, K)
    members = [group for group, _ in groups.values()]
    masks = np.array([[pair in group for pair in losses.pairs] for group in members])  # (G, K)
    ones = np.ones(len(losses.items))
    return {
        "names": list(groups),
        "sizes": [sum(len(index) for index in units.values()) for _, units in groups.values()],
        "matrix": losses.per_character(a, ones).tolist(),
        "random": losses.per_character(r, ones).mean(1).tolist(),
        **_statistics(losses, a, r, masks),
    }


def drawn_like(units: Mapping[str, Tensor], pool: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return as many units of each layer, drawn at random from the pool."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: pool[name][torch.randperm(len(pool[name]), generator=generator)[: len(index)]].sort().values
        for name, index in sorted(units.items())
    }


def diagonal(added: Array, masks: Array) -> Array:
    """Return how much more a group's own pairs lose than the other pairs, over groups: (..., G, K) -> (...).

    Every pair counts once as own and once, with the others, as other; so a pair that any damage hurts more than the
    rest does not look specific. Groups of all pairs, which have no others, are left out.
    """
    specific = masks.any(1) & ~masks.all(1)
    if not specific.any():
        return np.full(added.shape[:-2], np.nan)
    x, own = added[..., specific, :], masks[specific]
    inside = (x * own).sum(-1) / own.sum(-1)
    other = np.logical_not(own)
    outside = (x * other).sum(-1) / other.sum(-1)
    return np.asarray((inside - outside).mean(-1))


def _statistics(losses: Losses, a: Array, r: Array, masks: Array) -> Found:
    """Return diagonal minus off-diagonal of the groups, of random groups, and their difference, with intervals."""
    rng = np.random.default_rng(0)
    own, chance, mean_own, mean_chance = [], [], [], []
    for index, weights in enumerate(resamples(len(losses.items), RESAMPLES)):
        x = losses.per_character(a, weights)  # (G, K)
        y = losses.per_character(r, weights)  # (G, R, K)
        drawn = rng.integers(0, r.shape[1], r.shape[1]) if index else np.arange(r.shape[1])
        own.append(diagonal(x, masks))
        chance.append(float(diagonal(y[:, drawn].mean(1), masks)))
        mean_own.append(x.mean(1))
        mean_chance.append(y[:, drawn].mean((1, 2)))
    each = [
        float(diagonal(losses.per_character(r[:, d], np.ones(len(losses.items))), masks)) for d in range(r.shape[1])
    ]
    result: Found = {"own_highest": None}
    ones = np.ones(len(losses.items))
    x = losses.per_character(a, ones)
    specific = masks.any(1) & ~masks.all(1)
    if specific.any():
        o, c = np.asarray(own, dtype=float), np.asarray(chance)
        # Fragile pairs lose most whatever is silenced, so a pair's loss is held against its mean over groups.
        relative = x[specific] - x[specific].mean(0)
        best = relative.argmax(1)
        result = {
            "own_highest": int(sum(masks[specific][g, k] for g, k in enumerate(best))),
            "specific_groups": int(specific.sum()),
            "diagonal": spanned(o),
            "diagonal_random": spanned(c),
            "diagonal_random_each": each,
            "diagonal_beyond_random": spanned(o - c),
        }
    mo, mc = np.stack(mean_own), np.stack(mean_chance)  # (draws, G)
    result["harm"] = [spanned(mo[:, g]) for g in range(mo.shape[1])]
    result["harm_random"] = [spanned(mc[:, g]) for g in range(mc.shape[1])]
    result["harm_beyond_random"] = [spanned(mo[:, g] - mc[:, g]) for g in range(mo.shape[1])]
    return result


# ---- Ablation in the trained model: what one group learned is removed -----------------------------------------------


def measure_trained(setting: Setting, groups: Groups) -> Found:
    """Take what each group learned out of the trained model; random groups are drawn from all trained units."""
    from neuroglot.pipeline.evaluation import with_adapter

    adapter, selection = (setting.context.path(name) for name in ("adapter", "selection.safetensors"))
    if read_manifest(adapter, ADAPTER)["made_from"].get("selection") != digests(selection):
        return {"skipped": "the adapter was trained on another selection"}
    names = dict.fromkeys(name for _, units in groups.values() for name in units)
    trained = {n: torch.cat([units[n] for _, units in groups.values() if n in units]).sort().values for n in names}
    axes = {name: setting.selection.axes.get(name, 0) for name in names}
    model = setting.context.model()
    if not all(_weights(model, name, axes[name])[0].is_floating_point() for name in names):
        return {"skipped": "the base is quantised, and its rows cannot be exchanged"}
    before = {name: _taken(model, name, axes[name], index) for name, index in trained.items()}
    model = with_adapter(model, adapter)

    def restored(units: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return exchanged(model, units, axes, trained, before)

    losses = Losses(setting, model)
    whole = losses.nats()
    result = matrix(losses, whole, groups, restored, trained, draws_of(setting))
    return {"base": losses.per_character(whole, np.ones(len(losses.items))).tolist(), **result}


Held = tuple[Tensor, Tensor | None]
"""Units of a weight, on its axis 0, and their bias entries."""


@contextmanager
def exchanged(
    model: nn.Module,
    units: Mapping[str, Tensor],
    axes: Mapping[str, int],
    known: Mapping[str, Tensor],
    before: Mapping[str, Held],
) -> Iterator[None]:
    """Put other values into units of a model for the time of the block.

    Args:
        model: a plain model.
        units: module -> indices to exchange.
        axes: module -> the axis that its units are on.
        known: module -> indices, ascending, that `before` has values of.
        before: module -> values.
    """
    after = {name: _taken(model, name, axes[name], index) for name, index in units.items()}
    try:
        for name, index in units.items():
            weight, bias = before[name]
            places = torch.searchsorted(known[name], index)
            _put(model, name, axes[name], index, (weight[places], None if bias is None else bias[places]))
        yield
    finally:
        for name, index in units.items():
            _put(model, name, axes[name], index, after[name])


def _taken(model: nn.Module, name: str, axis: int, index: Tensor) -> Held:
    weight, bias = _weights(model, name, axis)
    return (weight.t() if axis else weight)[index.to(weight.device)].clone(), (
        None if bias is None else bias[index.to(bias.device)].clone()
    )


def _put(model: nn.Module, name: str, axis: int, index: Tensor, values: Held) -> None:
    weight, bias = _weights(model, name, axis)
    (weight.t() if axis else weight)[index.to(weight.device)] = values[0]
    if bias is not None and values[1] is not None:
        bias[index.to(bias.device)] = values[1]


def _weights(model: nn.Module, name: str, axis: int) -> tuple[Tensor, Tensor | None]:
    """Return a weight, and the bias where the units are outputs."""
    modules = dict(model.named_modules())
    if name not in modules:
        return model.get_parameter(name).data, None
    module: Any = modules[name]
    outputs = axis == (0 if isinstance(module, nn.Linear) else 1)
    bias = getattr(module, "bias", None) if outputs else None
    return module.weight.data, None if bias is None else bias.data


# ---- Measuring ------------------------------------------------------------------------------------------------------
# Three questions, on items that were neither profiled nor trained on: the selection's groups silenced in the base
# model; in the trained model, what a group learned taken out; and, ranked by how specific they are to a pair, growing
# shares of all neurons silenced. Beside each stand random groups of the same size in each layer.

DOSES = (0.005, 0.01, 0.02, 0.05, 0.1)
AGNOSTIC = "all pairs"


def work(setting: Setting) -> Work:
    groups = len({group for _, group, _ in setting.selection})
    pairs = len(text_pairs(setting.profile, setting.task))
    draws = draws_of(setting)
    times = 1 + groups * (1 + draws) + len(DOSES) * (pairs + draws)
    if setting.context.path("adapter").is_dir():
        times += 1 + groups * (1 + draws)
    return Work(forward=times * len(setting.heldout) + (setting.items * pairs if setting.ablate == "mean" else 0))


def measure(setting: Setting) -> Found:
    """Silence what there is to silence."""
    model, losses = setting.model, Losses(setting, setting.model)
    groups = groups_of(setting)
    axes = setting.selection.axes
    names = dict.fromkeys(name for _, units in groups.values() for name in units)
    chosen = {name: place_of(model, name, axes.get(name, 0)) for name in names}
    ranked = {layer.name: place_of(model, layer) for layer in setting.profile.layers if layer.part in setting.parts}
    means = _means(setting, [*chosen.values(), *ranked.values()]) if setting.ablate == "mean" else None

    def silence(places: Mapping[str, Place]) -> Silence:
        return lambda units: ablated(model, {places[name]: index for name, index in units.items()}, means)

    base = losses.nats()
    pool = {name: torch.arange(size_of(model, position)) for name, position in chosen.items()}
    result: Found = {
        "ablate": setting.ablate,
        "pairs": losses.pairs,
        "items": len(losses.items),
        "draws": draws_of(setting),
        "base": losses.per_character(base, np.ones(len(losses.items))).tolist(),
        "groups": matrix(losses, base, groups, silence(chosen), pool, draws_of(setting)),
        "doses": doses(losses, base, setting, silence(ranked)),
        "interval": "95 % bootstrap interval over held-out items; of differences to random groups over draws as well",
    }
    if setting.context.path("adapter").is_dir():
        result["trained"] = measure_trained(setting, groups)
    return result


def groups_of(setting: Setting) -> Groups:
    """Return the groups of the selection: the specific ones in the order of the pairs, then the agnostic one."""
    units: dict[Group, dict[str, Tensor]] = {}
    for module, group, index in setting.selection:
        units.setdefault(group, {})[module] = index
    agnostic = setting.selection.agnostic
    places = {pair: position for position, pair in enumerate(setting.context.corpus.pairs)}
    order = sorted(units, key=lambda group: (group == agnostic, sorted(places.get(p, len(places)) for p in group)))
    single = len(agnostic) == 1  # then the one group is specific and agnostic at once
    return {AGNOSTIC if g == agnostic and not single else group_name(g): (g, units[g]) for g in order}


def _means(setting: Setting, places: Sequence[Place]) -> dict[Place, Tensor]:
    from neuroglot.models.families import family_of

    family = family_of(setting.model)
    parts = {position: family.part_of(position.module) or "language" for position in places}
    examples = list(items_in_turn(setting.context.corpus.profile, setting.items))
    batches = setting.context.batcher.batches(examples, setting.recipe.profile.batch_size)
    result = mean_units(setting.model, parts, batches)
    setting.progress(len(examples))
    return result


def ranked_for(setting: Setting, pair: int) -> dict[str, Tensor]:
    """Return layer -> its neurons from the most to the least specific to a pair of the task, by its place.

    The key is how much a neuron's importance for the pair exceeds its mean over the other pairs, of its mean over all;
    neurons that are nearly dead (best importance below a tenth of the layer's mean best) come last.
    """
    conditions = setting.profile.of_task(setting.task)
    importance = setting.profile.importance(setting.score, setting.token_class, conditions)
    others = [k for k in range(len(conditions)) if k != pair]
    ranked = {}
    for name, x in importance.items():
        mean, best = x.mean(0), x.amax(0)
        key = (x[pair] - x[others].mean(0)) / mean.masked_fill(mean == 0, 1)
        alive = (best >= 0.1 * best.mean()) & (mean > 0)
        ranked[name] = torch.argsort(torch.where(alive, key, key.min() - 1), descending=True, stable=True)
    return ranked


def doses(losses: Losses, base: Array, setting: Setting, silence: Silence) -> Found | None:
    """Silence growing shares of all neurons, ranked by how specific they are to each pair; None for one pair.

    Every layer gives the same share, so all pairs' groups have the same sizes and share their random groups.
    """
    from neuroglot.neurons.selecting.rows import quotas

    pairs = text_pairs(setting.profile, setting.task)
    if len(pairs) < 2:
        return None
    layers = [layer for layer in setting.profile.layers if layer.part in setting.parts]
    ranked = {pair: ranked_for(setting, index) for index, pair in enumerate(pairs)}
    pool = {layer.name: torch.arange(layer.neurons) for layer in layers}
    total = sum(layer.neurons for layer in layers)
    masks = np.array([[other == pair for other in losses.pairs] for pair in pairs if pair in losses.pairs])
    rows = []
    for dose in DOSES:
        counts = dict(zip(pool, quotas([layer.neurons for layer in layers], total, dose), strict=True))
        own = []
        for pair in pairs:
            if pair in losses.pairs:
                with silence({name: ranked[pair][name][:count] for name, count in counts.items() if count}):
                    own.append(losses.nats() - base)
        like = {name: torch.empty(count) for name, count in counts.items() if count}
        drawn = []
        for draw in range(draws_of(setting)):
            with silence(drawn_like(like, pool, seed=7_000_000 + draw)):
                drawn.append(losses.nats() - base)
        a, r = np.stack(own), np.stack(drawn)
        rng = np.random.default_rng(0)
        values: dict[str, list[float]] = {name: [] for name in ("own", "others", "random", "gap", "beyond")}
        for index, weights in enumerate(resamples(len(losses.items), RESAMPLES)):
            x, y = losses.per_character(a, weights), losses.per_character(r, weights)
            chosen = rng.integers(0, len(r), len(r)) if index else np.arange(len(r))
            inside = float((x * masks).sum() / masks.sum())
            outside = float((x * ~masks).sum() / (~masks).sum())
            random = float(y[chosen].mean())
            for name, value in zip(values, (inside, outside, random, inside - outside, inside - random), strict=True):
                values[name].append(value)
        rows.append(
            {
                "share": dose,
                "neurons": sum(counts.values()),
                **{name: spanned(np.asarray(value)) for name, value in values.items()},
                "matrix": losses.per_character(a, np.ones(len(losses.items))).tolist(),
            }
        )
    return {"pairs": [pair for pair in pairs if pair in losses.pairs], "rows": rows}


# ---- Sentence, tables and figures -----------------------------------------------------------------------------------


def verdict(value: Mapping[str, float]) -> str:
    """Return what an interval says: `more`, `less`, or `no more` where it holds zero."""
    return "more" if value["low"] > 0 else "less" if value["high"] < 0 else "no more"


def _diagonal(result: Found, what: str) -> str:
    if "diagonal" not in result:
        return f"{what}: there is no group of fewer than all pairs to compare."
    d, beyond = result["diagonal"], result["diagonal_beyond_random"]
    return (
        f"{what}, a group's own pairs lose {d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}] nats a character "
        f"against the other pairs; that is {verdict(beyond)} than with random groups of the same size "
        f"({beyond['mean']:+.4f} [{beyond['low']:+.4f}, {beyond['high']:+.4f}]), and the own pair is hit hardest in "
        f"{result['own_highest']} of {result['specific_groups']} groups."
    )


def sentence(result: Found) -> str:
    how = "zero" if result["ablate"] == "zero" else "their means"
    text = _diagonal(result["groups"], f"When the chosen groups are set to {how} in the base model")
    if "names" in result.get("trained", {}):
        text += " " + _diagonal(result["trained"], "When what a group learned is taken out of the trained model")
    if result["doses"]:
        text += " " + _doses(result["doses"]["rows"])
    return text


def _doses(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say at which dose own and other pairs are furthest apart, and whether the largest one still tells them apart."""
    best = max(rows, key=lambda row: row["gap"]["low"])
    if best["gap"]["low"] <= 0:
        return (
            "Ranked by how specific they are to a pair, no share of the neurons costs that pair more than the others."
        )
    cost, last = {name: f"{best[name]['mean']:+.2f}" for name in ("own", "others", "random")}, rows[-1]
    text = (
        f"Of all neurons, the {100 * best['share']:g} % most specific to a pair cost it {cost['own']} nats a "
        f"character when silenced, the other pairs {cost['others']}; as many random neurons cost {cost['random']}"
    )
    if last is not best:
        told = "still cost it more" if last["gap"]["low"] > 0 else "no longer cost it more"
        text += f". The {100 * last['share']:g} % most specific ones {told} than the other pairs"
    return f"{text}."


def tables(result: Found) -> list[Table]:
    tables = []
    for key, title in (("groups", "the base model"), ("trained", "the trained model, what a group learned taken out")):
        part = result.get(key)
        if not part or "skipped" in part:
            continue
        head = ["group", "neurons", *result["pairs"], "mean", "random, mean"]
        rows = [
            [name, f"{size:,}", *(f"{value:+.4f}" for value in row), interval(harm, 4), interval(chance, 4)]
            for name, size, row, harm, chance in zip(
                part["names"], part["sizes"], part["matrix"], part["harm"], part["harm_random"], strict=True
            )
        ]
        tables.append(Table(f"Nats a character added for each pair: {title}", [head, *rows]))
        if "diagonal" in part:
            own = [["", "own pairs less other pairs"]]
            own += [
                [label, interval(part[name], 4)]
                for label, name in (
                    ("groups", "diagonal"),
                    ("random groups", "diagonal_random"),
                    ("difference", "diagonal_beyond_random"),
                )
            ]
            tables.append(Table(f"Diagonal less off-diagonal: {title}", own))
    if result["doses"]:
        head = ["neurons silenced", "own pair", "other pairs", "random neurons", "own less other", "own less random"]
        rows = [
            [f"{100 * row['share']:g} % ({row['neurons']:,})"]
            + [interval(row[name], 3) for name in ("own", "others", "random", "gap", "beyond")]
            for row in result["doses"]["rows"]
        ]
        tables.append(Table("Dose and response: nats a character added", [head, *rows]))
    return tables


def figures_of(result: Found) -> list[Figure]:
    made = []
    for key, title in (("groups", "base model"), ("trained", "trained model")):
        part = result.get(key)
        if part and "skipped" not in part:
            # The agnostic group, many times as large, would leave the others one colour.
            rows = [index for index, name in enumerate(part["names"]) if name != AGNOSTIC]
            if len(rows) < 2:
                continue
            names = [part["names"][index] for index in rows]
            alt = f"Heat map of {len(rows)} groups by {len(result['pairs'])} pairs, {title}, beside random groups."
            panels = {
                f"{label} · {title}": _relative([part[kind][index] for index in rows])
                for label, kind in (("groups", "matrix"), ("random groups of their size", "random"))
            }
            unit = "nats a character added, less the pair's mean over groups"
            made.append(Figure(f"ablation-{key}", alt, figures.heat(panels, names, result["pairs"], unit)))
    if result["doses"]:
        doses: Sequence[Any] = result["doses"]["rows"]
        x = [100 * row["share"] for row in doses]
        curves = (
            ("own pair", "own", "system-5"),
            ("other pairs", "others", "system-1"),
            ("random", "random", "system-0"),
        )
        lines = [figures.Line(label, x, [row[key] for row in doses], colour) for label, key, colour in curves]
        draw = figures.lines({"nats a character added": lines}, "neurons silenced, %", log=True)
        made.append(Figure("ablation-dose", "Lines of loss added against the share of neurons silenced.", draw))
    return made


def _relative(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Take each pair's mean over the groups off, for pairs differ in how much any damage hurts them."""
    x = np.asarray(rows)
    relative: list[list[float]] = (x - x.mean(0)).tolist()
    return relative


KIND = Kind(
    name="ablation",
    title="Causal ablation: do a pair's neurons serve that pair",
    question="Does silencing the neurons of a pair hurt that pair more than the others, and more than chance?",
    version=1,
    work=work,
    measure=measure,
    sentence=sentence,
    tables=tables,
    figures=figures_of,
    reads=("profile.safetensors", "selection.safetensors", "adapter"),
    options=("items", "seeds", "ablate"),
)
