"""Guidance at sampling time, and keeping a guided x_0 within range."""

# B batch; predictions (B, ...)

from torch import Tensor

from unclip.config import Config, ConfigError


def classifier_free(conditional: Tensor, unconditional: Tensor, *, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2021): scale 1 is the conditional prediction.

    The result is the same in ε, v or x_0, which are affine in each other at one x_t.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def clamp_static(x_start: Tensor, *, limit: float = 1.0) -> Tensor:
    """Clamp to [-limit, limit], the range of the data."""
    return x_start.clamp(-limit, limit)


def threshold_dynamic(x_start: Tensor, *, quantile: float) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3), per sample.

    Clamps to the given quantile of |x_0|, where that exceeds 1, and divides by it: guided samples
    keep their contrast in place of saturating. The result lies in [-1, 1].
    """
    limit = x_start.flatten(1).abs().float().quantile(quantile, dim=1).clamp(min=1.0)  # (B,)
    limit = limit.to(x_start.dtype).view(-1, *[1] * (x_start.ndim - 1))
    return x_start.clamp(-limit, limit) / limit


def check_guidance(model: str, guidance_scale: float, config: Config) -> None:
    """Raise `ConfigError` for guidance away from a condition that training never dropped."""
    names = [name for name in ("image_dropout", "text_dropout") if hasattr(config, name)]
    never = next((name for name in names if getattr(config, name) == 0), None)
    if guidance_scale != 1 and never is not None:
        raise ConfigError(
            f"sampling.{model}_guidance_scale={guidance_scale}, but {model}.model.{never}=0: the "
            "model has no null condition to be guided away from; set the scale to 1, or train with "
            f"{never} above 0"
        )
