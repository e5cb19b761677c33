"""A Lightning Trainer, told nothing but the backend's name: it starts its second process itself.

Started as a program of its own, by `python -m`; each rank compares what it has learned, and leaves a file.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from tests.torch_backend.clients.names import BACKEND, FOLDER
from tests.torch_backend.clients.training import Batch, batches, fresh, loss_of, momentum, same, train

EPOCHS = 3


class Tiny(lightning.LightningModule):
    """The common small model, and the mean loss of an epoch at all ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fresh()

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        loss = loss_of(self.net, (batch[0], batch[1]))
        self.log("loss", loss, sync_dist=True, on_step=False, on_epoch=True)
        assert dist.get_backend() == os.environ[BACKEND]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return momentum(self.parameters())


def main(devices: int) -> None:
    if os.environ[BACKEND] == "collcomm":
        import collcomm.torch  # noqa: F401
    warnings.filterwarnings("ignore")
    joined: Batch = (torch.cat([x for x, _ in batches(EPOCHS)]), torch.cat([y for _, y in batches(EPOCHS)]))
    data = torch.utils.data.TensorDataset(*joined)
    loader = torch.utils.data.DataLoader(
        data, batch_size=len(data) // devices
    )  # a step an epoch: order does not matter
    trainer = lightning.Trainer(
        strategy=DDPStrategy(process_group_backend=os.environ[BACKEND]),
        accelerator="cpu",
        devices=devices,
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Tiny()
    trainer.fit(model, loader)
    assert trainer.world_size == devices
    same(model.net, train(fresh(), [joined] * EPOCHS))
    before_the_last = loss_of(train(fresh(), [joined] * (EPOCHS - 1)), joined)
    torch.testing.assert_close(trainer.callback_metrics["loss"], before_the_last.detach())
    (Path(os.environ[FOLDER]) / f"done-{trainer.global_rank}").touch()


if __name__ == "__main__":
    main(int(sys.argv[1]))
