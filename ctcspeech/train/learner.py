"""One step of the optimizer: batches in, weights changed.

    prepare     samples to features, augmented; what cannot be aligned is left out
    losses      the network's emissions, and the loss of each utterance
    update      the gradient clipped, the optimizer's step

What is added to the loss belongs into `losses`, what follows the weights (their average, say) into
`update` and, if it must survive a stop, into `state_dict`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctcspeech import cuda_built
from ctcspeech.ctc.loss import ctc_loss, infeasible
from ctcspeech.data.dataset import Batch
from ctcspeech.errors import TrainingError
from ctcspeech.model.attention import attention_loss
from ctcspeech.model.deepspeech import AcousticModel
from ctcspeech.train.carry import CarriedStates
from ctcspeech.train.config import RunConfig
from ctcspeech.train.consistency import disagreement, two_views
from ctcspeech.train.ema import MovingAverage
from ctcspeech.train.intermediate import IntermediateNetwork
from ctcspeech.train.joint import JointNetwork, ctc_share
from ctcspeech.train.log import Profile, Sums
from ctcspeech.train.optimizer import Schedule, build_optimizer
from ctcspeech.train.prepare import Materials
from ctcspeech.train.processes import Process, precision
from ctcspeech.train.weight_noise import noisy

__all__ = ["Learner", "StepError", "step_seed"]


class StepError(TrainingError):
    """A loss or a gradient is no finite number."""


class Learner:
    """Optimizer, schedule and precision of a run, and what is summed over an epoch in `sums`."""

    def __init__(
        self, config: RunConfig, materials: Materials, process: Process, profile: Profile
    ) -> None:
        self.config, self.process, self.profile = config.train, process, profile
        self.device = process.device
        self.features, self.model = materials.features, materials.model
        self.alphabet, self.augmenter = materials.alphabet, materials.augmenter
        self.precomputed = materials.dataset.precomputed
        self.sums = Sums()
        self.audio_seconds = 0.0  # trained on by this process
        self.optimizer = build_optimizer(self.model, config.train)
        self.schedule = Schedule(self.optimizer, config.train)
        self.precision = precision(config.train.precision, self.device)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision == torch.float16
        )
        self.ctc_share = ctc_share(config.train, self.model)
        self.carried = None
        if self.config.carry_state:
            self.carried = CarriedStates(self.model, self.config.carry_state)
        self.sampling = 0.0  # of the attention decoder, in this step
        network: torch.nn.Module = self.model
        if self.model.attention is not None:
            network = JointNetwork(self.model)
        if self.config.intermediate_ctc:
            network = IntermediateNetwork(network, self.model)
        self.network: Callable[..., tuple[Tensor, ...]] = network
        if process.world_size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            parallel = torch.nn.parallel.DistributedDataParallel(network, device_ids=ids)
            if self.device.type == "cpu":
                parallel.register_comm_hook(process.world_size, mean_by_parameter)
            self.network = parallel
        self.ema = MovingAverage(self.model, self.config.ema) if self.config.ema else None

    @property
    def judged(self) -> AcousticModel:
        """The model that is validated and kept: the moving average, where one is taken."""
        return self.model if self.ema is None else self.ema.model

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])

    def autocast(self) -> Any:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def prepare(self, batch: Batch, epoch: int) -> Batch | None:
        """Features in place of samples, without utterances that cannot be aligned (the augmentation
        may have shortened them); None if nothing is left."""
        if not len(batch):  # nothing of it could be read
            return None
        with self.profile("features", sampled=True):
            moved = batch.to(self.device, non_blocking=True)
            features, lengths = self.features(moved.inputs, moved.input_lengths)
            frames = self.model.output_lengths(lengths).cpu()
            bad = frames < 1
            if self.ctc_share:
                bad |= infeasible(batch.targets, frames, batch.target_lengths)
        self.sums.utterances += len(batch)
        self.sums.seconds += batch.seconds
        self.audio_seconds += batch.seconds
        keep = (~bad).nonzero()[:, 0]
        self.sums.skipped += int(bad.sum())
        if len(keep) < len(batch):
            moved.utterances = [batch.utterances[i] for i in keep.tolist()]
            for name in ("targets", "target_lengths"):
                setattr(moved, name, getattr(moved, name)[keep.to(self.device)])
            features, lengths = features[keep.to(self.device)], lengths[keep.to(self.device)]
        if not len(keep):
            return None
        moved.inputs, moved.input_lengths = features, lengths
        with self.profile("features", sampled=True):
            self.mask(moved, epoch)
        return moved

    def mask(self, batch: Batch, epoch: int) -> None:
        """SpecAugment; for consistency regularisation on each utterance twice, in two ways."""
        inputs, lengths = batch.inputs, batch.input_lengths

        def masked(view: str) -> Tensor:
            names = [utterance.id + view for utterance in batch.utterances]
            return self.augmenter.mask_batch(inputs, lengths, self.config.seed, epoch, names)

        # Precomputed features have been masked by the dataset; views get masks of their own.
        if self.config.consistency or not self.precomputed:
            batch.inputs = masked("")
        if self.config.consistency:
            two_views(batch, masked("\0second"))

    def stand_in(self) -> Batch:
        """A batch without utterances, with which a process takes part in a step for which it has
        nothing: every process must compute the gradient's exchange."""
        frames, width = self.model.subsampling, self.features.num_features
        none = torch.zeros(0, dtype=torch.int64)
        lengths = torch.full((1,), frames, device=self.device)
        return Batch(torch.zeros(1, frames, width, device=self.device), lengths, none, none, [])

    def train(self, prepared: Sequence[Batch], labels: float, share: float, number: int) -> float:
        """Leaves the gradient of the mean loss over `labels` (those of all processes) in the
        parameters; returns the learning rate. share: of the run, done; number: of the step."""
        rate = self.schedule.apply(share)
        self.sampling = self.config.scheduled_sampling * min(share, 1.0)
        torch.manual_seed(step_seed(self.config.seed, number, self.process.rank))
        self.optimizer.zero_grad(set_to_none=True)
        world = self.process.world_size
        with noisy(self.model, self.config.weight_noise):
            for i, item in enumerate(prepared):
                last = i + 1 == len(prepared)
                with nullcontext() if last or world == 1 else self.network.no_sync():  # type: ignore
                    losses = self.losses(item)
                    with self.profile("backward", sampled=True):
                        mean = losses.sum() * (world / max(1.0, labels))
                        self.scaler.scale(mean).backward()
        return rate

    def losses(self, item: Batch) -> Tensor:
        """The loss of each utterance. Raises StepError naming those where it is no number."""
        if not item.utterances:  # a stand-in, so that this process takes part in the step
            with statistics_kept(self.model):
                emissions, _, logits, middle = self._forward(item)
            given = [x.sum() for x in (emissions, logits, middle) if x is not None]
            return torch.stack(given).sum() * 0.0
        emissions, lengths, logits, middle = self._forward(item)
        with self.profile("loss", sampled=True):
            losses = ctc = self._ctc(emissions, lengths, item)
            if logits is not None:
                losses = self.ctc_share * losses + (1 - self.ctc_share) * self._attention(
                    logits, item
                )
            values = losses.detach()
        wrong = (~values.isfinite()).nonzero()[:, 0].tolist()
        if wrong:
            names = [f"{item.utterances[i].path} ({values[i]:g})" for i in wrong]
            raise StepError(f"the loss is no finite number for {', '.join(names)}")
        self.sums.loss += float(values.double().sum())
        self.sums.labels += int(item.target_lengths.sum())
        if middle is not None:
            with self.profile("loss", sampled=True):
                apart = self._ctc(middle, lengths, item) - ctc
            losses = losses + self.ctc_share * self.config.intermediate_ctc * apart
        if self.config.consistency:
            losses = losses + self.config.consistency * disagreement(emissions, lengths)
        return losses

    def _forward(self, item: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Emissions, their lengths, the attention decoder's logits, where there is one, and the
        emissions of the middle layer, where they count."""
        carried: AbstractContextManager[None] = nullcontext()
        if self.carried is not None and item.utterances:
            carried = self.carried.over(len(item.inputs))
        with self.profile("forward", sampled=True), self.autocast(), carried:
            inputs: tuple[Any, ...] = (item.inputs, item.input_lengths)
            if self.model.attention is not None:
                targets = item.targets
                if not item.utterances:
                    targets = item.input_lengths.new_zeros(len(item.inputs), 0)
                inputs = (*inputs, targets, self.sampling)
            emissions, lengths, *more = self.network(*inputs)
            middle = more.pop() if self.config.intermediate_ctc else None
            return emissions, lengths, more[0] if more else None, middle

    def _ctc(self, emissions: Tensor, lengths: Tensor, item: Batch) -> Tensor:
        """(N,), on the training's device."""
        if not self.ctc_share:  # the output layer takes part, but learns nothing
            return emissions.sum(dim=(1, 2)).float() * 0.0
        # A build without CUDA kernels computes the loss on the CPU: the emissions travel there.
        place = self.device if cuda_built() else torch.device("cpu")
        losses = ctc_loss(
            emissions.float().to(place),
            item.targets.to(place),
            lengths.to(place),
            item.target_lengths.to(place),
            self.alphabet.blank,
            reduction="none",
            batch_first=True,
            label_smoothing=self.config.label_smoothing,
            delay_penalty=self.config.delay_penalty,
        )
        return losses.to(self.device)

    def _attention(self, logits: Tensor, item: Batch) -> Tensor:
        """(N,)."""
        smoothing = self.config.attention_smoothing
        losses = attention_loss(logits, item.targets, item.target_lengths, smoothing)
        self.sums.attention_loss += float(losses.detach().double().sum())
        return losses

    def update(self, batches: Sequence[Batch]) -> float:
        """Clips the gradient and steps; returns the gradient's norm before clipping."""
        clip = self.config.gradient_clip
        self.scaler.unscale_(self.optimizer)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip or math.inf, foreach=True)
        )
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            names = ", ".join(str(u.path) for batch in batches for u in batch.utterances)
            raise StepError(f"the gradient is no finite number ({norm}) for the batch of {names}")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model)
        return norm


def mean_by_parameter(
    world_size: int, bucket: torch.distributed.GradBucket
) -> torch.futures.Future[Tensor]:
    """The mean of a bucket's gradients over the processes, parameter by parameter.

    gloo adds up what three or more processes have in an order that depends on the place in the
    tensor. DistributedDataParallel puts parameters into other buckets after its first step, so that
    a run that goes on would round otherwise than one that was not stopped.
    """
    for gradient in bucket.gradients():
        gradient.div_(world_size)
        torch.distributed.all_reduce(gradient)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


@contextmanager
def statistics_kept(model: torch.nn.Module) -> Iterator[None]:
    """Batch norm takes its running statistics, and does not change them."""
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for the noise of one step in one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
