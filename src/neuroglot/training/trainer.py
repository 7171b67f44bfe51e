"""The one training loop: transformers' Trainer on one-pair batches, each step enclosed by its pair."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

from neuroglot.config import TrainSection
from neuroglot.errors import UserError
from neuroglot.file_format import CHECKPOINT, MANIFEST, read_manifest
from neuroglot.finite import DivergedError, origin, unusable
from neuroglot.models.targets import keeps_some_logits, on_targets
from neuroglot.training.callbacks import Finite, LogFile, Look, LookFunction, Manifest, Progress, ProgressFunction
from neuroglot.training.sampler import Mix, OnePairBatchSampler
from neuroglot.tuner import active_pair, has_router
from neuroglot.tuner.deltas import UnitLayer

# ---- Parameter groups -----------------------------------------------------------------------------------------------


def specific_parameters(model: nn.Module) -> set[int]:
    """Return the ids of the parameters whose group lacks at least one of its adapter's pairs."""
    ids: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, UnitLayer):
            for adapter, layout in layer.neuroglot_layout.items():
                for group in layout.groups:
                    if set(group.split(",")) != set(layout.pairs):
                        parameters = (*layer.delta(adapter, group), layer.bias_delta(adapter, group))
                        ids |= {id(parameter) for parameter in parameters if parameter is not None}
    return ids


