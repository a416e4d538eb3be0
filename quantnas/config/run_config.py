"""Every setting of a run with its default, as frozen dataclasses.

The string under a field describes it. The defaults suit `rfdn_small`, a dozen photographs and two
CPU cores; `quantnas run --config FILE` and `--set section.key=value` change them.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from .validators import require, require_paths, require_shares, resolution

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class SearchConfig:
    """Differentiable search over operations and bit widths (arXiv 2208.14839)."""

    epochs: int = 20
    """Epochs of the search; the entropy schedule counts in them."""
    steps_per_epoch: int = 36
    """Steps per epoch: each updates the alphas and then the weights, on disjoint halves of the
    patches."""
    warmup_epochs: int = 7
    """Epochs at the start in which only the weights learn."""
    batch: int = 8
    """Patches per update."""
    patch: int = 24
    """Side of a low-resolution patch, pixels."""
    weight_lr: float = 2e-3
    """Learning rate of the weights (Adam), falling along a cosine to 0."""
    alpha_lr: float = 3e-2
    """Learning rate of the alphas (Adam with betas (0.5, 0.999)), constant. The published 3e-4 is
    for 40 thousand steps."""
    penalty: float = 3e-4
    """Weight of the expected BitOps, as a share of those at the start."""
    entropy: float = 4e-2
    """Weight of the mean normalised entropy of the edges at the end of its schedule."""
    target_bitops: float | None = None
    """BitOps that the searched network shall have, instead of a penalty; it ends within 5 %."""
    at: str = "32x32"
    """Low-resolution height x width at which expected and target BitOps are counted."""
    refresh: int = 60
    """Steps between two fits of the grids that set the noise; the first fits come earlier, at steps
    1, 2, 4, 8 and so on."""
    strategy: Literal["gradient", "random"] = "gradient"
    """Search strategy. random: train random architectures of the target BitOps for as many steps
    in all, and keep the best."""
    samples: int = 8
    """Number of random architectures that share the steps."""
    keep: Literal["last", "best", "trial"] = "last"
    """Genotype that later steps use. last: the final one; best: the best one on validation patches;
    trial: the best of the latest different ones (`samples`) after a short training of each."""
    trial_steps: int = 60
    """Steps of the short training per genotype (`keep: trial`)."""
    relaxation: Literal["noise", "direct", "authors"] = "noise"
    """Stand-in for rounding during the search. noise: noise of the size of the rounding error;
    direct: fake quantization with trained steps in every candidate; authors: the noise of the
    published code."""
    probabilities: Literal["joint", "factorised"] = "joint"
    """joint: one probability for every pair of operation and bit widths, as published; factorised:
    separate probabilities for operations and for bit widths."""
    deviation: Literal["adq", "adadm", "batchnorm", "none"] = "adq"
    """Normalisation around every cell. adq: batch norm with adaptive deviation; adadm: its older
    form; batchnorm: plain; none: no normalisation."""
    draw: bool = True
    """Whether only one of the candidates with several convolutions runs in each step, drawn by
    their probabilities; for the relaxation `noise`."""
    floor: float = 0.005
    """Probability below which a candidate is left out of a step."""
    processes: int = 1
    """Processes that share every batch, on the cores of one machine or of several, or on GPUs."""

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
        if self.target_bitops is not None:
            require(self, 1, "target_bitops")
        resolution(self.at)

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width) of `at`."""
        return resolution(self.at)


