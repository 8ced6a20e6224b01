"""One sample by several threads gives the same logits, to the last bit.

So does one `Classifier` that several threads of a program use.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from families.zoo import FORMS, model_of, samples_of
from hostile_files import small_images
from native_bundles import small_bundle

from primesvt_deploy import Classifier
from primesvt_deploy.artifact.native_export import export_native
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.quantization.quantize import quantize
from primesvt_deploy.settings import Precision

COUNTS = ((2, 7), (3, 2), (7, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "counts"), zip(FORMS, itertools.cycle(COUNTS), strict=False))
def test_threads_change_nothing(name: str, counts: tuple[int, int], tmp_path: Path) -> None:
    """Two numbers of threads a family: each number meets most of them."""
    model = model_of(name)
    path = export_native(quantize(model, 8), tmp_path / "m.svit", precision=Precision.INT8).path
    alone, batch = NativeModel(path), samples_of(model, 2)
    expected = alone.logits(batch)
    for threads in counts:
        together = NativeModel(path, threads=threads)
        for _ in range(3):
            for sample, logits in zip(batch, expected, strict=True):
                np.testing.assert_array_equal(together.logits(sample[None])[0], logits)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for either runtime."""
    return small_bundle(tmp_path_factory.mktemp("threads") / "bundle")


@pytest.mark.parametrize("runtime", ["onnx", "native"])
def test_eight_threads_use_one_classifier(
    runtime: str, bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With images of every format, which they decode at once."""
    classifier = Classifier(bundle, threads=1, runtime=runtime)
    paths = []
    for number, content in enumerate(small_images().values()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(content)
    expected = {prediction.image: prediction for prediction in classifier.classify(paths)}

    def classify(start: int) -> None:
        for prediction in classifier.classify((paths[start:] + paths[:start]) * 2):
            assert prediction == expected[prediction.image]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(classify, number) for number in range(8)]:
            done.result()
    assert capfd.readouterr() == ("", "")
