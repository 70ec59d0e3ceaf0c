"""Dec-LoRA: low-rank adapters (Hu et al. 2021, arXiv 2106.09685) trained at the peers and mixed by gossip."""

from __future__ import annotations

from dataclasses import dataclass

from decad.config import RunSpec
from decad.errors import ConfigError
from decad.lab.methods.base import Method, everything
from decad.model.adapters import ALL_LINEAR, Adapting, add_adapters, head_names
from decad.model.loading import CLASSIFICATION
from decad.model.trainable import TrainableModel


@dataclass(frozen=True)
class DecLora(Method):
    """Both factors of each adapter are mixed, each by itself; a classifier's head is trained and mixed too."""

    rank: int = 8
    alpha: int = 16
    targets: str = ALL_LINEAR
    """Modules that get adapters: names separated by commas, or all-linear."""
    every: int = 1
    """Steps between exchanges."""

    def terms(self, spec: RunSpec, steps: int) -> RunSpec:
        if spec.adapters:
            raise ConfigError("method dec-lora has adapters of its own: leave adapters out, and set rank.")
        # What is trained is settled once the adapters are there: `prepare`.
        return everything(spec, steps).model_copy(update={"blocks": "layers"})

    def prepare(self, model: TrainableModel) -> TrainableModel:
        module, spec = model.module, model.spec
        head = head_names(module) if spec.task == CLASSIFICATION else []
        trained = {
            *add_adapters(module, Adapting(self.rank, self.alpha, spec.seed, self.targets), head),
            *head,
        }
        module.requires_grad_(False)
        still = tuple(name for name, _ in module.named_parameters() if name not in trained)
        adapted = spec.model_copy(update={"freeze": still, "blocks": "1"})
        return TrainableModel(
            module, adapted, model.objective, model.tokenizer, model.device, model.micro_batch
        )

    def mixes(self, step: int) -> bool:
        return (step + 1) % self.every == 0
