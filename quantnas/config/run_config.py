"""Every setting of a run, with its default: frozen dataclasses and nothing else.

The string under a field is its help. Defaults suit `rfdn_small`, a dozen photographs and two CPU
cores; `quantnas run --config FILE` and `--set section.key=value` change them.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from .validators import require, require_shares, resolution

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class SearchConfig:
    """Differentiable search over operations and bits (arXiv 2208.14839)."""

    epochs: int = 20
    """The entropy schedule counts in these."""
    steps_per_epoch: int = 36
    """A step is one update of the alphas and one of the weights, on disjoint halves."""
    warmup_epochs: int = 7
    """Epochs at the start in which only the weights learn."""
    batch: int = 8
    """Patches per update."""
    patch: int = 24
    """Side of a low-resolution patch, pixels."""
    weight_lr: float = 2e-3
    """Adam, cosine to 0."""
    alpha_lr: float = 3e-2
    """Adam with betas (0.5, 0.999), constant. The published 3e-4 is for 40 thousand steps."""
    penalty: float = 3e-4
    """Weight of the expected BitOps, as a share of those at the start."""
    entropy: float = 4e-2
    """Weight of the mean normalised entropy of the edges at the end of its schedule."""
    target_bitops: float | None = None
    """BitOps that the found network shall have, instead of a penalty; it ends within 5 %."""
    at: str = "32x32"
    """Low-resolution height x width at which expected and wanted BitOps are counted."""
    refresh: int = 60
    """Steps between two fits of the grids that set the noise; at the start they are doubled."""
    strategy: Literal["gradient", "random"] = "gradient"
    """random: train random architectures of the target for as many steps, and keep the best."""
    samples: int = 8
    """Random architectures that share the steps."""
    keep: Literal["last", "best", "trial"] = "last"
    """Genotype that later steps use: the last one, the best one on validation patches, or the
    best of the latest different ones (`samples`) after a short training of each alone."""
    trial_steps: int = 60
    """Of that training, per genotype."""
    relaxation: Literal["noise", "direct", "authors"] = "noise"
    """What stands for rounding while searching: noise; direct: fake quantization with trained
    steps in every candidate; authors: the noise of the published code."""
    probabilities: Literal["joint", "factorised"] = "joint"
    """One probability for every pair of operation and bits as published, or operation and bits
    apart."""
    deviation: Literal["adq", "adadm", "batchnorm", "none"] = "adq"
    """Batch norm with adaptive deviation around every cell, its older form, plain, or none."""
    draw: bool = True
    """Of candidates with several convolutions run one per step, drawn by their probabilities; with
    the relaxation noise."""
    floor: float = 0.005
    """Candidates less probable than this are left out of a step."""
    processes: int = 1
    """That share every batch: on the cores of one machine or of several, or on their GPUs."""

    def __post_init__(self) -> None:
        require(self, 1, "epochs", "steps_per_epoch", "batch", "patch", "refresh", "samples")
        require(self, 3, "trial_steps")
        require(self, 0, "warmup_epochs", "weight_lr", "alpha_lr", "penalty", "entropy", "floor")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"`warmup_epochs` is {self.warmup_epochs} and `epochs` is {self.epochs}; it must "
                "be smaller, or nothing is searched"
            )
        require_shares(self)
        if self.strategy == "random" and self.processes > 1:
            raise ValueError("`processes` is 1 for the random strategy")
        if self.strategy == "random" and 3 * self.samples > self.epochs * self.steps_per_epoch:
            raise ValueError(
                f"`samples` is {self.samples}, more than a third of the steps of the search"
            )
        if self.target_bitops is not None and self.target_bitops <= 0:
            raise ValueError("`target_bitops` is above 0")
        resolution(self.at)

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width) of `at`."""
        return resolution(self.at)


@dataclass(frozen=True)
class TrainConfig:
    """Training of the decided network: in float, then with rounding."""

    start: str = "searched"
    """Weights to begin with. searched: the supernet's, or new ones where there was no search;
    scratch: new ones; float: those of the float network of the run it goes on from, which is not
    trained again; or the path of a safetensors file."""
    float_steps: int = 3000
    qat_steps: int = 800
    """With 0, the rounded network has fitted grids and untouched weights."""
    batch: int = 16
    """Patches per step."""
    patch: int = 32
    """Side of a low-resolution patch, pixels."""
    lr: float = 2e-3
    """Adam, cosine to 0, for the float steps."""
    qat_lr: float = 5e-4
    """The same for the steps with rounding."""
    warmup: int = 20
    """Steps in which the rate rises."""
    loss: Literal["l1", "charbonnier"] = "l1"
    average: float = 0.0
    """Decay of a moving average of the weights, which is measured and kept, as 0.999; 0 = none."""
    teacher: str | None = None
    """A float network whose output is learned too: that of a run, by its folder; `own`: in the
    steps with rounding, that of the float steps."""
    teacher_share: float = 0.5
    """Of the loss, against the teacher."""
    check: int = 100
    """Steps between two measurements on validation patches, the best of which is kept."""
    max_hours: float | None = None
    """Both trainings end by then, what was computed before an interruption included."""
    processes: int = 1
    """As `search.processes`: that share every batch, in float and with rounding."""

    def __post_init__(self) -> None:
        require(self, 1, "batch", "patch", "warmup", "check")
        require(self, 0, "float_steps", "qat_steps", "lr", "qat_lr", "average", "teacher_share")
        require_shares(self)
        if max(self.average, self.teacher_share) > 1:
            raise ValueError("`average` and `teacher_share` are at most 1")
        if self.max_hours is not None:
            require(self, 1e-4, "max_hours")
        if self.start == "float" and not self.qat_steps:
            raise ValueError("nothing is left to be done with `start: float` and `qat_steps: 0`")


