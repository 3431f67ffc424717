"""A monitor as a callback of Lightning's Trainer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ..monitor import Monitor
from ..monitor.logging import values_of

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):
    """Watch a module's activations while Lightning's Trainer trains it, and write them to the trainer's loggers.

    Every so many optimizer steps it takes a snapshot, of all processes together. `callback.monitor` is the
    `fastact.Monitor`, which keeps its history after training.

    Args:
        log_every: how many optimizer steps lie between two snapshots.
        **options: the monitor's, such as `every` and `unit_dim`.

    Raises:
        TypeError: when training starts, if an option is not the monitor's.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from fastact.integrations.lightning import MonitorCallback
        >>> model = BoringModel()
        >>> model.layer = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 2))
        >>> callback = MonitorCallback(log_every=10, every=5)
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        >>> quiet |= {"enable_model_summary": False}
        >>> Trainer(max_steps=20, callbacks=[callback], accelerator="cpu", **quiet).fit(model)
        >>> [step for step, report in callback.monitor.history]
        [10, 20]
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
