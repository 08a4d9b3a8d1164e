"""The commands about faults of links, which rules inject."""

from __future__ import annotations

from vnet.link.faulty import FaultyLink
from vnet.names import named
from vnet.qmp.codec import QmpError, not_found
from vnet.qmp.fault_records import RULES_MAX, FaultChoice, RuleChoice
from vnet.qmp.records import LinkChoice
from vnet.system.world import World
from vnet.views.link import FaultRuleView

__all__ = ["clear", "rules", "set_rules"]


def _link(world: World, name: str) -> FaultyLink:
    return named("link", world.faults, name, not_found)


def rules(world: World, arguments: LinkChoice) -> tuple[FaultRuleView, ...]:
    """Return the rules of faults on a link, with what each has done."""
    return _link(world, arguments.name).rules()


def set_rules(world: World, arguments: FaultChoice) -> tuple[FaultRuleView, ...]:
    """Set rules of faults on a link, all or none, and return all rules of the link. They outlive the client."""
    link, chosen = _link(world, arguments.name), arguments.rules
    for at, each in enumerate(chosen):
        for problem in each.problems():
            path = ".".join(map(str, ("rules", at, *problem.keys)))
            raise QmpError(f"Parameter '{path}': {problem.why}")
    if not chosen:
        raise QmpError("Parameter 'rules': must not be empty")
    faults = {each.fault for each in chosen}
    kept = [rule for rule in link.rules() if rule.origin == "hand" and rule.fault not in faults]
    made = [rule for each in chosen if (rule := each.rule()) is not None]
    if len(kept) + len(made) > RULES_MAX:
        raise QmpError(f"{arguments.name}: there are {len(kept)} rules by hand, and at most {RULES_MAX} are possible")
    link.replace(faults, made)
    return link.rules()


def clear(world: World, arguments: RuleChoice) -> tuple[FaultRuleView, ...]:
    """Clear rules of faults on a link, and return them. Those of the topology stay unless they are named."""
    link = _link(world, arguments.name)
    known = {rule.name: rule for rule in link.rules()}
    for name in arguments.rules:
        named("rule", known, name, QmpError, f"{arguments.name}: ")
    cleared = [rule for name, rule in known.items() if name in arguments.rules or not arguments.rules]
    if not arguments.rules:
        cleared = [rule for rule in cleared if rule.origin == "hand"]
    link.clear(*arguments.rules)
    return tuple(cleared)
