"""Which patients have coronary heart disease? In Lightning."""

import sys

import lightning
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

path = sys.argv[1]
table = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=np.float32)
x = np.hstack([np.nan_to_num(table[:, :13]), np.isnan(table[:, :13])]).astype(np.float32)
third = np.arange(len(table)) % 3
train, validation = (
    TensorDataset(torch.tensor(x[rows]), torch.tensor(table[rows, 14]))
    for rows in (third > 0, third == 0)
)


class Heart(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(26), nn.Linear(26, 16), nn.ReLU(), nn.Linear(16, 1))

    def training_step(self, batch, _):
        x, sick = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(x)[:, 0], sick)
        self.log("loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch, _):
        x, sick = batch
        right = (self.net(x)[:, 0] > 0) == (sick == 1)
        self.log("accuracy", right.float().mean(), batch_size=len(x))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


trainer = lightning.Trainer(
    max_epochs=20,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    num_sanity_val_steps=0,
)
loaders = DataLoader(train, batch_size=32, shuffle=True), DataLoader(validation, batch_size=256)
trainer.fit(Heart(), *loaders)
print(dict(trainer.callback_metrics))