@dataclass(frozen=True)
class TrainConfig:
    """Training of the decided architecture: in float, then with rounding."""

    start: str = "searched"
    """Initial weights. searched: those of the supernet, or random ones where there was no search;
    scratch: random ones; float: those of the float network of the earlier run, which is not
    trained again; or the path of a safetensors file."""
    float_steps: int = 3000
    """Training steps in float."""
    qat_steps: int = 800
    """Training steps with rounding; with 0, grids are fitted and the weights stay as they are."""
    batch: int = 16
    """Patches per step."""
    patch: int = 32
    """Side of a low-resolution patch, pixels."""
    lr: float = 2e-3
    """Learning rate of the float steps (Adam), falling along a cosine to 0."""
    qat_lr: float = 5e-4
    """Learning rate of the steps with rounding (Adam), falling along a cosine to 0."""
    warmup: int = 20
    """Steps in which the learning rate rises at the start."""
    loss: Literal["l1", "charbonnier"] = "l1"
    """Loss against the photograph."""
    average: float = 0.0
    """Decay of a moving average of the weights, such as 0.999; the average is then measured and
    kept. 0 = none."""
    teacher: str | None = None
    """Float network whose output is learned too (knowledge distillation): the folder of a run, or
    `own` for the result of the float steps, which then teaches the steps with rounding."""
    teacher_share: float = 0.5
    """Share of the loss that is measured against the teacher."""
    check: int = 100
    """Steps between two measurements on validation patches; the best state measured is kept."""
    max_hours: float | None = None
    """Time limit of both trainings together, hours; time before an interruption counts."""
    processes: int = 1
    """Processes that share every batch, as `search.processes`, in float and with rounding."""

    def __post_init__(self) -> None:
        require(self, 1, "batch", "patch", "warmup", "check")
        require(self, 0, "float_steps", "qat_steps", "lr", "qat_lr", "average", "teacher_share")
        require_paths(self, "start", "teacher")
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
    """Method that rounds the weights; all but `saliency` are baselines, without retraining."""
    train: str = "weights"
    """Parameters to retrain: weights (with the grids), lowrank:R (updates of rank R), clip (the
    grids alone) or none."""
    steps: int = 400
    """Steps of retraining on the float network's output; 0 = none."""
    minutes: float | None = None
    """Time limit of the whole quantization, reading and least squares included, minutes;
    retraining takes the rest of it and ignores `steps`."""
    batch: int = 8
    """Crops per step of retraining."""
    patch: int = 32
    """Side of a crop, low-resolution pixels."""
    rate: float = 1e-2
    """Learning rate of retraining (Adam), falling along a cosine to 0: change per step, in standard
    deviations of a kernel, for a network whose output is at 42 dB to the float one. For other
    networks it is scaled in proportion to their error."""
    crops: int = 32
    """Crops of the calibration set, for saliency, grids and least squares."""
    range_photos: int = 100
    """Photographs whose largest values the 8-bit grids of activations cover: of the calibration
    set, bundled and drawn ones. 0 = none; the grids then have the least squared error on the
    crops, and cut rare large values."""
    calib: str | None = None
    """Folder of photographs to calibrate and retrain on; none = those of the run."""
    reduce: bool = True
    """Whether photographs of `calib` are shrunk to low resolution first; false when they have low
    resolution already."""
    hold: float = 0.0
    """Weight of a penalty that pulls the weights towards the float ones, weighted by saliency; as
    a share of the loss at the start."""
    blocks: float = 0.0
    """Weight of the error predicted from the outputs of the cells, beside the loss on the output
    of the network."""
    block_steps: int = 0
    """Steps in which each cell is retrained alone, front to back, before the network as a whole;
    for deep networks; 0 = none."""
    ends: Literal[2, 3, 4, 8] = 8
    """Bit width of the first and the last convolution, weights and activations."""
    target_bitops: float | None = None
    """BitOps within which bit widths are chosen, convolution by convolution, for the least damage;
    none = the same bit widths everywhere."""
    at: str = "32x32"
    """Low-resolution height x width at which `target_bitops` are counted."""
    target_size: float | None = None
    """Bytes of packed weights within which bit widths are chosen, as for `target_bitops`."""
    average_bits: float | None = None
    """Mean bits per weight, between first and last convolution, within which bit widths are chosen,
    as for `target_bitops`."""
    carry: Literal["auto", "integer", "float"] = "auto"
    """How an imported network's tensors are carried between its convolutions: all in 8 bits
    (`integer`), in `float`, or in 8 bits but for those whose rounding costs much (`auto`)."""
    carry_drop: float = 0.05
    """Loss of PSNR, against the form in which all tensors are carried in float, that `auto` accepts
    for carrying them in 8 bits, dB."""
    max_drop: float | None = None
    """Largest loss of PSNR against the float network that is accepted on any set of photographs,
    dB. Where bicubic beats the float network, it is what an error as large as that against the
    float network would take from bicubic's PSNR."""

    def __post_init__(self) -> None:
        require(self, 1, "batch", "patch", "crops")
        least_0 = ("steps", "rate", "hold", "blocks", "block_steps", "carry_drop", "range_photos")
        require(self, 0, *least_0)
        require_paths(self, "calib")
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise ValueError(f"`{budgets[0]}` and `{budgets[1]}` are both given; one is enough")
        bounds = {"minutes": 1e-3, "max_drop": 0.0, **dict.fromkeys(budgets, 1e-3)}
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
        """Name of the limit within which bit widths are chosen; None without a limit."""
        return next((name for name in BUDGETS if getattr(self, name) is not None), None)

    @property
    def retrains(self) -> bool:
        """Whether the network is retrained after its weights were rounded."""
        timed = self.steps > 0 or self.minutes is not None
        return self.method == "saliency" and self.train != "none" and timed


