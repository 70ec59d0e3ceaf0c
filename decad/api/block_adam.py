"""Block-wise Adam on one machine, as a torch optimiser: what a decad peer does, without neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from decad.config import RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.blocks import Block, BlockPlan, Slot
from decad.core.constants import AdamConstants
from decad.core.schedule import Order, Schedule, warmed
from decad.model.division import divide
from decad.model.dtypes import DTYPES
from decad.model.rate import ALONE, STEADY, suited_rate
from decad.model.rounding import round_stochastically

_DEFAULT = RunSpec()


class BlockAdam(Optimizer):
    """Trains one block of a module's parameters for ``inner_steps`` steps, then the next one.

    The active block alone has moments and an fp32 master copy, 12 bytes a parameter; both begin anew with each phase.
    It alone has ``requires_grad`` set, which this optimiser switches from block to block, so that autograd stops below
    it: leave it alone, and compute each loss after the `step` before it. One param group holds all parameters, so
    torch's learning-rate schedulers work.
    """

    plan: BlockPlan
    """How the module is divided."""

    def __init__(
        self,
        module: nn.Module,
        lr: float = _DEFAULT.lr,
        betas: tuple[float, float] = (_DEFAULT.beta1, _DEFAULT.beta2),
        eps: float = _DEFAULT.eps,
        weight_decay: float = _DEFAULT.weight_decay,
        *,
        clip: float = _DEFAULT.clip,
        inner_steps: int = _DEFAULT.inner_steps,
        warmup: float = _DEFAULT.warmup,
        blocks: str = _DEFAULT.blocks,
        freeze: Sequence[str] = _DEFAULT.freeze,
        order: Order = _DEFAULT.order,
        seed: int = _DEFAULT.seed,
    ) -> None:
        """Optimise ``module``, whose parameters are float32 or bfloat16 and lie where they are to be trained.

        What the arguments mean, and their bounds, are those of the fields of `decad.config.RunSpec`; ``betas`` are
        beta1 and beta2. Parameters that are not to be trained are named by ``freeze``, whatever their
        ``requires_grad``. Raises ValueError for a value out of bounds, ConfigError for ``blocks`` and ``freeze`` that
        do not fit the module.
        """
        RunSpec(  # for its bounds alone
            lr=lr,
            beta1=betas[0],
            beta2=betas[1],
            eps=eps,
            weight_decay=weight_decay,
            clip=clip,
            inner_steps=inner_steps,
            warmup=warmup,
            order=order,
            seed=seed,
        )
        self.plan = divide(module, blocks, freeze)
        self._parameters = dict(module.named_parameters())
        trained = {
            slot.name: self._parameters[slot.name] for block in self.plan.blocks for slot in block.slots
        }
        self._dtype = next(iter(trained.values())).dtype
        if any(p.dtype != self._dtype for p in trained.values()) or self._dtype not in DTYPES.values():
            raise ValueError(
                "A module is trained in float32 or in bfloat16, all of it. Convert it with its `to`."
            )
        rate = lr or suited_rate(module, STEADY * ALONE)
        defaults = {
            **{"lr": rate, "betas": betas, "eps": eps, "weight_decay": weight_decay, "clip": clip},
            "warmup": warmup,
        }
        super().__init__(trained.values(), defaults)
        self._schedule = Schedule(len(self.plan), inner_steps, order, seed)
        self._steps = 0
        module.requires_grad_(False)
        self._activate()

    @property
    def active(self) -> Block:
        """The block that the next `step` trains."""
        return self._block

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Train the active block by the gradients of its parameters; one that has none counts as zero.

        ``closure`` computes the loss again and its gradients. Gradients that are not finite are not looked for, as in
        torch's optimisers.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradient = torch.zeros_like(self._master)
        for slot, part in self._parts(gradient):
            if (whole := self._parameters[slot.name].grad) is not None:
                part.copy_(slot.part_of(whole))
        group = self.param_groups[0]
        a1, a2 = group["betas"]
        constants = AdamConstants(
            a1=a1, a2=a2, eps=group["eps"], weight_decay=group["weight_decay"], clip=group["clip"]
        )
        here = self._schedule.position(self._steps)
        rate = group["lr"] * warmed(here.inner, self._schedule.inner_steps, group["warmup"])
        local_step(self._master, gradient, self._moments, constants, rate)
        self._write(self._master)
        self._steps += 1
        if self._steps % self._schedule.inner_steps == 0:
            self._leave()
            self._activate()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Param groups, the place in the schedule, and the active block: fp32 [n] each of master, m and v.

        These are the live tensors, as in torch's optimisers. To go on exactly, save the module's own state dict too.
        """
        active = {"master": self._master, "m": self._moments.m, "v": self._moments.v}
        return {
            **super().state_dict(),
            "blocks": {
                **{"plan": self.plan.fingerprint, "schedule": asdict(self._schedule)},
                **{"steps": self._steps, "updates": self._moments.updates, **active},
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; the module's own is to be loaded too.

        Raises ValueError when it is of a module that was divided, or whose blocks were visited, in another way.
        """
        saved = state_dict["blocks"]
        if (saved["plan"], saved["schedule"]) != (self.plan.fingerprint, asdict(self._schedule)):
            raise ValueError(
                "This state is of a BlockAdam with other blocks, or with another inner_steps, order or seed. Make the "
                "optimiser as it was made then."
            )
        super().load_state_dict(state_dict)
        self._require_grad(False)
        self._steps = saved["steps"]
        self._activate()
        self._moments.updates = saved["updates"]
        for mine, theirs in zip(
            (self._master, self._moments.m, self._moments.v),
            (saved["master"], saved["m"], saved["v"]),
            strict=True,
        ):
            mine.copy_(theirs)

    def _activate(self) -> None:
        """Begin the phase of the next step's block."""
        self._block = self.plan[self._schedule.position(self._steps).block]
        device = self._parameters[self._block.slots[0].name].device
        self._master = torch.empty(self._block.numel, device=device)
        for slot, part in self._parts(self._master):
            part.copy_(slot.part_of(self._parameters[slot.name].detach()))
        self._moments = AdamState.zeros(self._block.numel, device)
        self._require_grad(True)

    def _leave(self) -> None:
        """End the phase that the last step was of."""
        if self._dtype != torch.float32:
            rounded = torch.empty_like(self._master, dtype=self._dtype)
            last, index = self._steps - 1, self._block.index
            round_stochastically(self._master, rounded, seed=self._schedule.seed, step=last, block=index)
            self._write(rounded)
        self._require_grad(False)

    def _write(self, values: Tensor) -> None:
        for slot, part in self._parts(values):
            slot.part_of(self._parameters[slot.name]).copy_(part)

    def _require_grad(self, required: bool) -> None:
        for slot in self._block.slots:
            self._parameters[slot.name].requires_grad_(required)
            if not required:
                self._parameters[slot.name].grad = None

    def _parts(self, flat: Tensor) -> Iterator[tuple[Slot, Tensor]]:
        return zip(self._block.slots, self._block.views(flat).values(), strict=True)
