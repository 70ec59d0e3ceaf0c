"""The active block: master copy, moments and coding, from the phase's first step to its last.

Everything that changes it runs on the compute thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from decad.config import RunSpec
from decad.core.adam import AdamState, local_step
from decad.core.blocks import Block
from decad.core.chebyshev import accelerate, relaxation
from decad.core.clipping import Clipping, StepClipping, absurd_beyond
from decad.core.coding import decoder, encoder
from decad.core.constants import AdamConstants
from decad.core.mixing import Mixer, moment_scale
from decad.core.moments import MomentRule, NoExchange, default_b1, moment_rule
from decad.core.robust import Collected
from decad.core.schedule import learning_rate
from decad.core.section import Section
from decad.core.spoiling import Watched, reach
from decad.daemon.adapters import Adapters
from decad.daemon.staging import Staging
from decad.daemon.step import Coding
from decad.errors import DivergedError
from decad.model.trainable import TrainableModel
from decad.state.checkpoint import ActiveState
from decad.state.weights import MASTER


class TrainingRule:
    """What the run spec says about a step, made ready once."""

    def __init__(self, spec: RunSpec) -> None:
        self.peak = spec.lr
        self.rate = learning_rate(spec.schedule, spec.lr, spec.inner_steps, spec.warmup)
        self.encoding = spec.encoding
        self.adapter_rate = learning_rate(spec.schedule, spec.adapter_lr)
        """Of adapters, in every step: they have no phases to warm up in."""
        self.robust, self.inner_steps = spec.robust, spec.inner_steps
        self.reach, self.adapter_reach = reach(spec.lr), reach(spec.adapter_lr)
        self.moments: MomentRule = moment_rule(spec.moments)
        self.constants = AdamConstants(
            a1=spec.beta1,
            a2=spec.beta2,
            b1=default_b1(spec.moments),
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            clip=spec.clip,
        )


PUBLIC = {Section.BLOCK: "public", Section.ADAPTERS: "public-adapters"}
"""Names among the active tensors of the public copies, which an encoding of changes has."""


def _largest(values: Mapping[Section, Tensor]) -> dict[Section, float]:
    return {
        section: float(torch.linalg.vector_norm(theta, torch.inf))
        for section, theta in values.items()
        if not theta.is_meta and theta.numel()
    }


class ActiveBlock:
    """One phase's block on ``model``; ``resumed`` restores what `saved` gave; ``clipping`` and
    ``adapters``: the peer's. In a phase that ``settles`` it is mixed alone, and m is where it was a step ago."""

    def __init__(
        self,
        model: TrainableModel,
        block: Block,
        rule: TrainingRule,
        resumed: ActiveState | None = None,
        clipping: Clipping | None = None,
        adapters: Adapters | None = None,
        settles: bool = False,
    ) -> None:
        self._adapters = adapters
        self._settles = settles
        self.block = block
        self._model = model
        self._rule = rule
        self.theta = model.activate(block)
        self.state = AdamState.zeros(block.numel, model.device)
        if resumed is not None:
            self.state.updates = resumed.updates
            self.theta.copy_(resumed.tensors[MASTER])
            self.state.m.copy_(resumed.tensors["m"])
            self.state.v.copy_(resumed.tensors["v"])
            model.sync()
        self._moments = rule.moments if block.numel else NoExchange()
        sizes = {Section.BLOCK: block.numel, **({} if settles else self._moments.sections(block))}
        largest = _largest({Section.BLOCK: self.theta})
        if adapters is not None:
            sizes[Section.ADAPTERS] = adapters.theta.numel()
            largest |= _largest({Section.ADAPTERS: adapters.theta})
        self._staging = Staging(model.device, sizes)
        public = resumed.tensors if resumed is not None else {}
        sender = encoder(rule.encoding, {s: public[name] for s, name in PUBLIC.items() if name in public})
        if resumed is not None:
            sender.sequence = resumed.sequence
        beyond = absurd_beyond(largest)
        watched = {Section.BLOCK: Watched(block.index, self._trained, rule.reach)}
        if adapters is not None:
            watched[Section.ADAPTERS] = Watched(len(model.plan), lambda step: step + 1, rule.adapter_reach)
        a1, a2 = rule.constants.a1, rule.constants.a2
        self.coding = Coding(
            sizes=sizes,
            encoder=sender,
            new_decoder=partial(decoder, rule.encoding, sizes, beyond),
            beyond=beyond,
            scale=lambda section, mine, theirs: moment_scale(section, a1, a2, mine, theirs),
            robust=partial(self._robust, clipping or Clipping()),
            watched=watched,
        )

    def _trained(self, step: int) -> int:
        phase, inner = divmod(step, self._rule.inner_steps)
        return phase // len(self._model.plan) * self._rule.inner_steps + inner + 1

    def _robust(self, clipping: Clipping, step: int, neighbours: int) -> StepClipping | Collected | None:
        match self._rule.robust:
            case "clip":
                rate = self._rule.peak if self._settles else self._rule.rate(step)
                return clipping.step(self.block.index, rate, neighbours)
            case "none":
                return None
            case rule:
                return Collected(rule)

    def local_step(self, gradient: Tensor, step: int) -> None:
        """Local Adam step; the model sees it after `finish_step`, or its own `sync`.

        Raises DivergedError, before anything changed, when the gradient is not finite.
        """
        if not bool(torch.isfinite(gradient.sum())):
            raise DivergedError(
                f"The gradient of block {self.block.name} is not finite at step {step}. Nothing of this step was "
                "kept or sent; the steps before it are saved. Look for broken records in --data, and start again. If "
                "the whole run diverges, begin another with a lower --lr or --clip 1, and another --state-dir."
            )
        block, beside = gradient[: self.block.numel], gradient[self.block.numel :]
        local_step(self.theta, block, self.state, self._rule.constants, self._rule.rate(step))
        if self._adapters is not None:
            self._adapters.local_step(beside, step)

    def half_step(self, gradient: Tensor, step: int) -> dict[Section, Tensor]:
        """`local_step`, then encode what travels. Returns zeroed accumulators; ``gradient`` is used up."""
        self.local_step(gradient, step)
        self._encode(self._moments.outgoing(self.block, self.state))
        return self._staging.accumulators(gradient[: self.block.numel])

    def still_step(self) -> dict[Section, Tensor]:
        """In the place of `half_step` where nothing is trained."""
        if self.state.updates == 0:
            self.state.m.copy_(self.theta)
        self.state.updates += 1
        self._encode({})
        return self._staging.accumulators(self.state.v)

    def _encode(self, moments: Mapping[Section, Tensor]) -> None:
        outgoing = {Section.BLOCK: self.theta, **moments}
        if self._adapters is not None:
            outgoing[Section.ADAPTERS] = self._adapters.theta
        self.coding.encoder.encode(self._staging.to_host(outgoing))

    def finish_still(self, mixer: Mixer, inner: int, passes: int, rho: float) -> None:
        """In the place of `finish_step`. ``inner``: the step's place in its phase; ``passes``: in which nothing was
        trained before it; ``rho``: see `chebyshev`."""
        d = self._staging.to_device(mixer.finish())
        if self._rule.robust != "none":  # what bounds or chooses is not linear
            rho = 0.0
        # Who came in the middle has no step before this one.
        omega = relaxation(inner, rho) if self.state.updates > 1 else 1.0
        accelerate(self.theta, d[Section.BLOCK], self.state.m, omega)
        if self._adapters is not None:
            self._adapters.mix_still(d[Section.ADAPTERS], passes, rho)
        self._model.sync()

    def finish_step(self, mixer: Mixer, step: int) -> None:
        """Add the discrepancies, apply the moment rule and let the model see the result."""
        d = self._staging.to_device(mixer.finish())
        self.theta.add_(d[Section.BLOCK])
        if self._adapters is not None:
            self._adapters.theta.add_(d[Section.ADAPTERS])
        self._moments.apply(self.block, self.state, d, self._rule.rate(step), self._rule.constants)
        self._model.sync()

    def saved(self) -> ActiveState:
        """A copy for a checkpoint; between steps only. Tensors are fp32 [n], as names tell: master, m, v, public."""
        sender = self.coding.encoder
        live = {MASTER: self.theta, "m": self.state.m, "v": self.state.v}
        if not sender.full_only and sender.sequence >= 0:  # before the first message nothing is public
            live |= {name: sender.public[s] for s, name in PUBLIC.items() if s in sender.public}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in live.items()}
        return ActiveState(self.block.index, self.state.updates, sender.sequence, copies)
