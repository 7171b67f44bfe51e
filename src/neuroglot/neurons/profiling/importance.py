"""Importance: one forward and backward pass per batch, from which every neuron's scores are added to a profile."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS
from transformers.modeling_layers import GradientCheckpointingLayer

from neuroglot.errors import UserError, nearest
from neuroglot.finite import origin, unusable, usable
from neuroglot.models.families import PARTS, family_of
from neuroglot.models.targets import IGNORED, keeps_some_logits, target_columns
from neuroglot.neurons.ffn import ffn_layers
from neuroglot.neurons.inventory import Layer, check_parts, fingerprint, inventory
from neuroglot.neurons.profiling.merge import Checkpoint
from neuroglot.neurons.profiling.positions import CLASSES, Positions, forward_inputs, unpack
from neuroglot.neurons.profiling.profile import Blocks, Profile, Totals, population, shares
from neuroglot.neurons.profiling.scores import SCORES, STATIC_SCORES, neuron_norms, weight_of
from neuroglot.neurons.profiling.taps import Recorder, tapped
from neuroglot.pair import Condition

# ---- The pass -------------------------------------------------------------------------------------------------------
# An ordinary forward holds act(gate) of every gated feed-forward block for the backward pass, although it holds the
# gate as well. Computing act(gate) again when it is needed frees memory for layer outputs that autograd would not hold
# (queries and keys before their rotation, what is added to the residual stream) and that scores of activation and
# gradient need.

POINTWISE: tuple[type[nn.Module], ...] = tuple({c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()})  # type: ignore[misc]
"""Activation functions, which are cheap and of one argument."""


@dataclass(frozen=True)
class _Made:
    """What an activation function returned: not the tensor, but how to compute it again."""

    function: nn.Module
    argument: Tensor
    version: int
    result: weakref.ref[Tensor]

    def again(self) -> Tensor:
        _check(self.argument, self.version)
        with torch.no_grad():
            return self.function.forward(self.argument)


def _check(tensor: Tensor, version: int) -> None:
    if tensor._version != version:
        raise RuntimeError("a tensor that the backward pass needs has been modified by an inplace operation")


@contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Let autograd hold the arguments of activation functions in place of their results; for the forward pass.

    Inside a block that is checkpointed, which holds neither, nothing changes.
    """
    records: dict[int, _Made] = {}

    def remember(module: nn.Module, args: Any, result: Tensor) -> None:
        argument = args[0]
        # A function that writes into its argument cannot be run again.
        if result.requires_grad and result.data_ptr() != argument.data_ptr():
            records[result.data_ptr()] = _Made(module, argument.detach(), argument._version, weakref.ref(result))

    def pack(tensor: Tensor) -> Any:
        record = records.get(tensor.data_ptr())
        result = None if record is None else record.result()
        # While the result exists, no other tensor has its address; a view of it, or a changed one, does not count.
        same = result is not None and tensor.shape == result.shape and tensor.stride() == result.stride()
        # Detached: a branch that no gradient reaches (the tower's last layer) would otherwise never be freed.
        return record if same and tensor._version == 0 else (tensor.detach(), tensor._version)

    def unpack(held: Any) -> Tensor:
        if isinstance(held, _Made):
            return held.again()
        tensor, version = held
        _check(tensor, version)  # autograd leaves this check to the hooks
        return tensor

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, POINTWISE):
                hooks.callback(module.register_forward_hook(remember).remove)
        hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        hooks.callback(records.clear)  # the graph holds the entries that it needs and frees them block by block
        yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights, turn dropout off and make the token embeddings require grad; gradient checkpointing stays.

    Without this nothing in the text would have a gradient; `forward_inputs` does the same for the images.
    """
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    hook = embeddings.register_forward_hook(lambda module, args, output: output.detach().requires_grad_().clone())
    try:
        model.eval()
        for module in model.modules():
            # transformers checkpoints a block only in training mode. Only the block is put into it, not its children,
            # which hold the dropout; a block that has dropout itself is not checkpointed.
            own_dropout = any("dropout" in key and isinstance(p, float) and p > 0 for key, p in vars(module).items())
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing and not own_dropout:
                module.training = True
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
        for parameter, needed in grads:
            parameter.requires_grad_(needed)


def token_loss(
    model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, condition: Condition, every: bool = False
) -> Tensor:
    """Return the sum over samples of each sample's own mean token loss, so that no sample changes another's weight.

    Args:
        model: a transformers model.
        inputs: of its forward, without labels.
        labels: [B, L], -100 where there is no target.
        condition: of the batch, for messages.
        every: compute logits at every position, because the LM head is profiled too.

    Raises:
        UserError: a sample has no target token, or the model returns no logits for its positions.
    """
    labels = labels.to(inputs["input_ids"].device)
    lengths = (labels[:, 1:] != IGNORED).sum(1)
    if not bool(lengths.all()):
        empty = int((lengths == 0).nonzero()[0])
        raise UserError(
            f"sample {empty} of a batch of {condition} has no target token; expected labels other than -100; "
            "check that its target is not empty or cut off"
        )
    columns = target_columns(labels)
    if keeps_some_logits(model) and not every:
        logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits  # (B, T, vocabulary)
        expected: tuple[int, ...] = (len(labels), len(columns))
    else:
        logits = model(**inputs, use_cache=False).logits  # (B, L, vocabulary)
        expected = tuple(labels.shape)
    if tuple(logits.shape[:2]) != expected:
        raise UserError(
            f"the model returns logits of shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)}; "
            "expected one position each; let the processor expand the image tokens"
        )
    targets = labels[:, columns + 1]  # (B, T)
    sample, position = (targets != IGNORED).nonzero(as_tuple=True)
    chosen = logits[sample, position if logits.shape[1] == len(columns) else columns[position]]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    losses = nn.functional.cross_entropy(chosen, targets[sample, position].to(chosen.device), reduction="none")
    return (losses / lengths.to(losses.device)[sample]).sum()


# ---- Importance -----------------------------------------------------------------------------------------------------
# No weight gradient is computed and no activation is held after its batch: `taps` computes the scores where a layer's
# activation and its gradient meet, `Totals` and `Blocks` add them up.

NEURONS = ("rows", "ffn", "both")
"""What is taken as a neuron: a row of a matrix, a unit of a feed-forward block, or both."""


def profile(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    scores: Sequence[str] = ("taylor_token",),
    classes: Sequence[str] = ("all",),
    parts: Sequence[str] = PARTS,
    include: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
    neurons: str = "rows",
    checkpoint: Checkpoint | None = None,
) -> Profile:
    """Return the importance of every neuron of the chosen parts for every condition in the batches.

    With A[n, t] the output of neuron n at token t, L the mean token loss over the targets of one sample and
    G[n, t] = dL/dA[n, t], `taylor_token` (LLaVA-NeuMT, Eq. 4) is, for condition k,

        I_k[n] = mean over samples s of k of (sum over t in T(s) of |A[n, t] G[n, t]|) / |T(s)|

    T(s) are the positions of a token class: `all` (no padding), `image`, `prompt` or `target`, by the token held at
    the position. In the vision part and the connector T(s) are the rows of the sample's images, whatever the class; a
    sample without images counts there as zero. A matrix used twice in a forward adds up its uses, and a layer that
    the loss does not depend on scores zero.

    Dropout is off and the weights frozen during the pass; both are restored afterwards, also after an exception.

    Args:
        model: a transformers image-text-to-text model.
        batches: `(inputs, condition)` or `(inputs, condition, items)`: a dict of tensors with `input_ids`,
            `attention_mask`, `labels` (-100 = no target) and what else the forward takes; a `Condition` or its text
            form; and a name per sample, shared by the pairs of parallel data. Consecutive batches of one task with
            the same items and different pairs form blocks. `inputs` may hold `images_per_sample`, a list of counts.
        scores: names in `neuroglot.neurons.SCORES`.
        classes: names in `neuroglot.neurons.CLASSES`.
        parts: which parts to profile.
        include: exact names of further layers, such as the LM head.
        progress: called after each batch with the number of batches done.
        neurons: `rows` of matrices, units of feed-forward blocks (`ffn`), or `both`. A unit is scored where the
            matrix that writes takes it in: A = act(gate) * up.
        checkpoint: where to keep the sums every so many batches; a pass that finds them there resumes after the
            batches that they cover, which it takes from `batches` without running them.

    Raises:
        UserError: unknown names, no batches, a sample without targets, images that cannot be assigned to samples, or
            a loss or a score that is not finite, which no profile may hold.
    """
    if isinstance(batches, str | Mapping) or not isinstance(batches, Iterable):
        raise UserError(
            f"batches must be a sequence of (inputs, condition), such as Batcher makes, got {type(batches).__name__}"
        )
    scores = (scores,) if isinstance(scores, str) else scores
    classes = (classes,) if isinstance(classes, str) else classes
    for name, known in [*((s, SCORES) for s in scores), *((c, CLASSES) for c in classes)]:
        if name not in known:
            what = "token class" if known is CLASSES else "score"
            hint = "it needs no profile" if name in STATIC_SCORES else nearest(name, known)
            raise UserError(f"{what} {name!r} cannot be profiled; {hint}")
    rows = inventory(model, parts, include)
    layers = _chosen(model, rows, parts, neurons)
    for name in scores:
        if SCORES[name].rows_only and neurons != "rows":
            raise UserError(f"score {name!r} is one of rows, got neurons={neurons}; profile it with neurons=rows")
    family = family_of(model)
    seen = any(layer.part != "language" for layer in layers)
    kinds = {layer.name: population(layer) for layer in layers}
    totals = Totals()
    blocks = Blocks()
    recorder = Recorder([SCORES[name] for name in scores])
    device = next(model.parameters()).device
    facts = {"model": fingerprint(model, rows), "neurons": neurons, "layers": [layer.name for layer in layers],
             "scores": list(scores), "classes": list(classes)}  # fmt: skip
    restored = checkpoint.restore(facts, totals, blocks, device) if checkpoint else 0
    done = 0
    with frozen(model), tapped(model, layers, recorder), torch.enable_grad():
        for batch in batches:
            done += 1
            if done <= restored:
                continue
            inputs, condition, items = unpack(batch)
            recorder.positions = Positions(model, family, inputs, classes)
            samples: dict[str, Tensor] | None = None
            while samples is None:  # again if the model overwrites outputs of layers
                forward = forward_inputs(model, inputs, gradient=seen)
                with lean(model):
                    loss = token_loss(model, forward, inputs["labels"], condition, every=bool(include))
                loss.backward()
                total = loss.detach()
                del loss  # frees the graph before the next forward
                samples = recorder.take()
            if not usable([total, *samples.values()]):
                where = origin(model, forward, partial(model, **forward, use_cache=False))
                names = f", items {', '.join(items)}" if items else ""
                raise UserError(
                    f"batch {done} ({condition}{names}) cannot be profiled: its loss is {float(total)}, and not all "
                    f"scores are finite (first {unusable(samples) or 'none'}); {where}"
                )
            present = recorder.positions.present
            parts_of = shares(samples, kinds)
            totals.add(condition, samples, parts_of, present)
            blocks.add(condition, items, parts_of, present)
            if checkpoint and done % checkpoint.batches == 0:
                checkpoint.save(done, facts, totals, blocks)
            if progress is not None:
                progress(done)
    if not done:
        raise UserError("no batches to profile; expected at least one; check the data's tasks and pairs")

    conditions = tuple(totals.counts)
    pairs = {task: {c.pair for c in conditions if c.task == task} for task in (c.task for c in conditions)}
    block_sums, block_counts = blocks.finish(pairs)
    shape = (len(scores), len(classes))

    def filled(sums: Mapping[str, Tensor], layer: Layer) -> Tensor:
        return sums[layer.name].cpu() if layer.name in sums else torch.zeros(*shape, layer.neurons).double()

    def summed(kind: str) -> dict[str, Tensor]:
        sums = totals.sums[kind]
        return {x.name: torch.stack([filled(sums[c], x) for c in conditions]) for x in layers}

    return Profile(
        model=str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__),
        fingerprint=str(facts["model"]),
        layers=layers,
        conditions=conditions,
        scores=tuple(scores),
        classes=tuple(classes),
        counts=torch.stack([totals.counts[c] for c in conditions]).cpu(),
        sums=summed("sums"),
        squares=summed("squares"),
        share_sums=summed("share_sums"),
        share_squares=summed("share_squares"),
        blocks={task: {x.name: filled(sums, x) for x in layers} for task, sums in block_sums.items()},
        block_counts={task: count.cpu() for task, count in block_counts.items()},
        static={"weight": neuron_norms(weight_of(model), layers)},
    )


def _chosen(model: nn.Module, rows: tuple[Layer, ...], parts: Sequence[str], neurons: str) -> tuple[Layer, ...]:
    """Return the layers whose neurons are profiled."""
    if neurons not in NEURONS:
        raise UserError(f"neurons {neurons!r} is not known; {nearest(neurons, NEURONS)}")
    if neurons == "rows":
        return rows
    blocks = ffn_layers(model, parts)
    asked = check_parts(parts)
    for part in asked if neurons == "ffn" else ():
        if not any(block.part == part for block in blocks):
            rest = ",".join(p for p in asked if any(block.part == p for block in blocks))
            raise UserError(
                f"part {part} has no feed-forward block whose units could be profiled; leave it out with "
                f"parts={rest or 'others'}, or profile neurons=both"
            )
    return blocks if neurons == "ffn" else (*rows, *blocks)
