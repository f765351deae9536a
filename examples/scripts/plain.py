"""Which patients have coronary heart disease? In plain PyTorch."""

import numpy as np
import torch
from torch import nn

import swarm

session = swarm.join(name="HeartScript", rounds=20, min_peers=3)
path = session.site.path
table = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=np.float32)
x = np.hstack([np.nan_to_num(table[:, :13]), np.isnan(table[:, :13])]).astype(np.float32)
x, sick = torch.tensor(x), torch.tensor(table[:, 14])
third = torch.arange(len(sick)) % 3
train, validation = third > 0, third == 0

torch.manual_seed(0)
model = nn.Sequential(nn.BatchNorm1d(26), nn.Linear(26, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)


def auc(model):
    """How often a sick patient scores higher than a healthy one."""
    model.eval()
    with torch.no_grad():
        score = model(x[validation])[:, 0]
    ill, well = score[sick[validation] == 1], score[sick[validation] == 0]
    return float((ill[:, None] > well).float().mean())


for round in session.rounds(model, score=lambda model: {"auc": auc(model)}):
    model.train()
    for rows in torch.randperm(int(train.sum())).split(32):
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(x[train][rows])[:, 0], sick[train][rows]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(round, auc(model))
    session.submit(model, rows=int(train.sum()), metrics={"auc": auc(model)})
