"""A monitor as a callback of transformers' Trainer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..monitor import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):
    """Watch the model's activations while it trains.

    Every `log_every` optimizer steps it takes a snapshot, of all processes together, and writes it to `writer`, if
    there is one (see `fastact.Monitor.log_to`): the trainer's own reporters have run by then. `options` are
    `fastact.Monitor`'s, and `callback.monitor` is the monitor, which keeps its history after training.

    >>> callback = MonitorCallback(SummaryWriter(), unit_dim=-1, every=10)
    >>> Trainer(model, callbacks=[callback], train_dataset=dataset).train()
    >>> print(*callback.monitor.history[-1].report.findings, sep="\\n")
    """

    def __init__(self, writer: Any = None, log_every: int = 50, **options: Any) -> None:
        self.writer, self.log_every, self.options = writer, log_every, options
        self.monitor: Monitor | None = None
        self._open = ExitStack()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._open.close()  # of a training that failed
        self.monitor = self._open.enter_context(Monitor(kwargs["model"], **self.options))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        assert self.monitor is not None
        if state.global_step % self.log_every == 0:
            several = dist.is_initialized() and dist.get_world_size() > 1
            writer = self.writer if state.is_world_process_zero else None
            self.monitor.log_to(writer, state.global_step, across_ranks=several)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._open.close()
