"""Training, fine-tuning, and what is learnt from a teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.config.declare import option
from bench.config.values import above_zero, list_of, parse_ratio, parse_size, positive, share, whole


@dataclass
class TrainOptions:
    """One training run; fine-tuning is the same run from a pruned network."""

    epochs: int = option(300, "passes over the training images", parse=positive)
    batch_size: int = option(16, "images a training step and process", parse=positive)
    crop_size: tuple[int, int] | None = option(
        None, "size of a training crop (default: the data set's, else the input size)", parse=parse_size, metavar="H,W"
    )
    optimizer: str = option("sgd", "optimizer", choices=("sgd", "adamw"))
    lr: float = option(0.01, "initial learning rate", parse=above_zero)
    momentum: float = option(0.9, "SGD momentum", parse=share)
    weight_decay: float = option(1e-4, "weight decay", parse=share, aliases=("wd",))
    backbone_lr_factor: float = option(
        1.0, "learning rate of the backbone over that of the other layers", parse=above_zero, later=True
    )
    freeze_backbone_epochs: int = option(
        0, "first epochs in which the backbone's weights stay as they are", parse=whole, later=True
    )
    warmup_epochs: int = option(
        0, "first epochs, over which the learning rate rises from 0 to that of the schedule", parse=whole, later=True
    )
    schedule: str = option("poly", "learning-rate schedule, per iteration", choices=("poly", "multistep"))
    poly_power: float = option(0.9, "power of --schedule poly", parse=above_zero)
    milestones: list[float] = option(
        [0.6, 0.8],
        "shares of the run after which --schedule multistep divides the learning rate by 10",
        parse=list_of(parse_ratio),
    )
    aux_weight: float = option(0.4, "weight of the auxiliary head's loss, where there is one", parse=share)
    compute_class_weights: bool = option(False, "weight the loss by class frequency")
    class_weighting: str = option(
        "median",
        "what --compute-class-weights weighs a class by: the median frequency over its own (median), or "
        "1 / log(1.02 + its share of all pixels) (log)",
        choices=("median", "log"),
        later=True,
    )
    unweighted_epochs: int = option(
        0, "last epochs, in which all pixels count the same, whatever classes weigh before", parse=whole, later=True
    )
    grad_clip: float = option(0.0, "largest gradient norm; 0 does not clip", parse=share)
    accumulate: int = option(1, "batches whose gradients make one step", parse=positive)
    sparsity_lambda: float = option(
        0.0, "weight of the L1 penalty on scales of norms (network slimming); 0 is none", parse=share
    )
    ema: float = option(0.0, "decay of an exponential moving average of the weights; 0 keeps none", parse=parse_ratio)
    amp: str = option("none", "mixed precision in training", choices=("none", "bf16", "fp16"))
    channels_last: bool = option(False, "train in the channels-last memory format")
    eval_every: int = option(1, "epochs between validations", parse=positive)
    tensorboard: bool = option(False, "also log to TensorBoard")


OF_EPOCHS = ("epochs", "eval_every", "tensorboard", "freeze_backbone_epochs", "warmup_epochs", "unweighted_epochs")
"""Fields of `TrainOptions` that training for a number of steps has no use for."""


@dataclass
class FinetuneOptions:
    """Fine-tuning of a pruned network; what is not named here is as in training."""

    finetune_epochs: int = option(0, "epochs of fine-tuning after pruning; 0 does none", parse=whole)
    finetune_lr: float = option(0.005, "initial learning rate of fine-tuning", parse=above_zero)
    finetune_backbone_lr_factor: float | None = option(
        None,
        "learning rate of the backbone over that of the other layers in fine-tuning (default: --backbone-lr-factor)",
        parse=above_zero,
        metavar="R",
        later=True,
    )

    def rates(self, training: TrainOptions) -> TrainOptions:
        """A training recipe at the rates of fine-tuning."""
        factor = self.finetune_backbone_lr_factor
        if factor is None:
            factor = training.backbone_lr_factor
        return replace(training, lr=self.finetune_lr, backbone_lr_factor=factor)


@dataclass
class DistillOptions:
    """What a pruned network learns from the unpruned one when it is fine-tuned."""

    distill_weight: float = option(
        0.0,
        "weight, in the loss of fine-tuning, of the divergence from what the unpruned network says; 0 leaves that "
        "network out",
        parse=share,
    )
    distill_temperature: float = option(
        1.0, "temperature that softens the probabilities of both networks in distillation", parse=above_zero
    )
    distill_mode: str = option(
        "pixel",
        "what distillation compares: at each pixel the probabilities of the classes (pixel), or of each class where in "
        "the image it is (channel)",
        choices=("pixel", "channel"),
        later=True,
    )
