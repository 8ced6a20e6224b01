"""A signature tells a bundle that somebody altered on purpose from the one its author built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from model_signing import verifying
from PIL import Image
from sealed_bundles import seal
from small_models import SHALLOW, make_model, write_arrays

from primesvt_deploy import BuildSettings, Classifier, build, open_data
from primesvt_deploy.bundle.signature import PASSWORD, check_signature, load_signing_key
from primesvt_deploy.cli import cli
from primesvt_deploy.edge.runtime.bundle import SIGNATURE, open_bundle
from primesvt_deploy.errors import BundleError, DeployError, SettingsError

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8
_PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
_PLAIN = serialization.NoEncryption()


def write_keys(
    directory: Path,
    name: str,
    curve: ec.EllipticCurve | None = None,
    protection: serialization.KeySerializationEncryption = _PLAIN,
) -> tuple[Path, Path]:
    """A private and a public key of an elliptic curve; the paths of both."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.write_bytes(key.private_bytes(_PEM, _PKCS8, protection))
    public.write_bytes(key.public_key().public_bytes(_PEM, _PUBLIC))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, keys: tuple[Path, Path]) -> Path:
    directory = tmp_path_factory.mktemp("built")
    model = make_model(SHALLOW)
    data = open_data(model, write_arrays(directory / "d.npz", model))
    wanted = BuildSettings(budget_mb=20.0, verify_images=20)
    key = load_signing_key(keys[0])
    return build(model, directory / "bundle", wanted, data=data, sign=key).path


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "renamed"))


def refusal(bundle: Path, key: Path) -> str:
    """The one line with which a bundle is refused for its signature."""
    with pytest.raises(DeployError) as caught:
        check_signature(bundle, key)
    said = str(caught.value)
    assert len(said.splitlines()) == 1 and len(said) < 1000, said
    return said


def test_a_signed_bundle_is_trusted_by_its_key_alone(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    check_signature(bundle, keys[1])
    compiled = bundle / "native" / "build"
    compiled.mkdir(parents=True)
    (compiled / "classify").write_text("program")
    check_signature(bundle, keys[1])
    open_bundle(bundle)
    _, theirs = write_keys(tmp_path, "theirs")
    assert f"is not as the owner of {theirs} signed it" in refusal(bundle, theirs)


def test_the_library_itself_says_the_same(bundle: Path, keys: tuple[Path, Path]) -> None:
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    verifier.verify(bundle, bundle / SIGNATURE)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(bundle), "--signature",
               str(bundle / SIGNATURE), "--public_key", str(keys[1])]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def test_what_was_altered_on_purpose_is_refused(bundle: Path, keys: tuple[Path, Path]) -> None:
    """With digests that are right, so that it passes where nobody asks for a signature."""
    labels = ["elk", "dog", "cat", "bee", "ant"]
    model = {**open_bundle(bundle).manifest["model"], "labels": labels}
    seal(bundle, model=model, files=open_bundle(bundle).manifest["files"])
    assert Classifier(bundle).labels == tuple(labels)
    assert "manifest.json" in refusal(bundle, keys[1])


