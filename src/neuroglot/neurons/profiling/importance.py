"""Importance: one forward and backward pass per batch, and every neuron's first-order scores stream into a profile.

No weight gradient is computed and no activation outlives its batch. The activation is handed to autograd as the saved
tensor of an identity function placed behind each layer, so gradient checkpointing drops and recomputes it like any
other, and its backward, where the statistics are taken, runs once per real backward however often the forward runs.

Shapes: B samples, T tokens, N neurons, S scores, C token classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from neuroglot.errors import UserError, nearest
from neuroglot.models.families import PARTS, family_of
from neuroglot.neurons.inventory import Layer, fingerprint, inventory, linear, row_norms
from neuroglot.neurons.profiling.moments import Blocks, Totals
from neuroglot.neurons.profiling.positions import CLASSES, Positions, check_vision_rows, forward_inputs, unpack
from neuroglot.neurons.profiling.profile import Profile
from neuroglot.pair import Condition


@dataclass(frozen=True)
class Score:
    """A per-sample score: the mean over the sample's tokens of `token(A, G)`, then `finish`.

    Attributes:
        token: activation and gradient [..., T, N] -> value per token and neuron.
        finish: applied to each sample's mean.
    """

    token: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor] | None = None


SCORES = {
    "taylor_token": Score(lambda a, g: (a * g).abs()),
    "taylor_sample": Score(lambda a, g: a * g, torch.abs),
    "gradient": Score(lambda a, g: g.abs()),
    "activation": Score(lambda a, g: a.abs()),
}
STATIC_SCORES = ("weight", "random")
"""Scores that need no pass over data; they are available at selection whatever was profiled."""


def profile(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    scores: Sequence[str] = ("taylor_token",),
    classes: Sequence[str] = ("all",),
    parts: Sequence[str] = PARTS,
    include: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Profile:
    """Return the importance of every neuron of the chosen parts for every condition in the batches.

    With A[n, t] the output of neuron n at token t, L the mean token loss over the targets of one sample and
    G[n, t] = dL/dA[n, t], `taylor_token` (LLaVA-NeuMT, Eq. 4) is, for condition k,

        I_k[n] = mean over samples s of k of (sum over t in T(s) of |A[n, t] G[n, t]|) / |T(s)|

    T(s) are the positions of a token class: `all` (no padding), `image`, `prompt` or `target`, by the token held at
    the position. In the vision part and the connector T(s) are the rows of the sample's images, whatever the class; a
    sample without images counts there as zero. A matrix used twice in a forward adds up its uses, and a layer that
    the loss does not depend on scores zero.

    Dropout is off and the weights frozen during the pass; both are put back afterwards, exceptions included.

    Args:
        model: a transformers image-text-to-text model.
        batches: `(inputs, condition)` or `(inputs, condition, items)`: a dict of tensors with `input_ids`,
            `attention_mask`, `labels` (-100 = no target) and what else the forward takes; a `Condition` or its text
            form; and a name per sample, shared by the pairs of parallel data. Consecutive batches of one task with
            the same items and different pairs form blocks. `inputs` may hold `images_per_sample`, a list of counts.
        scores: names in `SCORES`.
        classes: names in `CLASSES`.
        parts: which parts to profile.
        include: exact names of further layers, such as the LM head.
        progress: called after each batch with the number of batches done.

    Raises:
        UserError: unknown names, no batches, a sample without targets, images that cannot be assigned to samples.
    """
    for name, known in [*((s, SCORES) for s in scores), *((c, CLASSES) for c in classes)]:
        if name not in known:
            what = "token class" if known is CLASSES else "score"
            hint = "it needs no profile" if name in STATIC_SCORES else nearest(name, known)
            raise UserError(f"{what} {name!r} cannot be profiled; {hint}")
    layers = inventory(model, parts, include)
    family = family_of(model)
    check_vision_rows(family, layers)
    seen = any(layer.part != "language" for layer in layers)
    totals = Totals()
    blocks = Blocks()
    recorder = _Recorder(tuple(SCORES[name] for name in scores))
    done = 0
    with _frozen(model), _tapped(model, layers, recorder), torch.enable_grad():
        for batch in batches:
            inputs, condition, items = unpack(batch)
            labels = inputs["labels"]
            recorder.positions = Positions(model, family, inputs, classes)
            loss = _loss(model, forward_inputs(model, inputs, gradient=seen), labels, condition)
            loss.backward()
            samples, present = recorder.take(), recorder.positions.present
            totals.add(condition, samples, present)
            blocks.add(condition, items, samples, present)
            done += 1
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

    return Profile(
        model=str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__),
        fingerprint=fingerprint(model, layers),
        layers=layers,
        conditions=conditions,
        scores=tuple(scores),
        classes=tuple(classes),
        counts=torch.stack([totals.counts[c] for c in conditions]).cpu(),
        sums={x.name: torch.stack([filled(totals.sums[c], x) for c in conditions]) for x in layers},
        squares={x.name: torch.stack([filled(totals.squares[c], x) for c in conditions]) for x in layers},
        norms=row_norms(model, layers),
        blocks={task: {x.name: filled(sums, x) for x in layers} for task, sums in block_sums.items()},
        block_counts={task: count.cpu() for task, count in block_counts.items()},
    )


class _Tap(torch.autograd.Function):
    """Identity whose backward sees the activation beside its gradient.

    The copy that goes on downstream keeps a later in-place operation away from the activation.
    """

    @staticmethod
    def forward(ctx: Any, activation: Tensor, sink: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(activation)
        ctx.sink = sink
        return activation.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (activation,) = ctx.saved_tensors
        ctx.sink(activation, gradient)
        return gradient, None


class _Recorder:
    """Collects one batch's scores per sample; `positions` is set before each forward."""

    positions: Positions

    def __init__(self, scores: tuple[Score, ...]) -> None:
        self._scores = scores
        self._means: dict[str, Tensor] = {}

    def sink(self, layer: Layer) -> Callable[[Tensor, Tensor], None]:
        def record(activation: Tensor, gradient: Tensor) -> None:
            dtype = torch.promote_types(activation.dtype, torch.float32)
            a, g = activation.to(dtype), gradient.to(dtype)
            mean = torch.stack([self.positions.average(layer, score.token(a, g)) for score in self._scores])
            old = self._means.get(layer.name)  # another use of the same matrix
            self._means[layer.name] = mean if old is None else old + mean

        return record

    def take(self) -> dict[str, Tensor]:
        """Return layer -> [S, B, C, N] and forget it."""
        means, self._means = self._means, {}
        for mean in means.values():
            for s, score in enumerate(self._scores):
                if score.finish is not None:
                    mean[s] = score.finish(mean[s])
        return means


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights and turn dropout off, but leave gradient checkpointing on where it is enabled."""
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for module in model.modules():
            # transformers checkpoints a block only in training mode. The block alone is put there, its children,
            # which hold the dropout, are not; a block that has dropout of its own goes without checkpointing.
            own_dropout = any("dropout" in key and isinstance(p, float) and p > 0 for key, p in vars(module).items())
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing and not own_dropout:
                module.training = True
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, needed in grads:
            parameter.requires_grad_(needed)


@contextmanager
def _tapped(model: nn.Module, layers: Sequence[Layer], recorder: _Recorder) -> Iterator[None]:
    """Put a tap behind every layer, and make the token embeddings require grad, for nothing else in the text does."""

    def tap(sink: Callable[[Tensor, Tensor], None]) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        # Without a graph (the first forward under reentrant checkpointing) there is nothing to tap.
        return lambda module, args, output: _Tap.apply(output, sink) if output.requires_grad else None

    by_weight = {id(linear(model, layer.name).weight): layer for layer in layers}
    embeddings = model.get_input_embeddings()  # type: ignore[operator]
    hooks = [embeddings.register_forward_hook(lambda module, args, output: output.detach().requires_grad_().clone())]
    try:
        for module in model.modules():
            if isinstance(module, nn.Linear) and id(module.weight) in by_weight:
                hooks.append(module.register_forward_hook(tap(recorder.sink(by_weight[id(module.weight)]))))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _loss(model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, condition: Condition) -> Tensor:
    """Return the sum over samples of each sample's own mean token loss, so that samples do not weigh each other."""
    logits = model(**inputs, use_cache=False).logits  # (B, T, vocabulary)
    if logits.shape[:2] != labels.shape:
        raise UserError(
            f"the model returns logits of shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)}; "
            "expected one position each; let the processor expand the image tokens"
        )
    labels = labels.to(logits.device)[:, 1:]
    lengths = (labels != -100).sum(1)
    if not bool(lengths.all()):
        empty = int((lengths == 0).nonzero()[0])
        raise UserError(
            f"sample {empty} of a batch of {condition} has no target token; expected labels other than -100; "
            "check that its target is not empty or cut off"
        )
    sample, position = (labels != -100).nonzero(as_tuple=True)
    chosen = logits[sample, position]
    chosen = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    losses = nn.functional.cross_entropy(chosen, labels[sample, position], reduction="none")
    return (losses / lengths[sample]).sum()
