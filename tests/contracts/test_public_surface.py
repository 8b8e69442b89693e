"""What `import finery` offers: small, listed, documented, and nothing heavy before it is used."""

from __future__ import annotations

import importlib

import pytest

import finery

SURFACE = ["Config", "FineryError", "Run", "chat", "load_config", "open_run", "resume", "train"]


def test_the_surface_is_this_and_no_more() -> None:
    assert sorted(finery.__all__) == SURFACE == dir(finery)


@pytest.mark.parametrize("name", SURFACE)
def test_each_name_is_there_and_documented(name: str) -> None:
    thing = getattr(finery, name)
    assert callable(thing) and (thing.__doc__ or "").strip()
    assert getattr(finery, name) is thing


def test_the_verb_and_the_package_of_one_name_do_not_shadow_each_other() -> None:
    """Importing finery.train.start binds `finery.train` to the package, whoever does it and when."""
    verb = finery.train
    importlib.import_module("finery.train.start")
    assert finery.train is verb and callable(verb)
    with pytest.raises(finery.FineryError):
        finery.train(finery.Config(model="/no/such/model", data="/no/such/rows.jsonl"))


def test_other_names_are_told() -> None:
    with pytest.raises(AttributeError, match="trian"):
        finery.trian  # noqa: B018