@pytest.mark.parametrize("name", ["run.py", "model.onnx", "runtime/main.py", "report.html"])
def test_every_file_is_signed(bundle: Path, keys: tuple[Path, Path], name: str) -> None:
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert name in refusal(bundle, keys[1])
    (bundle / name).unlink()
    assert name in refusal(bundle, keys[1])
    (bundle / name).write_bytes(whole)
    (bundle / "json.py").write_text("raise SystemExit")
    assert "json.py" in refusal(bundle, keys[1])


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "\x00", "{" * 5000, '{"mediaType": 1}'])
def test_a_damaged_signature_is_one_line(
    bundle: Path, keys: tuple[Path, Path], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (bundle / SIGNATURE).write_text(text)
    assert "do not use it" in refusal(bundle, keys[1])
    assert capfd.readouterr() == ("", "")


def test_of_a_key_that_is_text_no_page_on_the_web_is_told(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("text")
    for use in (load_signing_key, lambda key: check_signature(tmp_path, key)):
        with pytest.raises(SettingsError, match="of an elliptic curve") as caught:
            use(tmp_path / "key.txt")
        assert "http" not in str(caught.value)


def test_a_signature_without_its_parts_is_one_line(bundle: Path, keys: tuple[Path, Path]) -> None:
    content = json.loads((bundle / SIGNATURE).read_text())
    envelope = content["dsseEnvelope"]
    for changed in (
        {**content, "dsseEnvelope": {**envelope, "payload": ""}},
        {**content, "dsseEnvelope": {**envelope, "signatures": []}},
        {**content, "dsseEnvelope": {**envelope, "signatures": [{"sig": "AAAA"}]}},
        {**content, "verificationMaterial": {"publicKey": {"hint": ""}}},
        {**content, "verificationMaterial": {}},
    ):
        (bundle / SIGNATURE).write_text(json.dumps(changed))
        try:
            check_signature(bundle, keys[1])
        except BundleError as error:
            assert len(str(error).splitlines()) == 1
        else:  # a hint at the key is none of what is signed
            assert changed["dsseEnvelope"] == envelope


def test_an_unsigned_bundle_is_refused_where_a_key_is_named(
    bundle: Path, keys: tuple[Path, Path]
) -> None:
    (bundle / SIGNATURE).unlink()
    open_bundle(bundle)
    assert f"is not signed: it has no {SIGNATURE}" in refusal(bundle, keys[1])
    os.mkfifo(bundle / SIGNATURE)
    assert "it is a pipe" in refusal(bundle, keys[1])
    assert "a model file alone is not signed" in refusal(bundle / "model.onnx", keys[1])


def test_commands_refuse_what_is_not_trusted_before_they_read_it(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(photo)
    quick = ("--seconds", "0.1", "--rounds", "5", "--warmup", "0.1", "--batches", "1",
             "--threads", "1")  # fmt: skip
    _, theirs = write_keys(tmp_path, "theirs")
    for arguments in (("run", bundle, photo), ("verify", "--quick", bundle),
                      ("bench", bundle, *quick)):  # fmt: skip
        for key, right in ((keys[1], True), (theirs, False)):
            line = [*map(str, arguments), "--trust", str(key), "--json"]
            found = CliRunner().invoke(cli, line, standalone_mode=False)
            assert (found.exception is None) == right, found.output
            if not right:
                assert isinstance(found.exception, BundleError)
            elif arguments[0] == "verify":
                assert json.loads(found.stdout)["signature"] == "trusted"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_keys_of_these_curves_can_sign(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    assert load_signing_key(write_keys(tmp_path, "k", curve)[0]).path == tmp_path / "k.pem"


def test_what_cannot_sign_is_one_line(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, _ = write_keys(
        tmp_path, "locked", protection=serialization.BestAvailableEncryption(b"open")
    )
    odd = ed25519.Ed25519PrivateKey.generate().private_bytes(_PEM, _PKCS8, _PLAIN)
    (tmp_path / "odd.pem").write_bytes(odd)
    (tmp_path / "text.pem").write_text("no key")
    koblitz, _ = write_keys(tmp_path, "koblitz", ec.SECP256K1())
    os.mkfifo(tmp_path / "pipe")
    said = {}
    for path in (tmp_path / "none.pem", tmp_path / "odd.pem", tmp_path / "text.pem", keys[1],
                 koblitz, tmp_path / "pipe", tmp_path, locked):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            load_signing_key(path)
        said[path.name] = str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert f"is encrypted: set {PASSWORD}" in said["locked.pem"]
    assert "no key can be read" in said["none.pem"] and "a pipe" in said["pipe"]
    assert "openssl ecparam" in said["odd.pem"]
    monkeypatch.setenv(PASSWORD, "shut")
    with pytest.raises(SettingsError, match=r"locked\.pem is no private key"):
        load_signing_key(locked)
    monkeypatch.setenv(PASSWORD, "open")
    assert load_signing_key(locked).path == locked


def test_without_the_library_both_say_what_to_install(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for use in (lambda: load_signing_key(keys[0]), lambda: check_signature(bundle, keys[1])):
        with pytest.raises(SettingsError, match=r"pip install 'primesvt-deploy\[sign\]'"):
            use()


def test_a_private_key_is_not_taken_for_a_public_one(bundle: Path, keys: tuple[Path, Path]) -> None:
    assert "openssl ec -in key.pem -pubout" in refusal(bundle, keys[0])
