"""Sub-bit weights: every kernel is one of a few binary kernels of the layer's codebook."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from picojoule.compress.base import QUANTIZERS, Codes, Quantizer, per_row
from picojoule.compress.ste import sign, straight_through
from picojoule.core.errors import ConfigError

MAX_WORD = 16


@QUANTIZERS.register("codebook")
class Codebook(Quantizer):
    """Binary code words by index, less than one bit a weight.

        i(w) = argmax_j <w, P_j>,   w_q = s_o P_i(w),   s_o = mean|w_o|,   P in {-1, +1}^[2^eta, word]
        dw_q/dw = 1 where |w| <= clip

    All words have the same norm, so the largest product is also the nearest word. A word is a whole space
    kernel of a convolution; of 1x1 convolutions and linear layers it is a group of consecutive inputs.
    The codebook holds the 2^eta sign patterns most used by the layer, ties to the smaller pattern; when
    fewer are in use it is filled with seeded random ones. `progress_` selects again every `refresh` steps
    while less than `freeze` of the training is done. Bits per weight: eta / word + 2^eta word / numel(w).

    Args:
        bits: bits per weight, eta = round(bits * word), at least 1 and at most word.
        word: entries of a word; 0 chooses the kernel, or the largest divisor of the fan-in up to 9.
        refresh: steps between two selections of the codebook; 0 keeps the first.
        freeze: share of the training after which the codebook stays.
        clip: latent weights beyond +-clip receive no gradient; None lets all pass.
    Source: S2NN, arXiv:2509.24266 (frequency form of the codebook; our completion of the paper's text).
    """

    coding = "codebook"
    paper = "2509.24266"
    words: Tensor

    def __init__(
        self,
        bits: float = 5 / 9,
        word: int = 0,
        refresh: int = 25,
        freeze: float = 0.3,
        clip: float | None = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < bits <= 1:
            raise ConfigError(f"codebook: bits must lie in (0, 1], got {bits}; e.g. 0.44, 0.56, 0.67")
        if word != 0 and not 2 <= word <= MAX_WORD:
            raise ConfigError(f"codebook: word must be 0 (automatic) or 2..{MAX_WORD}, got {word}")
        if refresh < 0 or not 0 <= freeze <= 1:
            raise ConfigError(f"codebook: refresh >= 0 and 0 <= freeze <= 1, got {refresh} and {freeze}")
        if clip is not None and not clip > 0:
            raise ConfigError(f"codebook: clip must be positive or null, got {clip}")
        self.target = float(bits)
        self.word = word
        self.bits = 1
        self.refresh = refresh
        self.freeze = freeze
        self.clip = clip
        self.kernel = 1
        self.register_buffer("words", torch.ones(2, 1))

    def check(self, shape: tuple[int, ...], path: str) -> None:
        """Refuses a fan-in that no word length divides."""
        try:
            word_length(shape, self.word)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def prepare(self, w: Tensor) -> None:
        """Chooses word length, number of words, and the first codebook."""
        self.word = word_length(tuple(w.shape), self.word)
        self.bits = min(max(round(self.target * self.word), 1), self.word)
        self.kernel = math.prod(w.shape[2:])
        self.words = frequent_patterns(w.reshape(-1, self.word), 1 << self.bits).to(w.dtype)

    def progress(self, step: int, fraction: float, latent: Callable[[], Tensor]) -> None:
        if self.refresh and step > 0 and step % self.refresh == 0 and fraction < self.freeze:
            patterns = frequent_patterns(latent().reshape(-1, self.word), 1 << self.bits)
            self.words.copy_(patterns.to(self.words.dtype))

    def cut(self, rows: np.ndarray, cols: np.ndarray | None, path: str) -> None:
        super().cut(rows, cols, path)
        per_word = max(self.word // self.kernel, 1)  # input channels that share a word
        if cols is None or per_word == 1:
            return
        groups = cols.reshape(-1, per_word) if len(cols) % per_word == 0 else np.zeros((1, 1), dtype=np.int64)
        whole = (groups % per_word == np.arange(per_word)).all() and (np.ptp(groups, axis=1) < per_word).all()
        if groups.shape[1] != per_word or not whole:
            raise ConfigError(
                f"layer {path!r}: removing single inputs would tear code words of {per_word} inputs apart; "
                "shrink before attaching the codebook, or give this layer another method"
            )

    def select(self, w: Tensor) -> Tensor:
        """Index of the nearest word of every kernel: [C_out, fan_in / word]."""
        kernels = w.detach().reshape(-1, self.word)
        return (kernels @ self.words.T).argmax(dim=1).reshape(w.shape[0], -1)

    def _scale(self, w: Tensor) -> Tensor:
        return self.row_mean(w.detach().abs()).flatten()

    def forward(self, w: Tensor) -> Tensor:
        values = self.words[self.select(w)].reshape(w.shape) * per_row(self._scale(w), w.ndim)
        return straight_through(w, values, None if self.clip is None else w.abs() <= self.clip)

    def codes(self, w: Tensor) -> Codes:
        """Indices into the codebook, the codebook, and the scales."""
        ints = self.select(w).to(torch.int16)
        words = self.words.to(torch.int8)
        return Codes(ints, self._scale(w), self.coding, self.bits, tuple(w.shape), words)

    def extra_repr(self) -> str:
        return f"bits={self.bits / max(self.word, 1):.3g}, word={self.word}, words={len(self.words)}"

    @property
    def setting(self) -> str:
        return f"codebook, {self.bits}/{self.word} bit"


def word_length(shape: tuple[int, ...], wanted: int = 0) -> int:
    """Entries of one code word for a weight of `shape` [C_out, C_in, *kernel].

    >>> word_length((64, 32, 3, 3)), word_length((10, 128))
    (9, 8)
    """
    fan_in = 1
    for size in shape[1:]:
        fan_in *= size
    kernel = 1
    for size in shape[2:]:
        kernel *= size
    if wanted:
        if fan_in % wanted:
            raise ConfigError(f"codebook: word {wanted} does not divide the fan-in {fan_in} of {list(shape)}")
        return wanted
    if 2 <= kernel <= MAX_WORD:
        return kernel
    for size in range(min(9, fan_in), 1, -1):
        if fan_in % size == 0:
            return size
    raise ConfigError(
        f"codebook: the fan-in {fan_in} of {list(shape)} has no divisor in 2..9 to group by; "
        "write method 'binary' for this layer"
    )


def frequent_patterns(kernels: Tensor, count: int) -> Tensor:
    """The `count` sign patterns that occur most among kernels [N, word]: [count, word] in {-1, +1}.

    Equal counts go to the smaller pattern number; absent ones are drawn from a fixed seed.
    """
    length = kernels.shape[1]
    powers = 2 ** torch.arange(length, device=kernels.device)
    numbers = ((sign(kernels) > 0) * powers).sum(dim=1)
    uses = torch.bincount(numbers, minlength=1 << length)
    order = torch.argsort(uses, descending=True, stable=True)
    used = int((uses > 0).sum())
    if used < count:
        unused = order[used:]
        draw = torch.randperm(len(unused), generator=torch.Generator().manual_seed(0))
        order = torch.cat((order[:used], unused[draw.to(unused.device)]))
    chosen = order[:count].sort().values
    return ((chosen.unsqueeze(1) & powers) > 0).to(torch.float32) * 2 - 1
