"""A monitor as a callback of transformers' Trainer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..monitor import Monitor

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):
    """Watch a model's activations while transformers' Trainer trains it.

    Every so many optimizer steps it takes a snapshot, of all processes together, and writes it to `writer`, if there is
    one: the trainer's own reporters have run by then. `callback.monitor` is the `fastact.Monitor`, which keeps its
    history after training.

    Args:
        writer: what the snapshots are written to, see `fastact.Monitor.log_to`; by default nothing.
        log_every: how many optimizer steps lie between two snapshots.
        **options: the monitor's, such as `every` and `unit_dim`.

    Raises:
        TypeError: when training starts, if an option is not the monitor's.

    Examples:
        >>> from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
        >>> from fastact.integrations.transformers import MonitorCallback
        >>> sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
        >>> model = BertForSequenceClassification(BertConfig(num_hidden_layers=2, **sizes))
        >>> data = [{"input_ids": torch.randint(50, (6,)), "labels": i % 2} for i in range(16)]
        >>> quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        >>> arguments = TrainingArguments("output", max_steps=4, dataloader_pin_memory=False, **quiet)
        >>> callback = MonitorCallback(log_every=2, unit_dim=-1)
        >>> output = Trainer(model, arguments, callbacks=[callback], train_dataset=data).train()
        {'train_runtime': ...
        >>> [step for step, report in callback.monitor.history]
        [2, 4]
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
