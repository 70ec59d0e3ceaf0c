"""Dec-LoRA: low-rank adapters (Hu et al. 2021, arXiv 2106.09685) trained at the peers and mixed by gossip."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from decad.config import RunSpec
from decad.errors import ConfigError
from decad.lab.methods.base import Method, everything
from decad.model.loading import CLASSIFICATION
from decad.model.trainable import TrainableModel


@dataclass(frozen=True)
class DecLora(Method):
    """Both factors of each adapter are mixed, each by itself; a classifier's head is trained and mixed too."""

    rank: int = 8
    alpha: int = 16
    targets: str = "all-linear"
    """Modules that get adapters: names separated by commas, or all-linear."""
    every: int = 1
    """Steps between exchanges."""

    def settle(self, spec: RunSpec, steps: int) -> RunSpec:
        # What is trained is settled once the adapters are there: `prepare`.
        return everything(spec, steps).model_copy(update={"blocks": "layers"})

    def prepare(self, model: TrainableModel) -> TrainableModel:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError:
            raise ConfigError("Dec-LoRA needs peft: pip install 'decad[lab]'.") from None
        module, spec = model.module, model.spec
        targets = self.targets if self.targets == "all-linear" else self.targets.split(",")
        head = [name for name, _ in module.named_parameters() if _is_head(name, module, spec)]
        settings = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=targets,
            exclude_modules=sorted({name.rpartition(".")[0] for name in head}) or None,
            lora_dropout=0.0,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)  # the same factors at all peers
            try:
                inject_adapter_in_model(settings, module)
            except ValueError as error:
                raise ConfigError(
                    f"method dec-lora: targets {self.targets!r} are not accepted: {error}"
                ) from None
        module.requires_grad_(False).train(False)
        still = tuple(
            name for name, _ in module.named_parameters() if "lora_" not in name and name not in head
        )
        adapted = spec.model_copy(update={"freeze": still, "blocks": "1"})
        return TrainableModel(
            module, adapted, model.objective, model.tokenizer, model.device, model.micro_batch
        )

    def mixes(self, step: int) -> bool:
        return (step + 1) % self.every == 0


def _is_head(name: str, module: torch.nn.Module, spec: RunSpec) -> bool:
    return spec.task == CLASSIFICATION and not name.startswith(f"{module.base_model_prefix}.")
