"""What torch.onnx cannot export is refused in one line: the reason and the line of code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from own_nets import Operating
from small_models import enliven
from torch import nn

from primesvt_deploy import adopt
from primesvt_deploy.errors import ExportError
from primesvt_deploy.lowering.code_line import line_of_error, line_of_stack
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.lowering.trace import trace


def cumulative_maximum(x: torch.Tensor) -> torch.Tensor:
    return x.cummax(-1)[0]


def singular_values(x: torch.Tensor) -> torch.Tensor:
    return x + torch.linalg.svdvals(x)[..., None]


def histogram(x: torch.Tensor) -> torch.Tensor:
    return x + 0 * torch.histc(x, 4).sum()


def data(x: torch.Tensor) -> torch.Tensor:
    x.data.mul_(2)
    return x


def samples_one_by_one(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([2 * x[:, i] for i in range(x.shape[1])], 1)


def refusal(net: nn.Module) -> str:
    model = adopt(enliven(net), image_size=16)
    with pytest.raises(ExportError) as caught:
        trace(lower_module(model.module), model.config, None)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (cumulative_maximum, "ONNX has no operator for aten.cummax (own_nets.py:"),
        (singular_values, "ONNX has no operator for aten._linalg_svd (own_nets.py:"),
        (histogram, "NotImplementedError: aten_histc with min == max (0.0) is not supported"),
        (data, "torch.export cannot capture it: RuntimeError: We found a fake tensor"),
    ],
    ids=["no operator", "decomposed", "no such form", "capture"],
)
def test_a_failed_export_is_told_in_one_line(
    operation: Callable[[torch.Tensor], torch.Tensor],
    said: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    message = refusal(Operating(operation))
    assert said in message
    assert "\n" not in message and "\x1b" not in message and "Next steps" not in message
    assert len(message) < 400
    printed = capfd.readouterr()
    assert "torch.ops" not in printed.out + printed.err, "a traced graph was printed"
    if operation is None:
        assert ": if self.gate > 0:)" in message


@pytest.mark.slow
def test_code_that_fixes_the_number_of_samples_is_traced_with_one() -> None:
    model = adopt(enliven(Operating(samples_one_by_one)), image_size=16)
    graph = trace(lower_module(model.module), model.config, None).graph
    assert graph.inputs[0].shape is not None
    assert list(graph.inputs[0].shape) == [1, 3, 16, 16]


def raising() -> None:
    torch.zeros(2).view(3)


def test_a_line_of_code_is_the_innermost_of_the_users() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(Operating(lambda _: raising())).forward(torch.zeros(1, 3, 16, 16))  # type: ignore[arg-type,return-value]
    line = raising.__code__.co_firstlineno + 1
    assert line_of_error(caught.value) == f"test_export_failure.py:{line}: torch.zeros(2).view(3)"


def test_a_stack_of_libraries_alone_has_no_line_of_the_users() -> None:
    inside = f'  File "{nn.__file__}", line 3, in forward\n    return x\n'
    assert line_of_stack(inside) == ""
    assert line_of_stack(f'  File "/home/me/nets.py", line 7, in f\n{inside}') == "nets.py:7"
