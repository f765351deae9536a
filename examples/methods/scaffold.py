"""SCAFFOLD (Karimireddy et al., arXiv:1910.06378): each step is corrected by how this site's
gradients differ from those of all, as the last round found them.

A site's control variate is its mean gradient in the round (the paper's option II, where it comes
to the same); the average of all sites' travels as the buffers `all`, its own stays in `own`.
"""

import torch
from task import Task

import swarm


class Scaffold(Task):
    tensors = {"own.*": swarm.local()}
    learning_rate = 0.2

    def model(self):
        model = super().model()
        model.own, model.all = torch.nn.Module(), torch.nn.Module()
        for number, p in enumerate(model.parameters()):
            model.own.register_buffer(f"c{number}", torch.zeros_like(p))
            model.all.register_buffer(f"c{number}", torch.zeros_like(p))
        return model

    def optimizer(self, model):
        parameters = [p for p in model.parameters() if p.requires_grad]
        own, total = list(model.own.buffers()), list(model.all.buffers())
        corrections = [c - c_own for c, c_own in zip(total, own, strict=True)]
        steps = 0

        def correct(optimizer, arguments, settings):
            nonlocal steps
            steps += 1
            for p, add, c_own, c in zip(parameters, corrections, own, total, strict=True):
                mean = p.grad if steps == 1 else c_own + (p.grad - c_own) / steps
                c_own.copy_(mean)
                c.copy_(mean)
                p.grad.add_(add)

        optimizer = torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.0)
        optimizer.register_step_pre_hook(correct)
        return optimizer
