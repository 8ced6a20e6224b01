"""Programs whose input is pixels: nothing is stored for it, and what the engine cannot run."""

from __future__ import annotations

import pytest
from pixel_nets import own

from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.native.records import PixelsOp
from primesvt_deploy.lowering.native.scratch import scratch_bytes
from primesvt_deploy.lowering.passes import lower_to_program
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

pytestmark = pytest.mark.slow  # networks are traced


def test_the_first_operator_reads_the_callers_pixels() -> None:
    model = quantize(own(kernel_size=3, padding=(1, 2), dilation=(1, 2)), 8, integer_input=True)
    program = lower_to_program(model.module, model.config, precision=Precision.INT8)
    first = program.operators[0]
    assert program.input is None
    assert program.input_shape == (3, 16, 16)
    assert isinstance(first, PixelsOp)
    # A dilated row of 5 pixels of 3 channels and one of ones: 10 pairs of int16.
    assert first.rows.content.shape == (3, 10, 6, 2)
    assert first.rows.content.dtype == "int16"
    assert not first.rows.content[:, 2:4].any()
    assert first.centre.content.tolist() == [125, 123, 114]
    assert (first.window.kernel_width, first.window.dilation_x) == (5, 1)
    # Lines of 20 pixels for 3 rows and one beyond the image, and sums of 4 windows.
    assert scratch_bytes(first) >= 4 * 20 * 4 * 2 + 4 * 6 * 4
    assert "net.conv" in program.integer_layers


def test_a_kernel_that_is_too_tall_is_refused() -> None:
    model = quantize(own(kernel_size=(33, 1), padding=(17, 0)), 8, integer_input=True)
    with pytest.raises(ExportError, match=r"layer net\.conv: a kernel of 33x1 pixels; build with"):
        lower_to_program(model.module, model.config, precision=Precision.INT8)
