"""A kind of PEFT's is a subclass of `PeftAdapter`: it states its config, and the rest is done for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from peft import IA3Config, PeftConfig
from transformers import AutoModelForCausalLM

from bottega.adapters import InstallOptions, LinearLayer, Start, attach
from bottega.adapters._peft import ALL_LINEAR, PeftAdapter, Targets
from bottega.errors import ModelError


class Scaled(PeftAdapter):
    """Factors on the outputs of layers (Liu et al. 2022, arXiv 2205.05638)."""

    title: ClassVar[str] = "IA³"

    kind: Literal["scaled"] = "scaled"
    targets: Targets = ALL_LINEAR
    start: Start = None

    def peft_config(self, **shared: Any) -> PeftConfig:
        return IA3Config(feedforward_modules=[], **shared)

    def count(self, layers: Sequence[LinearLayer]) -> int:
        return sum(layer.outputs for layer in self.targeted(layers))


def base(llama: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)


def test_another_kind_is_installed_switched_off_and_loaded(llama: Path, tmp_path: Path) -> None:
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        plain = base(llama)(input_ids=ids).logits
        adapted = Scaled(targets=["k_proj", "up_proj"]).install(base(llama), InstallOptions(peft_task="CAUSAL_LM"))
        trained = [weight for weight in adapted.model.parameters() if weight.requires_grad]
        assert [weight.numel() for weight in trained] == [16, 48] * 2
        for weight in trained:
            weight.fill_(1.5)
        changed = adapted.network(input_ids=ids).logits
        assert not torch.allclose(changed, plain, atol=1e-2)
        with adapted.disabled():
            torch.testing.assert_close(adapted.network(input_ids=ids).logits, plain)
        adapted.save(tmp_path)
        again = attach(base(llama), tmp_path)
        torch.testing.assert_close(again.network(input_ids=ids).logits, changed)
    assert again.library == "peft"


def test_all_linear_is_every_layer_but_the_head(llama: Path) -> None:
    adapted = Scaled().install(base(llama), InstallOptions(peft_task="CAUSAL_LM"))
    trained = [name for name, weight in adapted.model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 7
    assert not any("lm_head" in name for name in trained)


def test_targets_are_checked_for_every_kind(llama: Path) -> None:
    with pytest.raises(ModelError, match="no module is called k_prj") as caught:
        Scaled(targets=["k_prj"]).install(base(llama), InstallOptions(peft_task="CAUSAL_LM"))
    assert "did you mean k_proj?" in str(caught.value.fix)


def test_layers_are_targeted_by_the_ends_of_their_names() -> None:
    names = ("layers.0.self_attn.k_proj", "layers.0.mlp.up_proj", "layers.1.mlp.up_proj")
    layers = [LinearLayer(name, 4, 8) for name in names]
    targeted = lambda targets: [layer.name for layer in Scaled(targets=targets).targeted(layers)]  # noqa: E731
    assert targeted("all-linear") == list(names)
    assert targeted(["up_proj"]) == list(names[1:])
    assert targeted(["proj"]) == []
    assert targeted(r".*1\..*") == [names[2]]
