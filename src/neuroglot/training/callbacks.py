"""Reports during training: a line per logged step in a file, and a call per step to show progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neuroglot.file_format import CHECKPOINT, write_manifest, write_text
from neuroglot.finite import DivergedError, unusable

ProgressFunction = Callable[[int, int, float | None], None]
"""Called with (step, steps, last logged loss or None)."""

LookFunction = Callable[[Any], dict[str, Any]]
"""Called with the model while it trains; returns figures."""


class LogFile(TrainerCallback):
    """Writes `{"step", "loss", "lr", "grad_norm"}` lines; a resumed run continues at its checkpoint's step.

    The file also holds the lines of `Look`, and `{"step", "skipped"}` lines with the reason why a step was left out;
    the logged loss is then a mean in which the last loss before it takes its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that the run starts from."""
        self.keep(state.global_step)

    def keep(self, step: int) -> None:
        """Drop the lines after a step, and a line that a full disk cut off."""
        lines = self.path.read_text(encoding="utf-8").splitlines(True) if step and self.path.exists() else []
        remaining = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_text(self.path, "".join(remaining))

    @property
    def skipped(self) -> int:
        """How many steps were left out."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return sum("skipped" in json.loads(line) for line in lines)

    def skip(self, step: int, why: str) -> None:
        """Append a line for a step that was left out."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "skipped": why}) + "\n")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line; the summary that ends a training has no loss of its own and is left out."""
        if logs and "loss" in logs:
            line = {"step": state.global_step, "loss": logs["loss"], "lr": logs["learning_rate"]}
            if "grad_norm" in logs:
                line["grad_norm"] = logs["grad_norm"]
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class Finite(TrainerCallback):
    """Ends a training whose parameters are no longer finite, before they are saved in a checkpoint or a result."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check all trained parameters, once for each checkpoint and at the end."""
        if control.should_save or state.global_step >= state.max_steps:
            wrong = unusable({name: p for name, p in kwargs["model"].named_parameters() if p.requires_grad})
            if wrong:
                raise DivergedError(
                    f"training diverged by step {state.global_step}: of what is trained, {wrong}; lower train.lr "
                    f"({args.learning_rate:g})"
                )


class Look(TrainerCallback):
    """Writes `{"step", "dev": {...}}` lines: figures that a function returns for the current model, at regular steps.

    The function must restore the model and the random state; then training is the same bit for bit with
    and without it.

    Args:
        path: the log file.
        every: steps between looks; there is one after the last step too.
        function: model -> figures.
    """

    def __init__(self, path: Path, every: int, function: LookFunction) -> None:
        self.path = path
        self.every = every
        self.function = function

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Append a line, in the process that writes."""
        due = state.global_step % self.every == 0 or state.global_step == state.max_steps
        if due and state.is_world_process_zero:
            line = {"step": state.global_step, "dev": self.function(kwargs["model"])}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class Manifest(TrainerCallback):
    """Puts a manifest into each checkpoint once it is complete: a checkpoint without one is not resumed from.

    Args:
        before: seconds that the training took up to the checkpoint that it resumes from.
    """

    def __init__(self, before: float) -> None:
        self.before = before
        self._began = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the manifest of the checkpoint that the Trainer has just written."""
        if state.is_world_process_zero:
            seconds = self.before + time.perf_counter() - self._began
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_manifest(folder, CHECKPOINT, {"step": state.global_step, "seconds": round(seconds, 3)})


class Progress(TrainerCallback):
    """Calls a function after every step."""

    def __init__(self, function: ProgressFunction) -> None:
        self.function = function
        self._loss: float | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remember the last loss."""
        self._loss = (logs or {}).get("loss", self._loss)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass the step on."""
        self.function(state.global_step, state.max_steps, self._loss)
