"""Split learning with the labels kept (the U shape of Vepakomma et al., arXiv:1812.00564): the
sites keep the last layer, too. Features come back, and their gradient goes up: two questions a
batch. Meanwhile other sites have moved the head, so it computes the features once more.
"""

import torch
from network import loss_of
from task import Task

import swarm

WAITING = 64
"""Cuts that wait for their gradient; a site that does not come back costs the oldest."""


class UShape(Task):
    roles = {"head": swarm.elected()}
    tensors = {"top.*": swarm.at("head")}

    def model(self):
        self.waiting, self.asked = {}, 0
        return super().model()

    def train(self, model, data, context):
        optimizer = self.optimizer(model.ends(), context)
        for epoch in range(self.epochs):
            for x, y in context.batches(data.train, epoch):
                optimizer.zero_grad()
                cut = model.bottom(x)
                features, number = context.ask("head", cut.detach())
                features.requires_grad_()
                loss_of(model.tail(features), y).backward()
                gradient = context.ask("head", number, features.grad, like=cut)
                cut.backward(gradient)
                optimizer.step()

    def answer(self, model, asked, context):
        if len(asked) == 1:
            self.asked += 1
            self.waiting[self.asked] = asked[0]
            self.waiting.pop(self.asked - WAITING, None)
            return model.top(asked[0]), torch.tensor([self.asked])
        number, gradient = asked
        cut = self.waiting.pop(int(number)).requires_grad_()
        context.optimizer.zero_grad()
        model.top(cut).backward(gradient)
        context.optimizer.step()
        return cut.grad