def parameter_groups(model: nn.Module, lr: float, specific_lr: float | None = None) -> list[dict[str, Any]]:
    """Split a model's trainable parameters for your own optimiser.

    A pair's specific neurons train only in its steps, the agnostic ones in all; a higher rate compensates for that.

    Args:
        model: a model with a neuroglot adapter, inside any wrapper.
        lr: the learning rate of the language-agnostic neurons, and of whatever else is trainable.
        specific_lr: that of the neurons that not all pairs train; None for the same.

    Returns:
        `[{"params": agnostic, "lr": lr}, {"params": specific, "lr": specific_lr}]`; an empty one is left out.

    Raises:
        UserError: a rate that is not above 0, or nothing is trainable.
    """
    for name, value in (("lr", lr), ("specific_lr", specific_lr)):
        if value is not None and not value > 0:
            raise UserError(f"parameter_groups: {name} must be above 0, got {value}")
    specific = specific_parameters(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserError("parameter_groups: no parameter is trainable; expected the result of get_peft_model")
    rates = ((False, lr), (True, lr if specific_lr is None else specific_lr))
    groups = [{"params": [p for p in trainable if (id(p) in specific) is kind], "lr": rate} for kind, rate in rates]
    return [group for group in groups if group["params"]]


# ---- Training loop --------------------------------------------------------------------------------------------------
# The loss is transformers' own: with accumulation, the sum over target tokens divided by their number in the *whole*
# accumulated step. So every token of a step weighs the same, whichever micro-batch and pair it came in; the rows of a
# pair that fills a third of a step's tokens see a third of the gradient that the pair alone would give them.

_log = logging.getLogger(__name__)

LOG_NAME = "train_log.jsonl"

Collate = Callable[[list[Any]], dict[str, Any]]
"""Items of one pair -> tensors for the model's forward, `labels` among them, and the pair's text under `pair`;
optionally the items' names under `items`, which a message about this batch then holds.

A batch of several pairs has a list of them there, one per sample, and optionally the samples' numbers of images under
`images`.
"""


class PairTrainer(Trainer):
    """A Trainer whose batches are of one pair and whose steps, forward and backward, run for that pair.

    Models without a neuroglot adapter are trained on the same batches in the same order.

    Args:
        pairs: the pair of each item of `train_dataset`; it makes the batches. A collator may still mix pairs.
        specific_lr: learning rate of the neurons that not all pairs train; None for that of the arguments.
        mix: what an epoch is made of; every item once by default.
        non_finite: `stop` raises where a step's loss or gradient is not finite, `skip` leaves such a step out.
        max_skipped: steps that may be left out.
        log: where each of them is noted, with the number of those before a resume.
        kwargs: of `transformers.Trainer`; the collator's output carries the pair's text under `pair`, or a list of
            texts, one per sample, and then optionally under `images` how many images each sample brings.
    """

    def __init__(
        self,
        *args: Any,
        pairs: Sequence[str],
        specific_lr: float | None = None,
        mix: Mix | None = None,
        non_finite: str = "stop",
        max_skipped: int = 10,
        log: LogFile | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._skips, self._max_skipped, self._log = non_finite == "skip", max_skipped, log
        self._trained_on: list[str] = []  # the micro-batches of the current step, for messages
        self._wrong = ""  # what is not finite in it
        self._last_loss: torch.Tensor | None = None
        self._pairs = pairs
        self._mix = mix
        self._specific_lr = specific_lr
        self._keeps_some_logits = keeps_some_logits(cast(nn.Module, self.model))
        self._routed = has_router(cast(nn.Module, self.model))
        if self._routed and self.args.ddp_find_unused_parameters is None:
            self.args.ddp_find_unused_parameters = True  # a step does not use the rows of other pairs

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader over one-pair batches; accelerate and the Trainer set its epoch and skip on resume."""
        size, seed, world = self._train_batch_size, self.args.seed, self.args.world_size
        sampler = OnePairBatchSampler(self._pairs, size, seed, world, self._mix)
        loader = DataLoader(
            cast(Dataset, self.train_dataset),
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser; the specific neurons' parameters are in separate groups if their rate differs."""
        optimizer = super().create_optimizer(model)
        if self._specific_lr is not None:
            specific = specific_parameters(cast(nn.Module, self.model if model is None else model))
            groups = []
            for group in optimizer.param_groups:
                for kind, lr in ((False, group["lr"]), (True, self._specific_lr)):
                    parameters = [p for p in group["params"] if (id(p) in specific) is kind]
                    groups += [{**group, "params": parameters, "lr": lr}] if parameters else []
            optimizer.param_groups[:] = groups
        return optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Run forward and backward of one micro-batch with its pair, or its samples' pairs, active."""
        if self._routed and "pair" not in inputs:
            raise UserError(
                'the collator returned no "pair"; expected the text of the batch\'s pair beside its tensors'
            )
        tensors = _for_model(inputs)
        images = None if "images" in tensors else inputs.get("images")
        counts = images.tolist() if torch.is_tensor(images) else images
        with active_pair(model, inputs["pair"], images=counts) if self._routed else nullcontext():
            loss = super().training_step(model, tensors, num_items_in_batch)
            self._trained_on.append(_batch(inputs))
            # The one wait for the device in a micro-batch; the Trainer's filter, which is off, would wait twice.
            if not bool(loss.isfinite()):
                if not self._wrong:
                    self._wrong, self._trained_on = f"the loss is {float(loss)}", [_batch(inputs)]
                    if self.args.world_size == 1:  # a forward of one process alone would wait for the others
                        ready = self._prepare_inputs(tensors)
                        self._wrong += f"; {origin(model, ready, lambda: self.compute_loss(model, dict(ready)))}"
                loss = torch.zeros_like(loss) if self._last_loss is None else self._last_loss
        self._last_loss = loss
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the gradient's norm, and handle a step that is not finite before the optimiser's step.

        The Trainer calls it once a step with the norm that clipping has computed, of all processes together.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        wrong, batches = self._wrong, " + ".join(dict.fromkeys(self._trained_on))
        self._wrong, self._trained_on = "", []
        if not wrong and norm is not None and not math.isfinite(float(norm)):
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            wrong = f"the gradient's norm is {float(norm)}; first of {unusable(gradients) or 'no single weight'}"
        if wrong:
            self._leave_out(model, f"at step {self.state.global_step + 1} ({batches}): {wrong}")
        return norm

    def _leave_out(self, model: nn.Module, why: str) -> None:
        """Leave a step out: an optimiser changes no parameter without a gradient, nor its state.

        Raises:
            DivergedError: steps are not to be left out, or too many were.
        """
        if not self._skips:
            raise DivergedError(
                f"training diverged {why}; lower train.lr ({self.args.learning_rate:g}), or leave such steps out with "
                "train.non_finite=skip"
            )
        if self._log is not None:
            self._log.skip(self.state.global_step + 1, why)
            if self._log.skipped > self._max_skipped:
                raise DivergedError(
                    f"training diverged: more than train.max_skipped ({self._max_skipped}) steps were not finite, the "
                    f"last one {why}; lower train.lr ({self.args.learning_rate:g})"
                )
        _log.warning("a step is left out: training is not finite %s", why)
        model.zero_grad(set_to_none=True)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss, which has a gradient even where a batch uses nothing that is trained.

        A text without an image does not use a vision part; its step then changes nothing, not even by momentum.
        """
        if model.training and self._keeps_some_logits:
            inputs = on_targets(inputs)
        output = super().compute_loss(model, inputs, *args, **kwargs)
        loss = output[0] if isinstance(output, tuple) else output
        if not model.training or loss.requires_grad:
            return output
        loss = loss + torch.zeros_like(loss, requires_grad=True)
        return (loss, *output[1:]) if isinstance(output, tuple) else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load a checkpoint's weights, strictly.

        A plain model goes through `from_pretrained`: transformers saves many models under the names of older versions
        and only `from_pretrained` translates them back. The Trainer matches names leniently and would continue
        from the base with only a warning.
        """
        model = self.model if model is None else model
        if isinstance(model, PreTrainedModel):
            saved = type(model).from_pretrained(resume_from_checkpoint, dtype="auto")
            model.load_state_dict(saved.state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate one batch; no pair is needed for that."""
        return super().prediction_step(model, _for_model(inputs), *args, **kwargs)


def _batch(inputs: dict[str, Any]) -> str:
    """Return a micro-batch as text: its pair or pairs, and its items where the collator names them under `items`."""
    pair = inputs.get("pair", "")
    pairs = [pair] if isinstance(pair, str) else dict.fromkeys(pair)
    return f"pair {', '.join(map(str, pairs)) or 'unknown'}, items {', '.join(inputs.get('items') or ['unknown'])}"


def _for_model(inputs: dict[str, Any]) -> dict[str, Any]:
    """Leave out the collator's facts about the batch; `images` only beside pairs, since a model may take it."""
    ours = ("pair", "items", *(["images"] if isinstance(inputs.get("pair"), list | tuple) else []))
    return {key: value for key, value in inputs.items() if key not in ours}


def arguments(options: TrainSection, output_dir: Path) -> TrainingArguments:
    """Translate the options into transformers' own.

    Raises:
        UserError: transformers does not know the optimiser or the scheduler.
    """
    on_cpu = not torch.accelerator.is_available()
    known = {f.name for f in fields(TrainingArguments)}
    # the older name is a deprecated alias of the newer one, which the oldest supported transformers lacks
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    extra: dict[str, Any] = {}
    if options.gradient_checkpointing:
        extra = {checkpointing: True, f"{checkpointing}_kwargs": {"use_reentrant": False}}
    try:
        return TrainingArguments(
            output_dir=str(output_dir),
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.accumulation,
            learning_rate=options.lr or 1e-3,
            warmup_steps=round(options.warmup * options.steps),
            lr_scheduler_type=options.scheduler,
            optim=options.optimizer,
            weight_decay=options.weight_decay,
            max_grad_norm=options.max_grad_norm,
            seed=options.seed,
            bf16=options.bf16,
            logging_steps=options.log_steps,
            logging_first_step=True,
            logging_nan_inf_filter=False,  # it writes the mean of earlier losses where one is NaN
            save_strategy="steps" if options.save_steps else "no",
            save_steps=options.save_steps or 1,
            save_total_limit=2,
            save_only_model=False,
            report_to="none",
            disable_tqdm=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=not on_cpu,
            remove_unused_columns=False,
            prediction_loss_only=True,
            label_names=["labels"],
            ddp_find_unused_parameters=True,
            use_cpu=on_cpu,
            **extra,
        )
    except ValueError as error:
        raise UserError(f"train: {str(error).splitlines()[0]}") from None


def last_checkpoint(output_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest complete checkpoint whose files match its manifest, and the manifest."""
    checkpoints = {
        int(p.parent.name.rpartition("-")[2]): p.parent for p in output_dir.glob(f"checkpoint-*/{MANIFEST}")
    }
    for step in sorted(checkpoints, reverse=True):
        try:
            return checkpoints[step], read_manifest(checkpoints[step], CHECKPOINT)
        except UserError as error:
            _log.warning("%s; the checkpoint before it is used", error)
    return None


@dataclass(frozen=True)
class TrainResult:
    """The result of a training.

    Attributes:
        steps: optimiser steps in all, those before a resume included.
        resumed_from: the step of the checkpoint that it resumed from, 0 for none.
        loss: mean training loss per target token, in nats, over the steps of this call; NaN if none was left.
        skipped: steps that were left out because their loss or gradient was not finite.
        seconds: wall time of the training, that before a resume included up to the checkpoint.
        trainable: number of trainable parameters.
        log: the log file.
    """

    steps: int
    resumed_from: int
    loss: float
    seconds: float
    trainable: int
    log: Path
    skipped: int = 0


def train(
    model: nn.Module,
    dataset: Sequence[Any],
    collate: Collate,
    options: TrainSection,
    output_dir: Path | str,
    *,
    pairs: Sequence[str] | None = None,
    mix: Mix | None = None,
    resume: bool = False,
    progress: ProgressFunction | None = None,
    look: tuple[int, LookFunction] | None = None,
) -> TrainResult:
    """Train a model in place; `neuroglot.training.prepare` made it trainable.

    Writes `train_log.jsonl` and, when asked for, `checkpoint-<step>` folders; the caller saves the result with
    the model's own `save_pretrained`. A resumed training ends bit-identical to an uninterrupted one on the same CPU.

    Args:
        model: the model to train.
        dataset: any sequence.
        collate: turns items of one pair into model inputs.
        options: how long and how fast, see `neuroglot.config.TrainSection`; `lr` is 1e-3 if unset, and what
            only a method needs (`rank`, `mode` ...) is ignored.
        output_dir: created if absent.
        pairs: the pair of each item; by default each item's `.pair`.
        mix: what an epoch is made of; by default every item once, in batches of items either with images or without.
        resume: from the newest complete checkpoint in `output_dir`, if there is one; one of the last step is the
            result itself, and no step is taken.
        progress: called after every step with (step, steps, last logged loss or None).
        look: steps between looks, and a function from the model to figures, which go into the log.

    Raises:
        UserError: nothing to train on, nothing to train, an option that transformers does not know, or a dataset
            that holds a pair which the adapter does not know.
        DivergedError: a loss, a gradient or what is trained is not finite; see `non_finite` of the options.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if mix is None:
        mix = Mix(["image" if getattr(item, "images", ()) else "" for item in dataset])
    pairs = [str(item.pair) for item in dataset] if pairs is None else [str(pair) for pair in pairs]
    if len(pairs) != len(dataset):
        raise UserError(f"train: {len(pairs)} pairs for {len(dataset)} examples; expected one pair each")
    if has_router(model):
        for pair in sorted(set(pairs)):
            with active_pair(model, pair):  # an unknown pair is an error now, not in the middle of a run
                pass
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not trainable:
        raise UserError("train: no parameter of the model is trainable; make it so with neuroglot.training.prepare")
    checkpoint, before = (last_checkpoint(folder) if resume else None) or (None, {"step": 0, "seconds": 0.0})
    log = LogFile(folder / LOG_NAME)
    trainer = PairTrainer(
        model=model,
        args=arguments(options, folder),
        train_dataset=dataset,
        data_collator=collate,
        pairs=pairs,
        specific_lr=options.specific_lr,
        mix=mix,
        non_finite=options.non_finite,
        max_skipped=options.max_skipped,
        log=log,
        callbacks=[
            log,
            Finite(),
            Manifest(before["seconds"]),
            *([Progress(progress)] if progress else []),
            *([Look(log.path, *look)] if look else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    steps, loss = before["step"], math.nan
    if checkpoint is not None and steps >= options.steps:  # the Trainer's own loop would take one step more
        trainer._load_from_checkpoint(str(checkpoint))
        log.keep(steps)
    else:
        try:
            result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UnpicklingError:  # the Trainer reads tensors only
            raise UserError(f"{checkpoint} holds more than tensors, which is not loaded; delete {folder}") from None
        steps, loss = result.global_step, float(result.training_loss)
    return TrainResult(
        steps=steps,
        resumed_from=before["step"],
        loss=loss,
        seconds=before["seconds"] + time.perf_counter() - start,
        trainable=trainable,
        log=log.path,
        skipped=log.skipped,
    )
