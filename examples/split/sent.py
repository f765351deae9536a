"""Split learning (Gupta and Raskar, arXiv:1810.06060): the sites keep the first layers, an elected
member the others. Activations and labels go up at each batch, the gradient at the cut comes back.
"""

from network import loss_of
from task import Task

import swarm


class Sent(Task):
    roles = {"head": swarm.elected()}
    tensors = {"top.*": swarm.at("head"), "tail.*": swarm.at("head")}

    def train(self, model, data, context):
        optimizer = self.optimizer(model.bottom, context)
        for epoch in range(self.epochs):
            for x, y in context.batches(data.train, epoch):
                optimizer.zero_grad()
                cut = model.bottom(x)
                cut.backward(context.ask("head", cut.detach(), y, like=cut))
                optimizer.step()

    def answer(self, model, asked, context):
        cut, y = asked
        cut.requires_grad_()
        context.optimizer.zero_grad()
        loss_of(model.tail(model.top(cut)), y).backward()
        context.optimizer.step()
        return cut.grad
