"""The options of a training run: one frozen dataclass that documents and checks itself.

Everything about an option stands in its one field: type, default, range, recipes, help, what `tune`
searches, whether a resume may change it. The command line, the config file, `tune`, the Python API
and the manual's table are made from it. Precedence: command line over ``--config`` file over the
default. ``None`` means "not given"; the rules in :func:`resolve` fill it in where a rule exists.
"""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..errors import GrigriError
from ..runtime.files import StrPath
from ..runtime.option import Converted, Option, Range, Search, option, options_of
from ..runtime.units import parse_bytes, parse_interval
from .data_options import DataOptions

# A path may be given as a Path, and is stored as text; --batch-size auto is stored as AUTO.
if TYPE_CHECKING:
    PathText: TypeAlias = Converted[str, StrPath]
    BatchSize: TypeAlias = Converted[int, int | Literal["auto"]]
    ByRecipe: TypeAlias = Converted[int, int | None]  # a number once the config is resolved
else:
    PathText, BatchSize, ByRecipe = str, int, int | None

AUTO = 0  # what --batch-size auto is in a config
_SHARE = Range(0, 1)
_BATCH = Range(2, reason="BatchNorm has no variance of one image")
OF_ONECYCLE = ("momentum_min", "warm_up")


def _check_name(name: str) -> None:
    if name[:1] in ("", ".") or "/" in name:
        raise GrigriError(f"--name {name!r} is not a folder name; use --out for the place")


def _check_out(folder: str) -> None:
    if not folder:
        raise GrigriError("--out must not be empty; . is the current folder")


