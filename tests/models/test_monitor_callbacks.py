"""Monitors as callbacks of Lightning's and transformers' trainers."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fastact.integrations.lightning import MonitorCallback as LightningCallback
from fastact.integrations.transformers import MonitorCallback as TransformersCallback


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
class TestLightning:
    def test_watches_training(self, tmp_path: Path) -> None:
        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Sigmoid())

            def training_step(self, batch: list[Tensor], number: int) -> Tensor:
                return F.gelu(self.net(batch[0])).square().mean()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        callback = LightningCallback(log_every=2, every=1)
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(40, 8)), batch_size=8)
        logger = CSVLogger(tmp_path)
        trainer = lightning.Trainer(
            max_epochs=1, log_every_n_steps=1,
            accelerator="cpu", callbacks=[callback], logger=logger, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(Module(), data)
        assert [step for step, _ in callback.monitor.history] == [2, 4]
        rows = callback.monitor.history[0].report.rows
        assert [row.activation for row in rows] == ["ReLU", "Sigmoid", "gelu"]
        assert rows[0].seen_per_unit == rows[2].seen_per_unit == 16
        assert not callback.monitor.is_open
        assert "net.1/dead" in Path(logger.log_dir, "metrics.csv").read_text()


class TestTransformers:
    def test_watches_training(self, tmp_path: Path) -> None:
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )

        class Run:
            steps: list[int] = []  # noqa: RUF012

            def log(self, values: dict[str, float], step: int) -> None:
                self.steps.append(step)

        callback = TransformersCallback(Run(), log_every=2, unit_dim=-1)
        data = [{"input_ids": torch.randint(50, (6,)), "labels": i % 2} for i in range(16)]
        arguments = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, use_cpu=True, report_to="none",
            disable_tqdm=True, save_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        Trainer(BertForSequenceClassification(config), arguments, callbacks=[callback], train_dataset=data).train()
        assert Run.steps == [step for step, _ in callback.monitor.history] == [2, 4]
        report = callback.monitor.history[1].report
        assert any("intermediate" in row.layer and row.grad_norm > 0 for row in report.rows)
        assert all(math.isfinite(row.mean) for row in report.rows if row.mean is not None)
        assert not callback.monitor.is_open
