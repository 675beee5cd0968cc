"""What a row of the catalog says about its topic."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from flowcourse.bijector import Bijector
from flowcourse.chain_rule import AutoregressiveModel

__all__ = ["GPU_PRESET", "Instance", "Preset", "Topic", "perturbed", "uniform"]

# A bijector with an input, and with the conditions of that input if it is a conditional one.
Instance = tuple[Bijector, Tensor] | tuple[Bijector, Tensor, Tensor]
Small = Callable[[ModuleType], Mapping[str, Instance]]
SmallModels = Callable[[ModuleType], dict[str, AutoregressiveModel]]

# Presets whose names start so are the paper's settings: they ask for days on a GPU. `make results`
# measures all others.
GPU_PRESET = "paper"


def none(module: ModuleType) -> dict:
    """What a topic without small instances of a kind has."""
    return {}


@dataclass(frozen=True)
class Preset:
    """One way to train a topic's model.

    Attributes:
        data: name of a data set, see `flowcourse.data.available`.
        model: options of the topic's `build`, besides the data's shape and levels.
        training: fields of `flowcourse.training.TrainingConfig`.
        data_options: options of `flowcourse.data.load`.
        kept: whether the repository keeps a small checkpoint of it, for pages to load and tests to
            measure again.
    """

    data: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    kept: bool = True


@dataclass(frozen=True)
class Topic:
    """One topic of the course.

    Attributes:
        name: finds everything, see the properties below.
        part: the part of the book and the subpackage.
        title: the chapter's title.
        summary: one line for tables.
        paper: key in `book/references.bib` of the paper that the topic follows.
        small: makes the small bijectors that the property tests run on, each with an input, and
            with conditions if it is a conditional one.
        small_models: makes the small autoregressive models that their property tests run on.
        presets: ways to train, by name; `laptop` takes minutes on two cores, `paper` is the
            paper's configuration (or `paper-cifar10` and so on, the first of them for the GPU
            cell of the chapter), and others are variants that are measured beside `laptop`.
            Empty for a topic without a model of its own.
        tabular: models of this topic in the table of `python -m benchmarks.tabular`, by the name
            that they have there: options of `build`, besides the data's shape.
        paper_parameters: number of parameters of the (first) paper preset's model, where the
            paper's is known.
    """

    name: str
    part: str
    title: str
    summary: str
    paper: str
    small: Small = none
    small_models: SmallModels = none
    presets: Mapping[str, Preset] = field(default_factory=dict)
    tabular: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paper_parameters: int | None = None

    @property
    def module(self) -> str:
        """Dotted name of the reference implementation."""
        return f"flowcourse.{self.part}.{self.name}"

    def owns(self, module: str) -> bool:
        """Whether a module is part of this topic: its own, or `coupling.glow_step` of `glow`."""
        return module == self.module or module.startswith(f"{self.module}_")

    @property
    def chapter(self) -> str:
        """Path of the chapter's source."""
        return f"book/{self.part}/{self.name}.md"

    @property
    def problem_set(self) -> str:
        """Path of the problem set's only source."""
        return f"solutions/{self.name}/{self.name}.md"

    @property
    def test(self) -> str:
        """Path of the topic's tests."""
        return f"tests/{self.part}/test_{self.name}.py"

    @property
    def checks(self) -> str:
        """Path of what each exercise must satisfy."""
        return f"flowcourse/checks/{self.name}.py"

    def import_module(self) -> ModuleType:
        """Import the reference implementation."""
        return importlib.import_module(self.module)

    @property
    def measured(self) -> list[str]:
        """Names of the presets that `make results` measures: those that a laptop can train."""
        return [name for name in self.presets if not name.startswith(GPU_PRESET)]

    @property
    def paper_preset(self) -> str:
        """Name of the first preset that is the paper's; raises KeyError if there is none."""
        for name in self.presets:
            if name.startswith(GPU_PRESET):
                return name
        raise KeyError(f"Topic {self.name!r} has no preset whose name starts with {GPU_PRESET!r}.")

    def preset(self, name: str) -> Preset:
        """Look up a preset; raises KeyError with the known names."""
        if name not in self.presets:
            known = ", ".join(self.presets) or "none: this topic has no model to train"
            raise KeyError(f"Topic {self.name!r} has no preset {name!r}. Known presets: {known}.")
        return self.presets[name]

    def build(self, event_shape, levels: int | None, **options: Any) -> nn.Module:
        """Build the topic's model for data of one shape."""
        return self.import_module().build(event_shape, levels, **options)


def uniform(*shape: int) -> Tensor:
    """Inputs for maps that start on (0, 1) or on the positive numbers, away from the ends."""
    return 0.02 + 0.96 * torch.rand(*shape)


def perturbed(model: Any, scale: float = 0.1) -> Any:
    """Move a model off its start, so that a test can see its parts; returns it, or a flow's map."""
    flow = getattr(model, "flow", model)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return getattr(flow, "bijector", flow).eval()
