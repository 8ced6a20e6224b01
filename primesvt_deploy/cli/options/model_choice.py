"""The model that a command line names: checked before torch is imported, then loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from primesvt_deploy.data.bundled import find_bundled
from primesvt_deploy.data.check import check_data
from primesvt_deploy.errors import DataError, ModelError, SettingsError
from primesvt_deploy.families.asked_options import asked_options
from primesvt_deploy.families.nearest import is_like_none, listed_forms
from primesvt_deploy.families.options import MissingOption
from primesvt_deploy.model.described_weights import described_in
from primesvt_deploy.model.find_factory import find_factory, split_factory
from primesvt_deploy.model.locate import KnownModel, find_model, known_model, refuse_superfluous
from primesvt_deploy.model.peek import peek
from primesvt_deploy.model.reference_models import DEFAULT_MODEL
from primesvt_deploy.model.source import open_checkpoint

if TYPE_CHECKING:
    from primesvt_deploy.model.svit import SViT

__all__ = ["ModelChoice"]

_ADOPT_OPTIONS = (
    "timesteps",
    "ema",
    "key",
    "ignore_args",
    "sha256",
    "image_size",
    "frames",
    "labels",
    "mean",
    "std",
    "resize",
    "interpolation",
)
"""Options that apply to a model of the user's own class."""
_NO_DATA = "comes with no data: pass --data, an ImageFolder directory or .npz"


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model that a command line names: checked in a moment, loaded in seconds.

    Args:
        name: a reference model, or a directory; None: the default one, or a checkpoint.
        checkpoint: a file of weights.
        factory: `module:function` that makes a model of the user's own class.
        options: of `load`, or of `adopt`, by name.
    """

    name: str | None
    checkpoint: Path | None
    factory: str | None
    options: Mapping[str, Any]

    @property
    def _given(self) -> list[str]:
        """Names of the options that the user gives."""
        return [name for name, value in self.options.items() if value not in (None, False)]

    def check(self, data: Path | None) -> KnownModel:
        """Refuse all that can be known to be wrong before torch is imported.

        Args:
            data: source of the images; None: those that come with the model.

        Returns:
            What is known of the model by then.

        Raises:
            DeployError: a model, checkpoint, factory or option that cannot be, or data that are
                missing, or of other classes.
        """
        if self.factory is not None and self.name is None:
            known = self._check_own(data)
        else:
            path = self._found()
            if os.path.isdir(path):
                refuse_superfluous(path, self._given)
                known = known_model(path, self.factory)
            else:
                known = self._check_file(path, data)
        if data is not None:
            check_data(data, known)
        elif known.data is not None:
            find_bundled(known.data)
        elif not self._asks_later():
            raise DataError(f"{known.name} {_NO_DATA}")
        return known

    def load(self, data: Path | None) -> SViT:
        """Load the model; classes without names get those of the data, and that is told at once.

        Args:
            data: source of the images, which a message about missing options asks for as well.

        Raises:
            ModelError: anything wrong with the file or the options, in one line.
        """
        from primesvt_deploy.data.class_names import named_by_data

        loaded = self._loaded(data)
        named = named_by_data(loaded, data)
        for note in named.notes[len(loaded.notes) :]:
            click.echo(f"note: {note}", err=True)
        return named

    def _loaded(self, data: Path | None) -> SViT:
        """Load the model as it is; see `load`."""
        if self.factory is not None and self.name is None:
            from primesvt_deploy.model.adopt import adopt

            options = {key: self.options[key] for key in _ADOPT_OPTIONS}
            return adopt(self.factory, checkpoint=self.checkpoint, **options)
        from primesvt_deploy.model.load import load

        try:
            return load(self._found(), factory=self.factory, **self.options)
        except ModelError as error:
            missing = error.__cause__
            if data is not None or not isinstance(missing, MissingOption):
                raise
            raise ModelError(
                str(error).replace(str(missing), str(MissingOption(missing.names, data=True)))
            ) from error

    def _found(self) -> Path:
        """Directory or file of the model."""
        if self.checkpoint is None:
            return find_model(DEFAULT_MODEL if self.name is None else self.name)
        if not os.path.isdir(self.checkpoint):
            open_checkpoint(self.checkpoint).close()
        return self.checkpoint

    def _asks_later(self) -> bool:
        """Whether what a checkpoint misses is known only as it is read, and data with that."""
        if self.factory is not None or self.checkpoint is None or os.path.isdir(self.checkpoint):
            return False
        found = peek(self.checkpoint)
        return found.arguments or not found.keys

    def _check_own(self, data: Path | None) -> KnownModel:
        """Check the factory of a user's own class, and its weights."""
        assert self.factory is not None
        foreign = [name for name in self._given if name not in _ADOPT_OPTIONS]
        if foreign:
            flag = foreign[0].removeprefix("num_").replace("_", "-")
            raise SettingsError(
                f"--{flag} is for supported families: drop it, --factory sets it itself"
            )
        split_factory(self.factory)
        if self.options["image_size"] is None:
            raise SettingsError(
                "the factory does not say the image size"
                + (", and comes with no data" if data is None else "")
                + ": pass --image-size"
                + (" and --data, an ImageFolder directory or .npz" if data is None else "")
            )
        if self.checkpoint is None and (self.options["ema"] or self.options["key"] is not None):
            flag = "--ema" if self.options["ema"] else "--key"
            raise SettingsError(f"{flag} chooses weights of a checkpoint: pass --checkpoint")
        find_factory(self.factory)
        if self.checkpoint is not None:
            peek(self.checkpoint)
        name = self.factory if self.checkpoint is None else _stem(self.checkpoint)
        return KnownModel(name=name, labels=self.options["labels"])

    def _check_file(self, path: Path, data: Path | None) -> KnownModel:
        """Check a checkpoint: that it is one, and that nothing is missing that it never tells."""
        if self.factory is not None:
            raise ModelError(f"{path} is a file of weights: pass it as --checkpoint")
        whole = self.options["key"] is None and not self.options["ema"]
        directory = described_in(path) if whole else None
        if directory is not None:
            known = known_model(directory, None)
            labels = self.options["labels"]
            return known if labels is None else replace(known, labels=labels)
        found = peek(path)
        if found.keys and not found.arguments and whole:
            family = self.options["family"] or found.family
            asked = asked_options(found.keys, self._given, family)
            if family is None and is_like_none(found.keys):
                first = ", ".join(sorted(found.keys)[:3])
                raise ModelError(
                    f"{path}: its keys ({first}, ...) are those of no known family "
                    f"({', '.join(listed_forms())}); for a class of your own pass --factory "
                    "MODULE:FUNCTION"
                )
            if asked:
                raise ModelError(f"{path}: {MissingOption(asked, data=data is None)}")
        return KnownModel(
            name=_stem(path), labels=self.options["labels"], timesteps=self.options["timesteps"]
        )


def _stem(path: Path) -> str:
    """Name of a model that is read from a file."""
    return path.name.split(".")[0] or path.name
