"""Fixtures of more than one test, set up once for all forks."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.mutation.measure import label


class Fixtures:
    """The plugin that keeps what the fixtures make, and afterwards gives it to the forks.

    anew : the fixtures that a fork sets up all the same
    """

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.anew: set[str] = set()
        self.temporary: Any = None

    def set_up(self, items: list[Any]) -> None:
        """All that the tests have, before the forks."""
        if not items:
            return
        config = items[0].config
        config.pluginmanager.register(self)
        for item in items:
            shared = [d for found in item._fixtureinfo.name2fixturedefs.values() for d in found if is_shared(d)]
            if any(self.key(fixture, item) not in self.values for fixture in shared):
                item.runtest = lambda: None  # its fixtures alone
                config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                del item.runtest
        self.temporary = config._tmp_path_factory.getbasetemp() / "fork"

    def give(self, config: Any) -> None:
        """In a fork: what was kept, and temporary folders of its own."""
        config.pluginmanager.unregister(self)
        config.pluginmanager.register(Given(self))
        self.temporary.mkdir()
        config._tmp_path_factory._basetemp = self.temporary

    def tidy(self) -> None:
        """After a fork."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    def key(self, fixture: Any, item: Any) -> Any:
        """The fixture, and the parameters of the test that it or what it is made of has."""
        every, names, waiting = item._fixtureinfo.name2fixturedefs, set(), [fixture.argname]
        while waiting:
            if (name := waiting.pop()) not in names:
                names.add(name)
                waiting += [argument for each in every.get(name, ()) for argument in each.argnames]
        parameters = getattr(getattr(item, "callspec", None), "indices", {})
        return label(fixture), *sorted((name, at) for name, at in parameters.items() if name in names)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[Any]:
        value = yield
        if is_shared(fixturedef):
            self.values.setdefault(self.key(fixturedef, request._pyfuncitem), value)
        return value


class Given:
    """The plugin by which a fork takes what was kept."""

    def __init__(self, fixtures: Fixtures) -> None:
        self.fixtures = fixtures

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Any:
        key = self.fixtures.key(fixturedef, request._pyfuncitem)
        if label(fixturedef) in self.fixtures.anew or key not in self.fixtures.values:
            return None
        value = self.fixtures.values[key]
        fixturedef.cached_result = (value, fixturedef.cache_key(request), None)
        return value


def is_shared(fixture: Any) -> bool:
    """One of more than one test, with nothing to be done after them."""
    return fixture.scope != "function" and not inspect.isgeneratorfunction(fixture.func)
