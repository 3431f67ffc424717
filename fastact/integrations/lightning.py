"""A monitor as a callback of Lightning's Trainer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..monitor import Monitor
from ..monitor.logging import values_of

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):
    """Watch the module's activations while it trains, and write them to the trainer's loggers.

    Every `log_every` optimizer steps it takes a snapshot, of all processes together. `options` are `fastact.Monitor`'s,
    and `callback.monitor` is the monitor, which keeps its history after training.

    >>> callback = MonitorCallback(log_every=100, every=10)
    >>> Trainer(callbacks=[callback]).fit(module)
    >>> print(*callback.monitor.history[-1].report.findings, sep="\\n")
    """

    def __init__(self, log_every: int = 50, **options: Any) -> None:
        self.log_every, self.options = log_every, options
        self.monitor: Monitor | None = None
        self._open = ExitStack()
        self._batch = ExitStack()
        self._last = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.monitor = self._open.enter_context(Monitor(pl_module, **self.options))
        self._last = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        assert self.monitor is not None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            self.monitor.grad_scale = scaler.get_scale()
        self._batch.enter_context(self.monitor.functions())  # training_step is no forward

    def on_before_backward(self, *_: Any) -> None:
        self._batch.close()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        assert self.monitor is not None
        self._batch.close()
        step = trainer.global_step
        if step == self._last or step % self.log_every:
            return
        self._last = step
        self.monitor.snapshot(step, across_ranks=trainer.world_size > 1)
        for logger in trainer.loggers:
            logger.log_metrics(values_of(self.monitor.history[-1].report), step)

    def on_train_end(self, *_: Any) -> None:
        self._batch.close()
        self._open.close()

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()