TRAINED = r"weights|clip|none|lowrank:([1-9]\d*)"
"""Pattern of the values of `quantize.train`; its group is the rank."""
BUDGETS = ("target_bitops", "target_size", "average_bits")
"""Settings of `quantize` that limit the cost of the chosen bit widths."""


@dataclass(frozen=True)
class ExportConfig:
    """The form of the exported file; the numbers in it are the same in all forms."""

    format: Literal["onnx", "float", "qonnx", "tflite"] = "onnx"
    """File that is written in addition to model.onnx. onnx: none; float: the float network, to
    compare with; qonnx: for FPGA toolchains; tflite: for LiteRT."""
    compat: bool = False
    """Whether weights below 8 bits become bytes and a table, for ONNX Runtime from 1.16 on."""
    uint8_io: bool = False
    """Whether the file takes and gives pixels as uint8 from 0 to 255, (N, 3, H, W), rounded and
    clipped in the file."""
    plain: bool = False
    """Whether every convolution is written as its layer is, and not in the form that ONNX Runtime
    runs quickest."""
    size: str = "any"
    """Low-resolution height x width, such as 180x320, to which the file is fixed, or `any`."""

    def __post_init__(self) -> None:
        if self.size != "any":
            resolution(self.size, "size")

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width) of `size`; None where any size is taken."""
        return None if self.size == "any" else resolution(self.size, "size")


@dataclass(frozen=True)
class PixelsConfig:
    """Pixel conventions of an imported network; none = determined on photographs."""

    input_peak: Literal[1, 255] | None = None
    """Value of white in the input."""
    output_peak: Literal[1, 255] | None = None
    """Value of white in the output."""
    order: Literal["RGB", "BGR"] | None = None
    """Order of the channels."""


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run."""

    space: str = "rfdn_small"
    """Search space: a built-in name or a YAML file."""
    scale: Literal[2, 3, 4] | None = None
    """Magnification; none = that of the search space."""
    genotype: str | None = None
    """JSON file with a genotype of the search space, which replaces the search."""
    data: str | None = None
    """Folder of photographs to learn from; none = the bundled ones."""
    eval_data: str | None = None
    """Folder of photographs to evaluate on; none = some photographs of `data` are held out."""
    benchmarks: tuple[str, ...] = ()
    """Further folders of photographs to evaluate on, Set5 for example."""
    bits: Literal[2, 3, 4, 8] | None = None
    """Weight bit width between first and last convolution; none = as searched."""
    act_bits: Literal[2, 3, 4, 8] = 8
    """Activation bit width of the same convolutions, when `bits` is given."""
    seed: int = 0
    """Seed of all random numbers."""
    device: Device = "auto"
    """Device to compute on; auto = a GPU where there is one."""
    search: SearchConfig = field(default_factory=SearchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)

    def __post_init__(self) -> None:
        require(self, 0, "seed")
        require_paths(self, "space", "genotype", "data", "eval_data", "benchmarks")

    @property
    def as_searched(self) -> bool:
        """Whether quantization keeps the bit widths of the genotype."""
        return self.bits is None and self.quantize.budget is None
