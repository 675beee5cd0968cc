"""The training loop: maximum likelihood, for every model of the course, on one device or many.

loss = -model(x).mean()        model(x): log-likelihood of each example in nats, or its bound
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.func import functional_call

from flowcourse.training import checkpoint, runs
from flowcourse.training.config import TrainingConfig, learning_rate
from flowcourse.training.context import context_for
from flowcourse.training.devices import describe_device, make_fabric
from flowcourse.training.ema import ExponentialMovingAverage
from flowcourse.training.errors import RunError, TrainingDiverged
from flowcourse.training.pictures import save_samples
from flowcourse.training.progress import Progress, write_metrics
from flowcourse.training.randomness import (
    INITIALIZE,
    NOISE,
    VALIDATE,
    batch_indices,
    derive,
    private_randomness,
)
from flowcourse.training.steps import compile_steps, recompute_steps
from flowcourse.training.storage import write_json, write_tensors

if TYPE_CHECKING:
    from flowcourse.data import Dataset

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves behind.

    Attributes:
        model: with its final weights, in evaluation mode: the averaged weights, and with
            validation the best of them.
        steps: parameter updates done; fewer than asked after early stopping.
        history: rows with the keys `step`, `nats`, `bits_per_dim`, `validation`, `lr`, `seconds`;
            `nats` is that update's mean loss per example, `validation` is in nats too.
        best_validation: nats per example, or None without validation.
        seconds: time spent training.
        run_dir: where it was saved, if anywhere.
    """

    model: nn.Module
    steps: int
    history: list[dict[str, Any]]
    best_validation: float | None
    seconds: float
    run_dir: Path | None


def train(
    model: nn.Module,
    data: "Dataset",
    config: TrainingConfig,
    run_dir: str | Path | None = None,
    *,
    resume: bool = True,
    description: Mapping[str, Any] | None = None,
    verbose: bool = True,
) -> TrainingResult:
    """Fit a model to the training part of a data set by maximum likelihood.

    The losses depend on the configuration and not on how often the run was interrupted, nor on how
    many processes share the work, up to rounding. The caller's random state is left as it was.

    Args:
        model: `model(x)` gives log-likelihoods in nats, shape `(batch,)`; trained in place. A
            conditional one is `model(x, context)`, see `context_for`.
        data: the data set; only its training part is used.
        config: how to train.
        run_dir: where to save the run; None saves nothing.
        resume: continue what is in `run_dir`; False deletes it first.
        description: `topic`, `preset`, `data`, `model` and `command` for `run.json`; with them,
            `flowcourse.load(run_dir)` can rebuild the model.
        verbose: show progress, as a bar in a terminal and as a few lines elsewhere.

    Raises:
        RunError: the run in `run_dir` has another configuration, or the device is not there.
        TrainingDiverged: the loss is no finite number; the last checkpoint is kept.
    """
    fabric = make_fabric(config)
    fabric.launch()
    folder = None if run_dir is None else Path(run_dir)
    with private_randomness():
        return _Training(fabric, model, data, config, folder, verbose).run(
            resume, dict(description or {})
        )


