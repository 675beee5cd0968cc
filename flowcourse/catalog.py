"""The table of topics: one name finds the chapter, the code, the problem set and the test.

Everything that lists topics reads this table: the tests, the README, the book's status page,
`flowcourse train NAME` and the benchmarks. Adding a topic starts with a row here.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from flowcourse.bijector import Bijector, Compose, Inverse

__all__ = ["TOPICS", "Preset", "Topic", "instances", "topic"]

Small = Callable[[ModuleType], dict[str, tuple[Bijector, Tensor]]]


@dataclass(frozen=True)
class Preset:
    """One way to train a topic's model.

    Attributes:
        data: name of a data set, see `flowcourse.data.available`.
        model: options of the topic's `build`, besides the data's shape and levels.
        training: fields of `flowcourse.training.TrainingConfig`.
    """

    data: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Topic:
    """One topic of the course.

    Attributes:
        name: finds everything, see the properties below.
        part: the part of the book and the subpackage.
        title: the chapter's title.
        summary: one line for tables.
        paper: key in `book/references.bib` of the paper that the topic follows.
        small: makes the small bijectors, each with an input, that the property tests run on.
        presets: ways to train, by name; `laptop` takes minutes on two cores, `paper` is the
            paper's configuration. Empty for a topic without a model of its own.
        paper_parameters: number of parameters of the paper's model, where it is known.
    """

    name: str
    part: str
    title: str
    summary: str
    paper: str
    small: Small
    presets: Mapping[str, Preset] = field(default_factory=dict)
    paper_parameters: int | None = None

    @property
    def module(self) -> str:
        """Dotted name of the reference implementation."""
        return f"flowcourse.{self.part}.{self.name}"

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

    def preset(self, name: str) -> Preset:
        """Look up a preset; raises KeyError with the known names."""
        if name not in self.presets:
            known = ", ".join(self.presets) or "none: this topic has no model to train"
            raise KeyError(f"Topic {self.name!r} has no preset {name!r}. Known presets: {known}.")
        return self.presets[name]

    def build(self, event_shape, levels: int | None, **options: Any) -> nn.Module:
        """Build the topic's model for data of one shape."""
        return self.import_module().build(event_shape, levels, **options)


def _uniform(*shape: int) -> Tensor:
    """Inputs for maps that start on (0, 1) or on the positive numbers, away from the ends."""
    return 0.02 + 0.96 * torch.rand(*shape)


