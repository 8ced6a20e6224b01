"""Sign a bundle with a key of one's own, and check whose signature it has.

Digests in a manifest find accidents: whoever alters a file on purpose alters its digest, too. A
signature covers every file. It is made and checked by OpenSSF Model Signing (ECDSA over the
SHA-256 of each file, in a Sigstore bundle), whose own `model_signing verify key` reads it as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primesvt_deploy.edge.runtime.bundle import COMPILED, SIGNATURE
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.files import read_regular
from primesvt_deploy.errors import BundleError, SettingsError, first_line

__all__ = ["PASSWORD", "SigningKey", "check_signature", "load_signing_key", "sign_bundle"]

PASSWORD = "PRIMESVT_KEY_PASSWORD"
"""Environment variable with the password of an encrypted private key."""

_MOST_KEY = 2**16
_MOST_SIGNATURE = 2**26
_LONGEST = 160
_QUESTIONS = re.compile(r" See https?://\S+ for more details\.")
"""A library's list of questions, which says less than the advice here."""
_MAKE = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
_PUBLIC = "write it with: openssl ec -in key.pem -pubout -out key.pub"


@dataclass(frozen=True)
class SigningKey:
    """A private key that was read and can sign.

    Args:
        path: its file.
        config: the library's configuration with it.
    """

    path: Path
    config: Any


def load_signing_key(path: str | os.PathLike[str]) -> SigningKey:
    """Read a private key, before the work whose result it shall sign.

    Args:
        path: PEM file of an elliptic curve key (P-256, P-384 or P-521); if it is encrypted, the
            password is in the environment variable `PASSWORD`.

    Raises:
        SettingsError: there is no such file, it is no such key, it is encrypted and the password
            is missing or wrong, or model-signing is not installed.
    """
    _read(path, "--sign", _MOST_KEY)
    password = os.environ.get(PASSWORD)
    with _library(f"--sign: {os.fspath(path)} is no private key of an elliptic curve", _MAKE):
        from model_signing import signing

        try:
            config = signing.Config().use_elliptic_key_signer(private_key=Path(path))
        except TypeError:  # it is encrypted
            if password is None:
                raise SettingsError(
                    f"--sign: {os.fspath(path)} is encrypted: set {PASSWORD} to its password"
                ) from None
            config = signing.Config().use_elliptic_key_signer(
                private_key=Path(path),
                password=password.encode(),  # type: ignore[arg-type]  # handed on as it is
            )
    return SigningKey(Path(path), config)


def sign_bundle(directory: Path, key: SigningKey) -> None:
    """Sign all files of a bundle; the signature is a file of it, too."""
    with _library(f"{directory} cannot be signed", "please report it"):
        key.config.set_hashing_config(_all_files()).sign(directory, directory / SIGNATURE)


def check_signature(bundle: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
    """Check that a bundle was signed with a key, and that no file has changed since.

    Args:
        bundle: its directory.
        key: PEM file of the public key.

    Raises:
        BundleError: it is not signed, by another key, or a file was altered, added or removed.
        SettingsError: there is no such key, or model-signing is not installed.
    """
    path = Path(bundle)
    _read(key, "--trust", _MOST_KEY)
    with _library(f"--trust: {os.fspath(key)} is no public key of an elliptic curve", _PUBLIC):
        from model_signing import verifying

        config = verifying.Config().use_elliptic_key_verifier(public_key=Path(key))
        config.set_hashing_config(_all_files())  # else it would pass over .git and the like
    if not path.is_dir():
        raise BundleError(f"{path} is no bundle directory: a model file alone is not signed")
    try:
        read_regular(path / SIGNATURE, most=_MOST_SIGNATURE)
    except FileNotFoundError:
        raise BundleError(
            f"{path} is not signed: it has no {SIGNATURE}; build it with --sign, or leave --trust "
            "out"
        ) from None
    except OSError as error:
        raise BundleError(f"{path / SIGNATURE} cannot be read: {error.strerror}") from None
    try:
        # It prints a warning about signatures without a hint at the key.
        with contextlib.redirect_stdout(io.StringIO()):
            config.verify(path, path / SIGNATURE)
    except Exception as error:  # damaged signatures raise nearly everything
        reason = on_one_line(first_line(error))
        raise BundleError(
            f"{path} is not as the owner of {os.fspath(key)} signed it ({reason}): do not use it; "
            "copy it again, or ask its author"
        ) from error


def _all_files() -> Any:
    """Choice of what is hashed: all files but the signature and what was compiled of sources."""
    from model_signing import hashing

    passed_over = [SIGNATURE, *COMPILED]
    return hashing.Config().set_ignored_paths(paths=passed_over, ignore_git_paths=False)


def _read(path: str | os.PathLike[str], flag: str, most: int) -> None:
    try:
        read_regular(path, most=most)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            f"{flag}: no key can be read at {os.fspath(path)} ({reason}): expected a PEM file"
        ) from error


@contextlib.contextmanager
def _library(what: str, advice: str) -> Iterator[None]:
    """Turn whatever the library raises into one line."""
    try:
        yield
    except SettingsError:
        raise
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"signatures need {error.name}, which is not installed: pip install "
            "'primesvt-deploy[sign]'"
        ) from error
    except Exception as error:
        reason = _QUESTIONS.sub("", on_one_line(first_line(error, 400)))[:_LONGEST]
        raise SettingsError(f"{what} ({reason}): {advice}") from error