class _Training:
    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        data: "Dataset",
        config: TrainingConfig,
        folder: Path | None,
        verbose: bool,
    ):
        if not any(p.requires_grad for p in model.parameters()):
            raise RunError(f"{type(model).__name__} has no parameters, so there is none to train.")
        n = len(data.train) - config.validation
        if n < 1:
            raise RunError(
                f"validation={config.validation} holds out all {len(data.train)} training "
                f"examples of {data.name}: choose a smaller number."
            )
        self.fabric = fabric
        self.model = model
        self.data = data
        self.config = config
        self.folder = folder
        self.verbose = verbose and fabric.is_global_zero
        context = context_for(model, data, "train")
        inputs = (data.train,) if context is None else (data.train, context)
        self.train, self.held_out = ([part[:n] for part in inputs], [part[n:] for part in inputs])
        self.n = n
        self.best: dict[str, Tensor] = {}
        self.state = checkpoint.State()
        self.saved_step: int | None = None

    def run(self, resume: bool, description: dict[str, Any]) -> TrainingResult:
        description = self._describe(description)
        saved = self._open_folder(resume, description)
        self._set_up(saved)
        self._announce(description)
        if not self.state.finished:
            self._loop()
            self._end()
        return self._result()

    # Before the first step

    def _announce(self, description: dict[str, Any]) -> None:
        if not self.verbose:
            return
        where = f" in {self.folder}" if self.folder is not None else ""
        if self.state.finished:
            print(f"Training{where} has ended already, after step {self.state.step}.")
        elif self.state.step:
            print(f"Continuing{where} after step {self.state.step} of {self.config.steps}.")
        else:
            print(
                f"Training {description['parameters']:,} parameters for {self.config.steps} steps "
                f"on {description['device']}{where}."
            )

    def _describe(self, description: dict[str, Any]) -> dict[str, Any]:
        return {
            **description,
            "event_shape": list(self.data.event_shape),
            "levels": self.data.levels,
            "training": asdict(self.config),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": describe_device(self.fabric),
            "versions": runs.versions(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _open_folder(self, resume: bool, description: dict[str, Any]):
        """Return the checkpoint to continue from, if any. Only process 0 writes."""
        if self.folder is None:
            return None
        if self.fabric.is_global_zero and not resume:
            runs.clear(self.folder)
        self.fabric.barrier()
        saved = checkpoint.restore(self.folder, description)
        self.fabric.barrier()
        if saved is None and self.fabric.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "run.json", description)
        return saved

    def _set_up(self, saved: tuple[checkpoint.State, checkpoint.Groups] | None) -> None:
        """Initialise from the first batch, then overwrite everything with what was saved."""
        config, fabric = self.config, self.fabric
        fabric.to_device(self.model)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.train()
        self.running = self._initialize()
        recompute_steps(self.model, config.recompute)
        if config.compile:
            compile_steps(self.model)
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            # One kernel for all parameters. On the CPU it would round otherwise than before.
            fused=fabric.device.type == "cuda",
        )
        self.module, self.optimizer = fabric.setup(self.model, optimizer)
        self.dtype = next(self.model.parameters()).dtype
        if saved is None:
            self.ema = ExponentialMovingAverage(self.model, config.ema)
            return
        # After Fabric's set-up, which may have changed the precision of the weights.
        self.state, groups = saved
        self.saved_step = self.state.step
        self.model.load_state_dict(groups["model"])
        self.ema = ExponentialMovingAverage(self.model, config.ema)
        self.ema.load(groups["ema"])
        self.best = dict(groups["best"])
        checkpoint.load_optimizer(optimizer, self.model, groups["optimizer"])

    def _initialize(self) -> list[str]:
        """One pass without gradients, for layers that set themselves up from the first data.

        Returns the names of the floating-point buffers that moved: running averages.
        """
        config = self.config
        before = {name: b.clone() for name, b in self.model.named_buffers()}
        first = batch_indices(0, config.batch_size, self.n, config.seed)
        torch.manual_seed(derive(INITIALIZE, config.seed))
        with torch.no_grad():
            self.model(*self._inputs(first))
        return [
            name
            for name, buffer in self.model.named_buffers()
            if buffer.is_floating_point() and not torch.equal(buffer, before[name])
        ]

    def _inputs(self, indices: Tensor) -> Iterator[Tensor]:
        """Some training examples, and their labels if any, on this process's device.

        Nothing else is read: the data may be a file that is larger than the memory.
        """
        for whole in self.train:
            part = whole[indices].to(self.fabric.device)
            if self.config.channels_last and part.dim() == 4:
                part = part.contiguous(memory_format=torch.channels_last)
            yield part

    # The loop

    def _loop(self) -> None:
        config, state = self.config, self.state
        started = time.perf_counter() - state.seconds
        if self.folder is not None and self.fabric.is_global_zero:
            write_metrics(self.folder / "metrics.csv", state.history)
        # As in `evaluate`: levels in the data do not make a likelihood of levels.
        discrete = hasattr(self.model, "bits_per_dim")
        dims = math.prod(self.data.event_shape) if discrete else None
        progress = Progress(config.steps, state.step, dims, enabled=self.verbose)
        with progress:
            while not state.finished:
                rate = learning_rate(state.step, config)
                nats = self._update(state.step, rate)
                state.step += 1
                last = state.step == config.steps
                validation = None
                if config.validation and (last or state.step % config.validate_every == 0):
                    validation = self._validate(rate)
                state.finished = last or (
                    config.patience is not None and state.stale >= config.patience
                )
                state.seconds = time.perf_counter() - started
                logged = state.finished or validation is not None
                if logged or state.step % config.log_every == 0:
                    row = progress.row(state.step, nats, validation, rate, state.seconds)
                    state.history.append(row)
                    if self.folder is not None and self.fabric.is_global_zero:
                        write_metrics(self.folder / "metrics.csv", [row], append=True)
                progress.advance(nats)
                if config.sample_every and state.step % config.sample_every == 0:
                    self._draw_samples()
                if state.step % config.checkpoint_every == 0 and not state.finished:
                    self._save()
            if state.step < config.steps:
                progress.say(
                    f"Stopped early at step {state.step}: no better validation loss than "
                    f"{state.best:.4f} nats in {state.stale} validations."
                )

    def _update(self, step: int, rate: float) -> float:
        """One parameter update; returns the mean loss of the whole batch, in nats per example."""
        config, fabric = self.config, self.fabric
        indices = batch_indices(step, config.batch_size, self.n, config.seed)
        parts = indices.view(config.micro_batches, -1)
        share = config.micro_batches // fabric.world_size
        # A micro-batch sees the running averages as they were before the update, and they move by
        # the mean of what all micro-batches make of them: no order, no dependence on processes.
        start = {name: self.model.get_buffer(name).clone() for name in self.running}
        drift = {name: torch.zeros_like(buffer) for name, buffer in start.items()}
        losses = []
        for k in range(share):
            part = fabric.global_rank * share + k
            torch.manual_seed(derive(NOISE, config.seed, step, part))
            for name in drift:
                self.model.get_buffer(name).copy_(start[name])
            with fabric.no_backward_sync(self.module, enabled=k < share - 1):
                loss = -self.module(*self._inputs(parts[part])).mean()
                fabric.backward(loss / share)
            losses.append(loss.detach())
            for name in drift:
                drift[name] += (self.model.get_buffer(name) - start[name]) / share
        for name, change in drift.items():
            self.model.get_buffer(name).copy_(start[name] + self._mean(change))
        nats = float(self._mean(torch.stack(losses).mean()))
        limit = math.inf if config.clip_norm is None else config.clip_norm
        gradient = fabric.clip_gradients(
            self.module, self.optimizer, max_norm=limit, error_if_nonfinite=False
        )
        norm = float(cast(Tensor, gradient))
        if not math.isfinite(nats):
            raise self._diverged("loss", nats, rate)
        if not math.isfinite(norm):
            raise self._diverged("norm of the gradient", norm, rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(step)
        return nats

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        return cast(Tensor, self.fabric.all_reduce(value))

    def _validate(self, rate: float) -> float:
        """Loss of the averaged weights on the held-out examples, with the same noise every time."""
        weights, total = self.ema.weights(), 0.0
        if self.fabric.is_global_zero:
            torch.manual_seed(derive(VALIDATE, self.config.seed))
            self.model.eval()
            with torch.no_grad():
                size = self.config.batch_size
                for batch in zip(*(part.split(size) for part in self.held_out), strict=True):
                    x, *context = (part.to(self.fabric.device) for part in batch)
                    x = x.to(self.dtype) if x.is_floating_point() else x
                    total -= float(functional_call(self.model, weights, (x, *context)).sum())
            self.model.train()
        value = float(self.fabric.broadcast(total)) / len(self.held_out[0])
        if not math.isfinite(value):
            raise self._diverged("validation loss", value, rate)
        if self.state.best is None or value < self.state.best:
            self.state.best, self.state.stale = value, 0
            self.best = {name: tensor.clone() for name, tensor in weights.items()}
        else:
            self.state.stale += 1
        return value

    def _draw_samples(self) -> None:
        """A picture of what the averaged weights draw at this step, with the same noise always."""
        if self.folder is not None and self.fabric.is_global_zero:
            kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.model.load_state_dict(self.ema.weights())
            self.model.eval()
            name = f"{runs.SAMPLES}/step-{self.state.step:08d}"
            save_samples(self.model, self.data, self.folder, seed=self.config.seed, name=name)
            self.model.load_state_dict(kept)
            self.model.train()
        self.fabric.barrier()

    def _diverged(self, what: str, value: float, rate: float) -> TrainingDiverged:
        kept = "Nothing was saved"
        if self.folder is not None and self.saved_step is not None:
            kept = f"The checkpoint after step {self.saved_step} is kept in {self.folder}"
        return TrainingDiverged(
            f"The {what} is {value} after {self.state.step} updates, at learning rate {rate:.3g}. "
            f"{kept}. Try a lower learning_rate, a longer warmup_steps, a smaller clip_norm (now "
            f"{self.config.clip_norm}) or precision=64-true, and check that the data lie in the "
            "model's domain."
        )

    # After the last step

    def _save(self) -> None:
        if self.folder is not None and self.fabric.is_global_zero:
            groups = {
                "model": self.model.state_dict(),
                "ema": self.ema.parameters,
                "best": self.best,
                "optimizer": checkpoint.optimizer_tensors(self.optimizer, self.model),
            }
            checkpoint.save(self.folder, self.state, groups)
        self.saved_step = self.state.step
        self.fabric.barrier()

    def _end(self) -> None:
        """Save the final weights, then mark the run as finished: the order survives a kill."""
        if self.folder is not None and self.fabric.is_global_zero:
            write_tensors(self.folder / runs.WEIGHTS, self.best or self.ema.weights())
        self._save()

    def _result(self) -> TrainingResult:
        weights = self.best or self.ema.weights()
        self.model.load_state_dict(weights)
        recompute_steps(self.model, False)
        return TrainingResult(
            model=self.model.eval(),
            steps=self.state.step,
            history=self.state.history,
            best_validation=self.state.best,
            seconds=self.state.seconds,
            run_dir=self.folder,
        )