# An option of each group. `report`, `best` and `fine_tune` are what it becomes if it is not given:
# "report" is the 2020 report's last recipe, "best" is ours, as measured from scratch, and
# "fine_tune" is ours for loaded weights, where that is another (benchmarks/README.md).
of_model, of_training, of_augmentation, of_machine, of_output = (
    functools.partial(option, group=group)
    for group in ("Model", "Training", "Augmentation", "Machine", "Output")
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataOptions):
    """Everything that decides a training run. What is not given comes from the recipe."""

    arch: str = of_model(
        "auto",
        "A torchvision classification model; timm/NAME, one of timm's; grigri, a compact residual "
        "network that learns fast from scratch; or simple, the report's. auto: resnet34 on a GPU; "
        "on a CPU timm/tf_efficientnet_lite2, or grigri from scratch.",
    )
    weights: PathText = of_model(
        "imagenet",
        "imagenet, none, a .pth/.safetensors file, or a folder as in the Hugging Face hub.",
        words={"imagenet": "imagenet", "none": "none"},
        is_input=True,
    )
    probe: bool | None = of_model(
        None,
        "Begin with a linear probe: the head is fitted to the loaded network's features; that is "
        "the model of epoch 0, and with --epochs 0 it is all there is.",
        report=False,
        best=False,
        fine_tune=True,
        needs_weights="features of a network that has learned nothing say little",
    )
    freeze_backbone: bool = of_model(False, "Train the head only.")
    freeze_stages: int | None = of_model(
        None,
        "Number of first stages that stay as they are: no gradients, norms and dropout as in "
        "evaluation. The stem is the first stage; what follows depends on the network.",
        Range(0),
        unset="three quarters of them on a CPU with --recipe best and loaded weights, else none",
        report=0,
        best=0,
    )
    freeze_norms: bool | None = of_model(
        None,
        "Keep the means and variances of loaded BatchNorms; their scales and shifts are trained.",
        report=False,
        best=False,
        fine_tune=True,
        needs_weights="new BatchNorms know no means and variances yet",
        search=Search(order=8),
    )
    init: Literal["default", "he"] | None = of_model(
        None,
        "How weights that are not loaded are drawn: as torchvision does, or by He et al. (2015), "
        "without which a deep plain network does not learn.",
        report="default",
        best="he",
    )
    train_norms: bool | None = of_model(
        None,
        "Give a network without norms (simple, VGG, AlexNet, SqueezeNet) BatchNorms while it "
        "trains from scratch; in the stored model they are folded into its layers, whose number "
        "and shapes stay.",
        report=False,
        best=True,
        fine_tune=False,
    )
    size: int | None = of_model(
        None,
        "Side of the square that images are resized to, in pixels.",
        Range(1),
        unset="the network's own",
    )
    start_size: int | None = of_model(
        None,
        "Progressive resizing: side in the first epochs; it grows to --size, which the last third "
        "of the epochs has.",
        Range(1),
        unset="--size",
    )
    test_size: int | None = of_model(
        None,
        "Side in evaluation and prediction; while training is at smaller sizes, in proportion.",
        Range(1),
        unset="--size",
    )
    flip_test: bool | None = of_model(
        None,
        "Evaluate and predict with the mean of each image and its mirror image.",
        report=False,
        best=True,
    )

    recipe: Literal["report", "best"] | None = of_training(
        None,
        "Where options come from that are not given. report: the 2020 report's last recipe; best: "
        "ours, of which there are two, one from scratch and one for loaded weights.",
        unset="best",
    )
    epochs: ByRecipe = of_training(
        None,
        "Passes over the training images; 0: only the linear probe.",
        Range(0),
        report=20,
        best=20,
        fine_tune=8,
        may_change=True,
    )
    batch_size: BatchSize = of_training(
        32,
        "Images per step; auto: the largest power of two that fits the memory (--memory-limit, or "
        "most of what is free).",
        _BATCH,
        words={"auto": AUTO},
    )
    micro_batch_size: int | None = of_training(
        None,
        "Images that go through the network at once, where a step's do not fit; BatchNorm sees "
        "each micro-batch alone.",
        _BATCH,
        unset="all, or what --memory-limit leaves",
    )
    activation_checkpointing: bool = of_training(
        False,
        "Compute activations twice instead of keeping them: less memory, about a third slower; "
        "the result is the same.",
    )
    loss: Literal["bce", "mse", "focal", "asl"] = of_training(
        "bce",
        "Loss on the labels: binary cross-entropy, squared error, focal loss, asymmetric loss.",
        search=Search(order=7),
    )
    optimizer: Literal["sgd", "muon", "adam", "adamw", "amsgrad", "rmsprop"] | None = of_training(
        None,
        "Optimizer; muon: orthogonal steps for convolutions, SGD for the rest.",
        report="sgd",
        best="muon",
        fine_tune="sgd",
    )
    schedule: Literal["onecycle", "constant"] = of_training(
        "onecycle", "Course of the learning rate."
    )
    lr: float | None = of_training(
        None,
        "Learning rate; with onecycle its highest value.",
        Range(0, open_low=True),
        unset="by --recipe, or by the optimizer",
        report=0.01,
        best=0.02,
        fine_tune=0.01,
        search=Search(0.1, 10, times_start=True, log=True, by_default=True, order=1),
    )
    head_lr_factor: float = of_training(
        1.0, "The head's learning rate, as a multiple of the backbone's.", Range(0, open_low=True)
    )
    layer_decay: float | None = of_training(
        None,
        "Learning rate of a stage, as a multiple of that of the next one towards the head: the "
        "first stages, whose filters are the most general, change the least.",
        Range(0, 1, open_low=True, closed_high=True),
        report=1.0,
        best=1.0,
        fine_tune=1.0,
        search=Search(0.3, 1.0, order=9),
    )
    warm_up: float | None = of_training(
        None,
        "Share of a one-cycle run in which the rate rises.",
        _SHARE,
        report=0.3,
        best=0.1,
        search=Search(0.0, 0.5, order=4),
    )
    momentum: float | None = of_training(
        None,
        "Momentum, or Adam's beta1; with onecycle its highest value.",
        _SHARE,
        unset="by --recipe with onecycle, else 0.9; 0 for rmsprop",
        report=0.95,
        best=0.9,
        search=Search(
            0.8,
            0.99,
            not_below="momentum_min",
            optimizers=("sgd", "muon"),
            by_default=True,
            order=3,
        ),
    )
    momentum_min: float | None = of_training(
        None, "Momentum while the one-cycle rate is at its peak.", _SHARE, report=0.85, best=0.9
    )
    weight_decay: float | None = of_training(
        None,
        "L2 penalty on the weights; adamw shrinks them apart from the gradient instead.",
        Range(0),
        unset="by --recipe; 0.05 for adamw",
        report=1e-4,
        best=5e-4,
        fine_tune=1e-4,
        search=Search(1e-5, 1e-2, log=True, by_default=True, order=2),
    )
    decay_all: bool | None = of_training(
        None, "Let the penalty hold for norms and biases, too.", report=True, best=False
    )
    ema: float | None = of_training(
        None,
        "Keep an exponential moving average of the weights, with this decay per step, and evaluate "
        "and store that; 0: none.",
        _SHARE,
        report=0.0,
        best=0.998,
    )
    sampler: Literal["shuffle", "balanced"] = of_training(
        "shuffle",
        "Which images an epoch has. shuffle: each once. balanced: those with rare labels more "
        "often (repeat factors), as many in all.",
    )
    most_repeats: float = of_training(
        4.0, "With --sampler balanced: the most that an image is repeated.", Range(1)
    )

    augment: bool = of_augmentation(
        True, "Random resized crop, flip and rotation.", search=Search(order=6)
    )
    least_area: float | None = of_augmentation(
        None,
        "Smallest share of a photograph that a crop has.",
        Range(0, 1, open_low=True, closed_high=True),
        report=0.08,
        best=0.25,
        fine_tune=0.35,
        augments=True,
        without_augment=None,
        search=Search(0.05, 0.7),
    )
    rotation: float | None = of_augmentation(
        None,
        "Largest angle of a rotation, in degrees.",
        Range(0, 180, closed_high=True),
        report=25.0,
        best=10.0,
        augments=True,
        without_augment=None,
        search=Search(0.0, 45),
    )
    color: float | None = of_augmentation(
        None,
        "Random brightness, contrast and saturation, each by up to this share.",
        _SHARE,
        report=0.0,
        best=0.0,
        augments=True,
        search=Search(0.0, 0.5),
    )
    erasing: float | None = of_augmentation(
        None,
        "Share of the images in which a random rectangle is painted over.",
        Range(0, 1, closed_high=True),
        report=0.0,
        best=0.0,
        augments=True,
        search=Search(0.0, 0.5),
    )
    mixup: float | None = of_augmentation(
        None,
        "Blend images in pairs, labels too, with a share from Beta(A, A).",
        Range(0, 100),
        report=0.0,
        best=0.0,
        augments=True,
        search=Search(0.0, 0.5),
        one_process="it blends images across a batch",
    )
    cutmix: float | None = of_augmentation(
        None,
        "Share of the batches in which images get a rectangle of another one, and its labels in "
        "proportion.",
        Range(0, 1, closed_high=True),
        report=0.0,
        best=0.0,
        augments=True,
        search=Search(0.0, 0.7),
        one_process="it blends images across a batch",
    )
    label_smoothing: float | None = of_augmentation(
        None,
        "Move targets from 0 and 1 towards 0.5 by this share.",
        _SHARE,
        report=0.0,
        best=0.0,
        search=Search(0.0, 0.2, order=4),
    )
    seed: int = of_training(0, "Seed of everything random.", Range(0, 2**32 - 1, closed_high=True))

    device: Literal["auto", "cuda", "cpu"] = of_machine("auto", "Where to train.", may_change=True)
    amp: Literal["auto", "fp32", "fp16", "bf16"] = of_machine(
        "auto",
        "Number format of the forward pass; auto: what the device is fast at.",
        without_fast="fp32",
    )
    memory_limit: str | None = of_machine(
        None,
        "The most that this process may take on the device (on a CPU: of memory of its own), like "
        "4GiB or 3500MiB. A trial finds out how to train within it.",
        check=lambda text: parse_bytes(text, "--memory-limit"),
        one_process="its trial is of one process",
        may_change=True,
    )
    cache: Literal["auto", "off", "ram", "device", "disk"] = of_machine(
        "auto",
        "Where decoded images are kept, so that later epochs need not decode; disk: in the user's "
        "cache, for later runs too; auto: where they fit. Pixels are the same.",
        without_fast="off",
        may_change=True,
    )
    compile: Literal["auto", "on", "off"] = of_machine(
        "auto", "torch.compile; auto: where it was measured to pay for itself.", without_fast="off"
    )
    fast: bool = of_machine(
        True,
        "All that makes it fast: number format, memory format, CUDA graphs, cache, compile. "
        "--no-fast: plain PyTorch.",
    )
    threads: int | None = of_machine(
        None,
        "CPU threads. Unless it is given, fewer compute while other programs use the CPUs.",
        Range(1),
        unset="all that are usable",
        may_change=True,
    )

    out: PathText = of_output("runs", "Folder that run folders are made in.", check=_check_out)
    name: str | None = of_output(
        None, "Name of the run folder.", unset="DATA-ARCH", check=_check_name
    )
    checkpoint_every: str = of_output(
        "10min",
        "How often to store what a resume needs, besides at the end of every epoch: a number of "
        "steps, like 500, or of minutes, like 10min. Ctrl-C and SIGTERM store it too.",
        check=parse_interval,
        may_change=True,
    )
    tensorboard: bool = of_output(
        False,
        "Also write what TensorBoard shows into RUN/tensorboard (pip install tensorboard).",
        may_change=True,
    )

    def __post_init__(self) -> None:
        for name, about in options_of(type(self)).items():
            object.__setattr__(self, name, about.checked(getattr(self, name)))
        _require_consistent(self)

    @property
    def size_px(self) -> int:
        """The side, of a config for which the network's own has been filled in."""
        if self.size is None:
            raise ValueError("the size is not decided yet")
        return self.size

    def size_in(self, epoch: int) -> int:
        """Return the side of the images to train on in an epoch, from 1, of a resolved config.

        The linear probe, which is epoch 0, has ``size``.

        From ``start_size`` it grows in steps of 16 px (or to an odd end) to ``size``, evenly over
        the first two thirds of the epochs; the last third, at least the last one, has ``size``.
        """
        if self.start_size is None or epoch in (0, self.epochs):
            return self.size_px
        way = min(1.0, 1.5 * (epoch - 1) / self.epochs)
        size = self.start_size + way * (self.size_px - self.start_size)
        return min(self.size_px, max(self.start_size, int(size) // 16 * 16))

    def test_size_in(self, epoch: int) -> int:
        """Return the side of the images to evaluate on after an epoch, of a resolved config.

        It grows with the side in training: a network that has seen small images alone is at a loss
        with large ones (Touvron et al. 2019, arXiv 1906.06423).
        """
        return self.size_in(epoch) * (self.test_size or self.size_px) // self.size_px


OPTIONS: dict[str, Option] = options_of(TrainConfig)


def _require_consistent(config: TrainConfig) -> None:
    """Raise GrigriError if options that are given contradict each other."""
    given = {name: getattr(config, name) for name in OPTIONS}
    micro_batch_size, batch_size = config.micro_batch_size, given["batch_size"]
    if micro_batch_size is not None and batch_size == AUTO:
        raise GrigriError("--batch-size auto takes whole batches; no --micro-batch-size")
    if micro_batch_size is not None and micro_batch_size > batch_size:
        raise GrigriError(
            f"--micro-batch-size {micro_batch_size} is above --batch-size {batch_size}"
        )
    if config.compile == "on" and (config.memory_limit or config.activation_checkpointing):
        other = "--memory-limit" if config.memory_limit else "--activation-checkpointing"
        raise GrigriError(f"--compile on does not go with {other}; take --compile off")
    if config.split is not None and (config.val is not None or config.test is not None):
        raise GrigriError("--split says which images are in which part; leave --val/--test out")
    if config.strict and config.max_bad:
        raise GrigriError("--strict allows no unusable image; leave --max-bad out")
    if (config.val or 0) + (config.test or 0) >= 1:
        raise GrigriError("--val and --test together leave nothing to train on")
    for name in OF_ONECYCLE:
        if config.schedule == "constant" and given[name] is not None:
            raise GrigriError(f"{OPTIONS[name].flag} only works with --schedule onecycle")
    for name, about in OPTIONS.items():
        if about.augments and given[name] and not config.augment:
            raise GrigriError(f"{about.flag} does nothing with --no-augment")
    if config.start_size and config.size and config.start_size > config.size:
        raise GrigriError(f"--start-size {config.start_size} is above --size {config.size}")
    for name, about in OPTIONS.items():
        if about.needs_weights and given[name] and config.weights == "none":
            raise GrigriError(f"{about.flag} needs loaded weights: {about.needs_weights}")
    if config.train_norms and config.weights != "none":
        raise GrigriError(
            "--train-norms would undo what loaded weights have learned; use --no-train-norms"
        )
    if config.freeze_backbone and config.head_lr_factor != 1:
        raise GrigriError("--head-lr-factor does nothing with --freeze-backbone; set --lr")
    for name, nothing in (("freeze_stages", 0), ("freeze_norms", False), ("layer_decay", 1.0)):
        if config.freeze_backbone and given[name] not in (None, nothing):
            raise GrigriError(f"{OPTIONS[name].flag} does nothing with --freeze-backbone")
