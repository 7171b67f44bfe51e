"""A saved adapter grows by a pair, and is cut down to some; what stays is the same to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_llava import ALL, DE, DE_CS, FR, LANGUAGE, MODULES, batch, deltas, fill_deltas, logits, tiny_llava

from neuroglot.errors import UserError
from neuroglot.file_format import ADAPTER, read_manifest, write_manifest
from neuroglot.selection import Selection
from neuroglot.tuner import NeuroglotConfig, active_pair, selection_of
from neuroglot.tuner.adapter import Adapter
from neuroglot.tuner.grow import drop_pairs, grow, keep_pairs, without_trained

OLD = ("en-de", "en-fr")
BOTH, CS = frozenset(OLD), frozenset({"en-cs"})
COLUMNS = f"{LANGUAGE}.0.mlp.down_proj"
NEW_MODULE = f"{LANGUAGE}.1.self_attn.o_proj"


def two_pairs(count: int = 3) -> Selection:
    """Rows (of one module: columns) for two pairs and for both, and nothing in the last module."""
    rows = {
        module: {
            group: torch.arange(i * count, (i + 1) * count) for i, group in enumerate((BOTH, DE, frozenset({"en-fr"})))
        }
        for module in MODULES[:-1]
    }
    return Selection(OLD, rows, axes={COLUMNS: 1})


def czech(count: int = 3) -> Selection:
    """Rows for a third pair in the same modules, in one that had groups left out, and in one that is new."""
    rows = {module: {CS: torch.arange(12, 12 + count)} for module in (*MODULES, NEW_MODULE)}
    return Selection((*OLD, "en-cs"), rows, axes={COLUMNS: 1})


def trained(model, pairs: tuple[str, ...], steps: int, seed: int = 0):
    """Train with momentum and weight decay, a pair a step."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        with active_pair(model, pairs[step % len(pairs)]):
            model(**batch(seed + step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(params=[None, 2], ids=["dense", "rank-2"])
def saved(request, tmp_path: Path) -> Path:
    """An adapter trained on two pairs."""
    config = NeuroglotConfig.from_selection(two_pairs(), rank=request.param)
    model = trained(get_peft_model(tiny_llava(bias=True), config), OLD, 6)
    model.save_pretrained(tmp_path / "two")
    return tmp_path / "two"


def filled(folder: Path, rank: int | None = None, selection: Selection | None = None) -> Adapter:
    """A saved adapter with random deltas."""
    model = get_peft_model(tiny_llava(bias=True), NeuroglotConfig.from_selection(selection or two_pairs(), rank=rank))
    fill_deltas(model)
    model.save_pretrained(folder)
    return Adapter.load(folder)


def on(folder: Path, base=None) -> torch.Tensor:
    """The logits of an adapter on its base."""
    return logits(PeftModel.from_pretrained(base or tiny_llava(bias=True), str(folder)))


# ---- reading and writing ------------------------------------------------------------------------------------------


def test_what_is_written_is_what_was_read(saved, tmp_path):
    adapter = Adapter.load(saved)
    adapter.save(tmp_path / "copy")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (saved, tmp_path / "copy"))
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (tmp_path / "copy" / "adapter_config.json").read_text() == (saved / "adapter_config.json").read_text()
    assert torch.equal(on(saved), on(tmp_path / "copy"))
    assert read_manifest(tmp_path / "copy", ADAPTER)["pairs"] == list(OLD)
    with pytest.raises(UserError, match="exists and is not empty"):
        adapter.save(saved)


def test_a_seal_is_checked_and_what_it_says_is_kept(saved, tmp_path):
    write_manifest(saved, ADAPTER, {"base": "embedded", "made_from": {"model": "0123"}})
    Adapter.load(saved).save(tmp_path / "copy")
    facts = read_manifest(tmp_path / "copy", ADAPTER)
    assert (facts["base"], facts["made_from"]) == ("embedded", {"model": "0123"})
    weights = saved / "adapter_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(UserError, match="is damaged or was changed since"):
        Adapter.load(saved)


def test_nothing_is_left_of_a_folder_that_could_not_be_written(saved, tmp_path, monkeypatch):
    adapter = Adapter.load(saved)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        adapter.save(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def _without(folder: Path, name: str) -> None:
    (folder / name).unlink()


def _tensor(folder: Path, change) -> None:
    weights = folder / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)


BROKEN = {
    "no configuration": (lambda f: _without(f, "adapter_config.json"), "adapter_config.json is missing"),
    "no weights": (lambda f: _without(f, "adapter_model.safetensors"), "adapter_model.safetensors is missing"),
    "another type": (
        lambda f: (f / "adapter_config.json").write_text('{"peft_type": "LORA"}'),
        "is of type LORA, expected NEUROGLOT",
    ),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "no safetensors": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"half"), "cannot be read"),
    "a tensor less": (lambda f: _tensor(f, lambda t: dict(list(t.items())[:-1])), "it is missing"),
    "a tensor more": (lambda f: _tensor(f, lambda t: {**t, "other": torch.ones(1)}), "does not name: other"),
    "another shape": (
        lambda f: _tensor(f, lambda t: {name: value[1:].clone() for name, value in t.items()}),
        "expected",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_folder_is_named(tmp_path, broken):
    filled(tmp_path / "a")
    change, said = BROKEN[broken]
    change(tmp_path / "a")
    with pytest.raises(UserError, match=said) as found:
        Adapter.load(tmp_path / "a")
    assert str(tmp_path / "a") in str(found.value)
    assert "\n" not in str(found.value)


# ---- growing ------------------------------------------------------------------------------------------------------


def test_a_pair_that_is_added_and_trained_leaves_everything_else_as_it_was(saved, tmp_path):
    base = tiny_llava(bias=True)
    grown = grow(Adapter.load(saved), czech(), base)
    assert grown.pairs == (*OLD, "en-cs")
    grown.save(tmp_path / "three")
    assert torch.equal(on(saved), on(tmp_path / "three"))  # zero deltas change nothing

    model = PeftModel.from_pretrained(base, str(tmp_path / "three"), is_trainable=True)
    frozen = {name: value.clone() for name, value in base.state_dict().items() if "neuroglot_" not in name}
    trained(model, ("en-cs",), 6, seed=50)
    model.save_pretrained(tmp_path / "after")

    before, after = Adapter.load(saved), Adapter.load(tmp_path / "after")
    for module, group, units in before:
        found = after.units[module][group]
        assert torch.equal(units.rows, found.rows)
        assert all(torch.equal(a, b) for a, b in zip(units.delta, found.delta, strict=True))
        assert (units.bias is None) == (found.bias is None)
        assert units.bias is None or torch.equal(units.bias, found.bias)
    new = [(module, units) for module, group, units in after if group == "en-cs"]
    assert {module for module, _ in new} == {*MODULES, NEW_MODULE}
    for module, units in new:
        assert bool(units.dense.any(dim=1).all()), module
        assert units.bias is None or bool(units.bias.all()), module
    assert any(units.bias is not None for _, units in new)
    unloaded = model.unload().state_dict()
    assert set(unloaded) == {name.replace(".base_layer.", ".") for name in frozen}
    assert all(torch.equal(value, unloaded[name.replace(".base_layer.", ".")]) for name, value in frozen.items())


def test_grown_groups_are_stored_in_the_order_that_the_configuration_gives(tmp_path):
    """PEFT sorts the JSON: en-cs comes before en-de, and the rows must come in that order too."""
    filled(tmp_path / "a")
    grow(Adapter.load(tmp_path / "a"), czech(), tiny_llava(bias=True)).save(tmp_path / "b")
    model = PeftModel.from_pretrained(tiny_llava(bias=True), str(tmp_path / "b"))
    found = selection_of(model)
    for module, groups in two_pairs().rows.items():
        assert {group: index.tolist() for group, index in found.rows[module].items()} == {
            **{group: index.tolist() for group, index in groups.items()},
            CS: [12, 13, 14],
        }


def test_factors_of_new_groups_are_seeded_and_give_a_gradient(tmp_path):
    adapter = filled(tmp_path / "a", rank=2)
    one, same, other = (grow(adapter, czech(), tiny_llava(bias=True), seed=seed) for seed in (0, 0, 1))
    for module, group, units in one:
        if group == "en-cs":
            assert not units.delta[0].any()
            assert units.delta[1].all()
            assert torch.equal(units.delta[1], same.units[module][group].delta[1])
            assert not torch.equal(units.delta[1], other.units[module][group].delta[1])


def _rows(module: str, group: frozenset[str], rows: list[int], axes: dict[str, int] | None = None) -> Selection:
    return Selection((*OLD, "en-cs"), {module: {group: torch.tensor(rows)}}, axes=axes or {})


REFUSED = {
    "a row that is taken": (_rows(MODULES[0], CS, [20, 4]), "row 4 belongs to the adapter's group en-de"),
    "an old group": (_rows(MODULES[0], DE, [20]), "the adapter has a group en-de already"),
    "the old agnostic group": (_rows(MODULES[0], BOTH, [20]), "the adapter has a group en-de,en-fr already"),
    "another axis": (_rows(COLUMNS, CS, [20]), "lie on axis 0, the adapter's on 1"),
    "no such row": (_rows(MODULES[0], CS, [32]), "row 32 is out of range; expected 0 to 31"),
    "a negative row": (_rows(MODULES[0], CS, [-1]), "row -1 is out of range"),
    "no such module": (_rows(f"{LANGUAGE}.1.self_attn.a_proj", CS, [1]), "has no module"),
    "no row": (Selection((*OLD, "en-cs"), {}), "holds no row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_growing_refuses(tmp_path, case):
    adapter = filled(tmp_path / "a")
    selection, said = REFUSED[case]
    with pytest.raises(UserError, match=said):
        grow(adapter, selection, tiny_llava(bias=True))


def test_the_base_is_needed_only_for_modules_that_are_new(tmp_path):
    adapter = filled(tmp_path / "a")
    known = Selection((*OLD, "en-cs"), {module: czech().rows[module] for module in MODULES[:-1]}, axes={COLUMNS: 1})
    with pytest.raises(UserError, match=f"no units in {MODULES[-1]}.*base=model"):
        grow(adapter, czech())
    alone, beside = grow(adapter, known), grow(adapter, known, tiny_llava(bias=True))
    assert set(alone.tensors()) == set(beside.tensors())
    with torch.device("meta"):
        meta = tiny_llava(bias=True)
    assert {n: t.shape for n, t in grow(adapter, czech(), meta).tensors().items()} == {
        n: t.shape for n, t in grow(adapter, czech(), tiny_llava(bias=True)).tensors().items()
    }


def test_rows_that_are_held_can_be_left_out_of_a_selection(tmp_path):
    adapter = filled(tmp_path / "a")
    rows = {
        MODULES[0]: {CS: torch.tensor([2, 4, 20])},
        MODULES[1]: {CS: torch.arange(9)},
        NEW_MODULE: {CS: torch.arange(2)},
    }
    found = without_trained(adapter, Selection(("en-cs",), rows, {"method": "mnaft"}))
    kept = {
        module: {group: index.tolist() for group, index in groups.items()} for module, groups in found.rows.items()
    }
    assert kept == {MODULES[0]: {CS: [20]}, NEW_MODULE: {CS: [0, 1]}}
    assert found.meta == {"method": "mnaft"}
    assert grow(adapter, found, tiny_llava(bias=True)).pairs == (*OLD, "en-cs")


# ---- some of the pairs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 2, 4], ids=["dense", "rank-2", "rank-4"])
def test_extracted_pairs_keep_what_their_rows_do(tmp_path, rank):
    adapter = filled(tmp_path / "a", rank)
    keep_pairs(adapter, ["en-de"]).save(tmp_path / "de")
    model = PeftModel.from_pretrained(tiny_llava(bias=True), str(tmp_path / "a"))
    for name, parameter in deltas(model).items():  # the same adapter without what only en-fr had trained
        if name.endswith("pairs:en-fr"):
            parameter.data.zero_()
    assert torch.equal(on(tmp_path / "de"), logits(model))
    assert not torch.equal(on(tmp_path / "de"), on(tmp_path / "a"))
    found = Adapter.load(tmp_path / "de")
    assert found.pairs == ("en-de",)
    assert found.groups == ("en-de",)
    # three rows of both pairs and three of en-de; too many for the rank, or of too high a one: dense
    assert {len(units.rows) for _, _, units in found} == {6}
    assert found.config.rank is None


def test_an_extracted_pair_can_be_trained_on(tmp_path):
    keep_pairs(filled(tmp_path / "a"), ["en-de"]).save(tmp_path / "de")
    model = PeftModel.from_pretrained(tiny_llava(bias=True), str(tmp_path / "de"), is_trainable=True)
    before = {name: value.detach().clone() for name, value in deltas(model).items()}
    trained(model, ("en-de",), 2)
    assert all(not torch.equal(before[name], value) for name, value in deltas(model).items())


def test_groups_that_stay_apart_stay_of_low_rank(tmp_path):
    rows = {MODULES[0]: {ALL: torch.arange(4), DE_CS: torch.arange(4, 8), FR: torch.arange(8, 12)}}
    adapter = filled(tmp_path / "a", 2, Selection(("en-cs", "en-de", "en-fr"), rows))
    found = drop_pairs(adapter, ["en-cs"])
    assert found.groups == ("en-de", "en-de,en-fr", "en-fr")
    assert found.config.rank == 2
    for before, after in (("en-cs,en-de,en-fr", "en-de,en-fr"), ("en-cs,en-de", "en-de"), ("en-fr", "en-fr")):
        kept = zip(adapter.units[MODULES[0]][before].delta, found.units[MODULES[0]][after].delta, strict=True)
        assert all(torch.equal(a, b) for a, b in kept)
    found.save(tmp_path / "b")
    assert torch.equal(on(tmp_path / "a"), on(tmp_path / "b"))  # every row has a pair left


def test_a_module_without_a_pair_left_goes(tmp_path):
    rows = {MODULES[0]: {DE: torch.arange(4)}, COLUMNS: {FR: torch.arange(4)}}
    adapter = filled(tmp_path / "a", None, Selection(OLD, rows, axes={COLUMNS: 1}))
    found = drop_pairs(adapter, ["en-fr"])
    assert list(found.units) == [MODULES[0]]
    assert found.config.axes == {}
    assert drop_pairs(adapter, ["en-de"]).config.axes == {COLUMNS: 1}


def test_growing_and_dropping_again_gives_back_the_adapter(tmp_path):
    adapter = filled(tmp_path / "a", 2)
    found = drop_pairs(grow(adapter, czech(), tiny_llava(bias=True)), ["en-cs"])
    assert replace(found.config, rows=None) == replace(adapter.config, rows=None)
    assert all(torch.equal(value, found.tensors()[name]) for name, value in adapter.tensors().items())


@pytest.mark.parametrize("change", [keep_pairs, drop_pairs])
def test_unknown_pairs_and_nothing_left(tmp_path, change):
    adapter = filled(tmp_path / "a")
    with pytest.raises(UserError, match="has no pair 'en-dd'; did you mean en-de"):
        change(adapter, ["en-dd"])
    with pytest.raises(UserError, match="nothing of the adapter is left"):
        change(adapter, OLD if change is drop_pairs else [])
