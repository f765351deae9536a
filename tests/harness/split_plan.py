"""The tiny plan, cut: its last layer lives at an elected head."""

from __future__ import annotations

SPLIT = """\
    roles = {"head": swarm.elected(answer_s=20.0)}
    tensors = {"3.*": swarm.at("head")}

    def train(self, model, data, context):
        optimizer = self.optimizer(model[:3], context)
        for epoch in range(self.epochs):
            for x, y in context.batches(data.train, epoch):
                optimizer.zero_grad()
                cut = model[:3](x)
                cut.backward(context.ask("head", cut.detach(), y, like=cut))
                optimizer.step()

    def answer(self, model, asked, context):
        cut, y = asked
        cut.requires_grad_()
        context.optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model[3](cut)[:, 0], y).backward()
        context.optimizer.step()
        return cut.grad

    def model(self):
"""
CUT = ("    def model(self):\n", SPLIT)
"""The change that makes `harness.plans.TINY_PLAN` one with a role."""
