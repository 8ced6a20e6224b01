"""Choice of the stem stages that pool, in Spikformer and Spike-driven Transformer V1."""

from __future__ import annotations

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.options import ModelOptions

__all__ = ["check_pooling", "chosen_pooling"]

_BY_PATCH_SIZE = {4: "0011", 16: "1111"}


def check_pooling(pooling: str) -> None:
    """Refuse a description of the stem's pooling that is not four binary digits.

    Args:
        pooling: a digit for each stem stage, 1 where it pools, such as `0011`.

    Raises:
        ModelError: it is of another form.
    """
    if len(pooling) != 4 or set(pooling) - {"0", "1"}:
        raise ModelError(
            f"pooling is {pooling!r}: expected four digits, 1 for each stem stage that pools, "
            "such as 1111 or 0011; pass --pooling or --patch-size"
        )


def chosen_pooling(options: ModelOptions, default: str | None = None) -> str:
    """The stem's pooling by the option `pooling`, else by `patch_size`, else `default`.

    Raises:
        ModelError: none of them is given, or the patch size is neither 4 nor 16.
    """
    if options.pooling is not None:
        return options.pooling
    if options.patch_size is None and default is not None:
        return default
    patch_size = options.require("patch_size")
    if patch_size not in _BY_PATCH_SIZE:
        raise ModelError(
            f"patch size {patch_size}: this stem has 4 or 16; pass --patch-size or --pooling"
        )
    return _BY_PATCH_SIZE[patch_size]
