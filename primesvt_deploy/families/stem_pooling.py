"""Choice of the stem stages that pool: Spikformer, Spike-driven Transformer V1, SGLFormer."""

from __future__ import annotations

from primesvt_deploy.errors import ModelError
from primesvt_deploy.families.options import ModelOptions

__all__ = ["check_pooling", "chosen_pooling"]

_BY_PATCH_SIZE = {4: "0011", 16: "1111"}


def check_pooling(pooling: str, *, stages: int = 4) -> None:
    """Refuse a description of the stem's pooling that is not a binary digit for each stage.

    Args:
        pooling: a digit for each stem stage, 1 where it pools, such as `0011`.
        stages: of the stem: 4, which a patch size describes as well, or 5.

    Raises:
        ModelError: it is of another form.
    """
    if len(pooling) == stages and not set(pooling) - {"0", "1"}:
        return
    count, examples, flags = {
        4: ("four", "1111 or 0011", "--pooling or --patch-size"),
        5: ("five", "01111 or 00011", "--pooling"),
    }[stages]
    raise ModelError(
        f"pooling is {pooling!r}: expected {count} digits, 1 for each stem stage that pools, "
        f"such as {examples}; pass {flags}"
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
