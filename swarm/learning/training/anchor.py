"""The model that a round started from, as training looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import torch


class OnDevice(Mapping[str, torch.Tensor]):
    """A model's tensors by name, each brought to a device when it is first asked for."""

    def __init__(self, state: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self._state, self._device = state, device
        self._here: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._here:
            self._here[name] = self._state[name].to(self._device)
        return self._here[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


class Anchor:
    """Holds a model near the values that its parameters have now: of those that `travels` names.

    FedProx (Li et al., arXiv:1812.06127, equation 2) adds strength / 2 · ‖w − w₀‖² to the loss.
    """

    def __init__(self, model: torch.nn.Module, travels: Set[str], strength: float) -> None:
        named = model.named_parameters() if strength else ()
        self._strength = strength
        self._pairs = [
            (parameter, parameter.detach().clone())
            for name, parameter in named
            if parameter.requires_grad and name in travels
        ]

    def pulled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss with what the distance adds to it."""
        if not self._pairs:
            return loss
        distance = torch.stack([(now - then).square().sum() for now, then in self._pairs]).sum()
        return loss + self._strength / 2 * distance
