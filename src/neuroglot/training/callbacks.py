"""What is told while a training runs: a line per logged step in a file, a call per step for whoever shows progress."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

ProgressFunction = Callable[[int, int, float | None], None]
"""Called with (step, steps, last logged loss or None)."""


class LogFile(TrainerCallback):
    """Writes `{"step", "loss", "lr", "grad_norm"}` lines; a resumed run goes on where its checkpoint stood."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that the run starts from."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if state.global_step and self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

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
