"""What a host says of itself, as a broken one may: judged, or refused in one line."""

from __future__ import annotations

import json

from hostile_json import mutations

from primesvt_deploy.edge.bench.machine import fingerprint, state
from primesvt_deploy.edge.bench.machine_schema import check_machine
from primesvt_deploy.edge.bench.preflight import check
from primesvt_deploy.edge.runtime.checked_json import parse_json
from primesvt_deploy.edge.runtime.runtimes import RUNTIMES

PI = {
    "fingerprint": {
        "architecture": "aarch64", "python": "3.13.2", "numpy": "2.3", "onnxruntime": "1.32.0",
        "c_compiler": None, "cpu_part": "0xd08+0xd03",
    },
    "state": {
        "memory_available_bytes": 10**9, "swap_used_bytes": 10**6, "governor": ["ondemand"],
        "throttled": {"raw": "0x50005", "now": ["under-voltage"], "since_boot": ["throttled"]},
    },
}  # fmt: skip


def test_this_machine_passes() -> None:
    check_machine(json.loads(json.dumps({"fingerprint": fingerprint(), "state": state()})))


def test_what_passes_can_be_judged() -> None:
    judged = 0
    for described, text in mutations(PI, seed=0, count=10**6):
        try:
            machine = parse_json(text)
            check_machine(machine)
        except ValueError as error:
            assert str(error).isprintable() and len(str(error)) < 500, described
        else:
            found = check(machine, {"opset": "1.20"}, need_bytes=10**10, runtimes=RUNTIMES)
            assert all(map(str.isprintable, (*found.refusals, *found.notes))), described
            judged += 1
    assert judged > 100
