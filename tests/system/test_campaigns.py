"""A few rounds of each campaign against real processes; ``python -m tests.campaigns`` runs more."""

from __future__ import annotations

import pytest
from campaigns.stage import Results, run_rounds
from campaigns.table import CAMPAIGNS, Campaign

from support.machine import RequireTool

pytestmark = [pytest.mark.usefixtures("privileged", "no_leaks"), pytest.mark.timeout(600)]

SEED = 18


@pytest.mark.parametrize("campaign", CAMPAIGNS.values(), ids=lambda campaign: campaign.name)
def test_no_round_breaks_a_rule(campaign: Campaign, require_tool: RequireTool) -> None:
    require_tool(*campaign.tools)
    results = Results(campaign.name, SEED)
    run_rounds(campaign.load(), results, range(campaign.short))
    print(results.counters, results.times)
    assert results.broken == []
    assert results.rounds == campaign.short
