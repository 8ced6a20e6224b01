"""What a guest program answers, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from primesvt_deploy.devices.emulated_arm.qemu import Guest
from primesvt_deploy.devices.emulated_arm.sandbox import Sandbox
from primesvt_deploy.errors import EmulationError

Faked = Callable[[str], Sandbox]
DIGEST = "0" * 64


def guest(made: Sandbox, folder: Path) -> Guest:
    (folder / "cpu").mkdir()
    return Guest(made, "cortex-a72", folder / "cpu", timeout_s=60.0)


def test_its_answer_is_its_last_line(faked: Faked, tmp_path: Path) -> None:
    made = faked(
        f'''echo before; echo '{{"onnxruntime": "1.2", "digests": {{"a": "{DIGEST}"}}}}' '''
    )
    answer = guest(made, tmp_path).run([])
    assert answer == {"onnxruntime": "1.2", "digests": {"a": DIGEST}}


@pytest.mark.parametrize(
    "said",
    ["", "ready", "[]", '{"onnxruntime": null}', '{"onnxruntime": "1", "digests": ["a"]}',
     '{"onnxruntime": "1", "digests": {"a": "b"}}', "\x1b[2J", "[" * 5000],
)  # fmt: skip
def test_another_answer_is_one_line(said: str, faked: Faked, tmp_path: Path) -> None:
    (tmp_path / "said").write_text(said)
    running = guest(faked(f"cat {tmp_path}/said"), tmp_path)
    with pytest.raises(EmulationError, match=r"^cortex-a72: .* expected its answer: ") as caught:
        running.run([])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
