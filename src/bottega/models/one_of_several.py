"""A LoRA adapter whose matrices stand beside a network that others may use, under the names that PEFT gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file
from torch import nn

from bottega.adapters import CONFIG, WEIGHT_FILES, AdaptedModel
from bottega.errors import ModelError
from bottega.models.native.packed_linear import left_out_of_state
from bottega.models.row_adapters import RowAdapters, RowMatrices

NOT_PLAIN = (
    "adapters that are trained at once, or begin at an invocation, are LoRA of linear layers, new, without DoRA,"
    " dropout and other parts"
)


class OneOfSeveral(AdaptedModel):
    """An adapter of a shared base, as the run sees it that trains it.

    model     has the network, and the weights of the adapter under the names that they have in a PeftModel
    matrices  of each layer, by its name in the network
    saved     its weights under the names that they have in a file
    """

    library = "peft"

    def __init__(self, rows: RowAdapters, name: str, installed: AdaptedModel) -> None:
        from peft import get_peft_model_state_dict

        self.rows, self.name, self.network = rows, name, rows.network
        self._left_out = installed.left_out
        with TemporaryDirectory() as folder, left_out_of_state():
            installed.save(Path(folder))
            self.config = (Path(folder) / CONFIG).read_text(encoding="utf-8")
        trained = {key: weight for key, weight in installed.model.named_parameters() if ".lora_" in key}
        own = {
            weight.data_ptr(): nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
            for weight in trained.values()
        }
        self.matrices = dict(_plain_matrices(self.network, own))
        if installed.changes_head or 2 * len(self.matrices) != len(trained):
            fix = "leave the head and fused experts out of adapter.targets"
            raise ModelError(NOT_PLAIN, where=f"the adapter {name}", fix=fix)
        with left_out_of_state():
            state = get_peft_model_state_dict(installed.model, save_embedding_layers=False)
        self.saved = {key: own[weight.data_ptr()] for key, weight in state.items()}
        self.model = nn.Module()
        self.model.add_module("network", self.network)
        for key, weight in trained.items():
            _put(self.model, key, own[weight.data_ptr()])

    @property
    def left_out(self) -> list[str]:
        return self._left_out

    @contextmanager
    def disabled(self) -> Iterator[None]:
        with self.rows.using(None):
            yield

    def save(self, folder: Path) -> None:
        weights = {key: weight.detach().cpu().contiguous() for key, weight in self.saved.items()}
        save_file(weights, folder / WEIGHT_FILES.replace("*", ""), metadata={"format": "pt"})
        (folder / CONFIG).write_text(self.config, encoding="utf-8")


def _plain_matrices(network: nn.Module, own: dict[int, nn.Parameter]) -> Iterator[tuple[str, RowMatrices]]:
    """(name of a layer, its matrices as parameters of `own`) of every linear layer with LoRA."""
    from peft.tuners.lora import Linear

    for place, layer in network.named_modules():
        if isinstance(layer, Linear):
            (name,) = layer.lora_A
            a, b = (own[matrices[name].weight.data_ptr()] for matrices in (layer.lora_A, layer.lora_B))
            yield place, RowMatrices(a, b, layer.scaling[name])


def _put(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    """Register a parameter of a module under a name with dots."""
    *path, last = name.split(".")
    for part in path:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, weight)
