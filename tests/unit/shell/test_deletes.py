"""Deletes: exactly the object that was seen, whatever its kind."""

from __future__ import annotations

from unit.shell.conftest import Hand
from unit.shell.fakeapi import FakeApi
from unit.shell.life import KEY, Life, world
from unit.shell.test_rounds import all_run, resume, status, step, suspend


def configurations(api: FakeApi) -> list[str]:
    return sorted(
        name for plural, _, name in api.objects if plural == "configmaps" and name.startswith("ft-config-")
    )


async def test_a_configuration_that_changed_since_it_was_seen_is_not_deleted(
    api: FakeApi, hand: Hand
) -> None:
    world(api)
    life = Life(api, hand)
    await step(life)
    (first,) = configurations(api)
    for event in (all_run, suspend, resume):
        event(api)
        hand.at += 30
        await step(life)
    all_run(api)
    life.load()
    api.put("configmaps", api.get("configmaps", first) or {})
    await life.reconciler.attempt(KEY)
    assert status(api)["gang"]["attempt"] == 2
    assert first in configurations(api)
    await step(life)
    assert configurations(api) == [status(api)["runConfig"]]
    await life.close()