def _change_of_variables(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    normal = torch.distributions.Normal
    return {
        "affine": (m.Affine(shift=0.3, scale=-1.7), torch.randn(6, 2)),
        "exp": (m.Exp(), torch.randn(6, 2)),
        "softplus": (m.Softplus(), torch.randn(6, 2)),
        "sigmoid": (m.Sigmoid(), torch.randn(6, 2)),
        "logit": (m.Logit(), _uniform(6, 2)),
        "tanh": (m.Tanh(), 0.5 * torch.randn(6, 2)),
        "power": (m.Power(3.0), 0.5 + _uniform(6, 2)),
        "decreasing power": (m.Power(-0.5), 0.5 + _uniform(6, 1)),
        "cdf": (m.CDF(normal, loc=0.5, scale=2.0), torch.randn(6, 2)),
        "quantile": (m.Quantile(normal, loc=0.5, scale=2.0), _uniform(6, 1)),
        "linear": (m.Linear(2), torch.randn(6, 2)),
        "knothe-rosenblatt": (
            m.KnotheRosenblatt(
                weights=torch.tensor([0.6, 0.4]),
                means=torch.tensor([[-0.5, 0.0], [0.5, 0.3]]),
                lower=torch.tensor([[[0.7, 0.0], [0.4, 0.5]], [[0.9, 0.0], [-0.3, 0.8]]]),
            ),
            0.5 * torch.randn(6, 2),
        ),
        "composition": (Compose(m.Linear(2), m.Affine(0.1, 2.0), m.Sigmoid()), torch.randn(6, 2)),
        "inverse": (Inverse(m.Exp()), 0.5 + _uniform(6, 2)),
    }


def _likelihood(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    # The objective brings no map of its own: the topic is tested through its bounds and units.
    return {}


def _nice(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    scale = m.DiagonalScale((2,))
    torch.nn.init.normal_(scale.log_scale)
    return {
        "additive coupling": (m.AdditiveCoupling(net, parity=0), torch.randn(6, 2)),
        "diagonal scale": (scale, torch.randn(6, 2)),
        "nice, odd length": (perturbed(m.build((5,), None, hidden=8, depth=2)), torch.randn(6, 5)),
        "nice, images": (
            perturbed(m.build((1, 4, 4), 17, hidden=8, depth=2)),
            16 * torch.rand(6, 1, 4, 4),
        ),
    }


def _realnvp(m: ModuleType) -> dict[str, tuple[Bijector, Tensor]]:
    small = dict(couplings=2, final_couplings=2, hidden=8, blocks=1)
    norm = m.BatchNorm(3)
    norm.mean += torch.randn(3)
    norm.variance += torch.rand(3)
    return {
        "affine coupling": (
            perturbed(m.build((2,), None, couplings=2, hidden=8, blocks=1, batch_norm=False)),
            torch.randn(6, 2),
        ),
        "shift first": (
            perturbed(m.build((3,), None, couplings=2, hidden=8, blocks=1, shift_first=True)),
            torch.randn(6, 3),
        ),
        "squeeze": (m.Squeeze(), torch.randn(6, 2, 4, 4)),
        "batch norm": (norm, torch.randn(6, 3, 2, 2)),
        "multi-scale": (perturbed(m.build((2, 4, 4), None, **small)), torch.randn(6, 2, 4, 4)),
        "preprocessing of the paper": (m.preprocess(17, "paper"), 16 * torch.rand(6, 5)),
        "images": (perturbed(m.build((1, 4, 4), 17, **small)), 16 * torch.rand(6, 1, 4, 4)),
    }


def perturbed(model: Any, scale: float = 0.1) -> Bijector:
    """The bijector of a model, moved off its identity start so that a test can see its parts."""
    flow = getattr(model, "flow", model)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return flow.bijector.eval()


def instances(name: str, seed: int = 0) -> dict[str, tuple[Bijector, Tensor]]:
    """The small bijectors of a topic, each with an input; the same ones every time."""
    entry = topic(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return entry.small(entry.import_module())


# Chosen on digits by training on the first 1,200 images and validating on the next 300.
_LAPTOP = dict(steps=1500, batch_size=128, learning_rate=1e-3, weight_decay=0.1, warmup_steps=100)

TOPICS: tuple[Topic, ...] = (
    Topic(
        name="change_of_variables",
        part="foundations",
        title="The change of variables",
        summary="How an invertible map moves a density, from one dimension to many",
        paper="papamakarios2021normalizing",
        small=_change_of_variables,
    ),
    Topic(
        name="likelihood",
        part="foundations",
        title="Likelihood and bits per dimension",
        summary="The objective, its units, and the bound that discrete data need",
        paper="theis2016note",
        small=_likelihood,
    ),
    Topic(
        name="nice",
        part="coupling",
        title="NICE: additive coupling",
        summary="Volume-preserving couplings that invert by subtraction",
        paper="dinh2014nice",
        small=_nice,
        presets={
            "laptop": Preset(
                data="digits",
                model=dict(couplings=4, hidden=256, depth=3, dropout=0.2),
                # The diagonal scale has far to go: it needs larger steps, and more of them.
                training=_LAPTOP | dict(steps=2500, learning_rate=3e-3, weight_decay=0.01),
            ),
            # Dinh et al. (2014), section 5 and the program released with it.
            "paper": Preset(
                data="mnist",
                model=dict(couplings=4, hidden=1000, depth=5, prior="logistic"),
                training=dict(
                    steps=1500 * 250, batch_size=200, learning_rate=1e-3, validation=10_000
                ),
            ),
        },
        paper_parameters=19_158_352,
    ),
    Topic(
        name="realnvp",
        part="coupling",
        title="RealNVP: affine coupling and many scales",
        summary="Couplings that scale as well as shift, on checkerboards and channels",
        paper="dinh2017density",
        small=_realnvp,
        presets={
            "laptop": Preset(
                data="digits",
                model=dict(
                    scales=2,
                    couplings=4,
                    final_couplings=4,
                    hidden=32,
                    blocks=1,
                    dropout=0.5,
                    batch_norm=False,
                    normalize_weights=False,
                ),
                training=dict(_LAPTOP),
            ),
            # Dinh et al. (2017), section 4.1: CIFAR-10, one down-scaling, 8 blocks of 64 maps.
            "paper": Preset(
                data="cifar10",
                model=dict(scales=2, hidden=64, growth=1, blocks=8),
                training=dict(
                    steps=500_000,
                    batch_size=64,
                    learning_rate=1e-3,
                    weight_decay=5e-5,
                    clip_norm=100.0,
                    validation=5_000,
                ),
            ),
        },
    ),
)


def topic(name: str) -> Topic:
    """Look up a topic by name; raises KeyError with the known names."""
    for entry in TOPICS:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in TOPICS)
    raise KeyError(f"There is no topic {name!r}. Known topics: {known}.")
