"""Log band energies of sound, with NumPy only."""

from __future__ import annotations

import numpy as np

from picojoule.core.errors import DataError

FRAME_S = 0.025
HOP_S = 0.010
LOW_HZ = 100.0


def mel(hz: np.ndarray | float) -> np.ndarray:
    """Pitch in mel, m = 2595 log10(1 + f / 700).

    Source: O'Shaughnessy, Speech Communication, 1987.
    """
    return 2595.0 * np.log10(1.0 + np.asarray(hz, dtype=np.float64) / 700.0)


def mel_filters(bands: int, size: int, rate_hz: int) -> np.ndarray:
    """Triangular filters [bands, size // 2 + 1], equally spaced in mel up to half the rate."""
    edges = 700.0 * (10.0 ** (np.linspace(mel(LOW_HZ), mel(rate_hz / 2), bands + 2) / 2595.0) - 1.0)
    hz = np.fft.rfftfreq(size, 1.0 / rate_hz)
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    return np.maximum(0.0, np.minimum((hz - low) / (mid - low), (high - hz) / (high - mid)))


def log_bands(sound: np.ndarray, rate_hz: int, steps: int = 12, bands: int = 24) -> np.ndarray:
    """Log energies of a recording in bands and steps.

        E[t, b] = ln(mean over the frames of step t of sum_f filter[b, f] |FFT(hann * frame)[f]|^2 + 1)

    Frames are 25 ms every 10 ms; a step is an equal share of the recording, so that short and long recordings
    give the same shape. Samples are taken in units of the 16-bit integer: the 1 is the floor of one such
    unit.

    Args:
        sound: int16 samples [n].
        rate_hz: samples a second.
        steps: time steps T.
        bands: number of bands.
    Returns:
        float64 [steps, bands].
    Raises:
        DataError: the recording is empty.
    """
    if sound.size == 0:
        raise DataError("a recording without samples has no features")
    size, hop = round(FRAME_S * rate_hz), round(HOP_S * rate_hz)
    count = max(1, -(-(sound.size - size) // hop) + 1)
    padded = np.zeros((count - 1) * hop + size)
    padded[: min(sound.size, padded.size)] = sound[: padded.size]
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hanning(size)
    length = 1 << (size - 1).bit_length()
    energy = (np.abs(np.fft.rfft(frames, length)) ** 2) @ mel_filters(bands, length, rate_hz).T
    edges = np.linspace(0, count, steps + 1)
    first = np.minimum(np.floor(edges[:-1]).astype(int), count - 1)
    last = np.maximum(np.ceil(edges[1:]).astype(int), first + 1)
    mean = np.stack([energy[a:b].mean(0) for a, b in zip(first, last)])
    return np.log(mean + 1.0)


def quantise_bands(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Features [N, T, bands] as uint8; 0..255 span the 0.5 to 99.5 % quantiles of each band of `fitted`."""
    low, high = np.quantile(fitted, [0.005, 0.995], axis=(0, 1))
    span = np.where(high > low, high - low, 1.0)
    return np.clip(np.rint((x - low) / span * 255.0), 0, 255).astype(np.uint8)