@dataclass(frozen=True)
class QuantizeConfig:
    """Low-bit quantization of a trained network against its float form (arXiv 2504.13932)."""

    method: Literal["saliency", "rtn", "minmax", "gptq", "gpfq", "qronos", "adaround"] = "saliency"
    """How weights find their integers; all but `saliency` are baselines, without retraining."""
    train: str = "weights"
    """What is retrained: weights (and grids), lowrank:R (of that rank), clip (grids) or none."""
    steps: int = 400
    """Of retraining on the float network's output; 0 = none."""
    minutes: float | None = None
    """The whole step, reading and least squares included, ends within these; retraining takes what
    is left of them, whatever `steps` says."""
    batch: int = 8
    """Crops per step."""
    patch: int = 32
    """Side of a crop, low-resolution pixels."""
    rate: float = 1e-2
    """Adam, cosine to 0: change per step, in deviations of a kernel, of a network whose output is
    at 42 dB to the float one; in proportion to the error of others."""
    crops: int = 32
    """Crops for saliency, grids and least squares."""
    calib: str | None = None
    """Folder of any photographs to calibrate and retrain on; none = those of the run."""
    reduce: bool = True
    """Whether photographs of `calib` are made smaller first; not if they are so already."""
    hold: float = 0.0
    """Saliency-weighted pull of the weights towards the float ones, as a share of the loss at the
    start."""
    blocks: float = 0.0
    """Weight of the predicted error from what the cells give, beside the loss on the output."""
    block_steps: int = 0
    """Before that, steps of each cell alone, front to back, for deep networks; 0 = none."""
    ends: Literal[2, 3, 4, 8] = 8
    """Bits of the first and of the last convolution, weights and activations."""
    target_bitops: float | None = None
    """Instead of the same bits everywhere: those that damage least within so many BitOps."""
    at: str = "32x32"
    """Low-resolution size at which those are counted."""
    target_size: float | None = None
    """The same within so many bytes of packed weights."""
    average_bits: float | None = None
    """The same within so many bits per weight between first and last convolution."""
    max_drop: float | None = None
    """dB below the float network on any set of photographs that are still accepted."""

    def __post_init__(self) -> None:
        require(self, 1, "batch", "patch", "crops")
        require(self, 0, "steps", "rate", "hold", "blocks", "block_steps")
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` are both given; one is enough")
        bounds = {"minutes": 1e-3, "max_drop": 0.0, **dict.fromkeys(given, 1e-3)}
        for name, least in bounds.items():
            if getattr(self, name) is not None:
                require(self, least, name)
        if not re.fullmatch(TRAINED, self.train):
            raise ValueError(
                f"`train` is '{self.train}', it must be weights, clip, none or lowrank:8 (any rank)"
            )
        resolution(self.at)

    @property
    def budget(self) -> str | None:
        """The name of the limit within which bits are chosen, if there is one."""
        return next((name for name in BUDGETS if getattr(self, name) is not None), None)

    @property
    def retrains(self) -> bool:
        """Whether anything is learned after the weights were rounded."""
        timed = self.steps > 0 or self.minutes is not None
        return self.method == "saliency" and self.train != "none" and timed


TRAINED = r"weights|clip|none|lowrank:([1-9]\d*)"
"""Values of `quantize.train`; the group is the rank."""
BUDGETS = ("target_bitops", "target_size", "average_bits")


@dataclass(frozen=True)
class ExportConfig:
    """The form of the exported file; the numbers in it are the same in all forms."""

    format: Literal["onnx", "float", "qonnx", "tflite"] = "onnx"
    """What is written beside model.onnx, if anything. float: the float network, to compare with;
    qonnx: for FPGA toolchains; tflite: for LiteRT."""
    compat: bool = False
    """Weights below 8 bits as bytes and a table, for ONNX Runtime from 1.16 on."""
    uint8_io: bool = False
    """Pixels in and out: uint8 from 0 to 255, (N, 3, H, W), rounded and clipped in the file."""
    size: str = "any"
    """Low-resolution height x width, as 180x320, if it takes such images alone; see `sides`."""

    def __post_init__(self) -> None:
        if self.size != "any":
            resolution(self.size, "size")

    @property
    def sides(self) -> tuple[int, int] | None:
        return None if self.size == "any" else resolution(self.size, "size")


@dataclass(frozen=True)
class PixelsConfig:
    """White and the order of colours of a network from elsewhere; none = found out by trying."""

    input_peak: Literal[1, 255] | None = None
    output_peak: Literal[1, 255] | None = None
    order: Literal["RGB", "BGR"] | None = None


@dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    space: str = "rfdn_small"
    """Search space: a built-in name or a YAML file."""
    scale: Literal[2, 3, 4] | None = None
    """Magnification; none = that of the space."""
    genotype: str | None = None
    """JSON file with an architecture of the space, which is taken instead of a search."""
    data: str | None = None
    """Folder of photographs to learn from; none = the bundled ones."""
    eval_data: str | None = None
    """Folder of photographs to evaluate on; none = held out of `data`."""
    benchmarks: tuple[str, ...] = ()
    """Further folders of photographs to evaluate on, Set5 for example."""
    bits: Literal[2, 3, 4, 8] | None = None
    """Weight bits between first and last convolution; none = as searched."""
    act_bits: Literal[2, 3, 4, 8] = 8
    """Activation bits of the same convolutions, where `bits` is given."""
    seed: int = 0
    device: Device = "auto"
    search: SearchConfig = field(default_factory=SearchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)

    @property
    def as_searched(self) -> bool:
        """Whether bits stay those of the genotype when it is quantized."""
        return self.bits is None and self.quantize.budget is None
