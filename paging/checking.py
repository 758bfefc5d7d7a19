"""What is wrong with routes that are well-formed: whom nobody reaches, and what is not there."""

from collections import Counter
from collections.abc import Iterable, Iterator

from paging.routes import NOBODY, Routes, Target


def faults_of(routes: Routes) -> list[str]:
    """Return every fault, a sentence each; a pager does not start with one."""
    return [
        *_routes(routes),
        *_policies(routes),
        *_hooks(routes),
        *_people(routes),
        *_areas(routes),
    ]


def remarks_on(routes: Routes) -> list[str]:
    """Return what is odd, but does no harm."""
    used = {route.policy for route in routes.routes}
    unused = [f"policy {name}: no route uses it" for name in routes.policies if name not in used]
    reached = {
        hook
        for name in used
        for step in routes.policies.get(name, ())
        for target in step.to
        for hook in hooks_of(target, routes)
    }
    unused += [f"hook {name}: no step reaches it" for name in routes.hooks if name not in reached]
    return unused


def hooks_of(target: Target, routes: Routes) -> set[str]:
    """Return by which hooks a target may be told."""
    if target.kind == "hook":
        return {target.name}
    if target.hook is not None:
        return {target.hook}
    return {hook for name in _persons(target, routes) for hook in routes.people.get(name, {})}


def hooks_lacking(rotation: str, person: str, routes: Routes) -> list[str]:
    """Return the hooks by which policies tell a rotation and somebody cannot be told."""
    asked = {
        target.hook
        for steps in routes.policies.values()
        for step in steps
        for target in step.to
        if (target.kind, target.name) == ("oncall", rotation) and target.hook is not None
    }
    return sorted(asked.difference(routes.people.get(person, {})))


def _persons(target: Target, routes: Routes) -> Iterable[str]:
    if target.kind == "person":
        return (target.name,)
    # Anybody may stand in for anybody.
    rotation = routes.rotations.get(target.name)
    return () if rotation is None else rotation.people


def _routes(routes: Routes) -> Iterator[str]:
    if not routes.routes:
        yield "there is no route: nobody is told of anything"
        return
    for name, count in Counter(route.name for route in routes.routes).items():
        if count > 1:
            yield f"route {name}: {count} routes have this name"
    for number, route in enumerate(routes.routes):
        if route.policy != NOBODY and route.policy not in routes.policies:
            yield f"route {route.name}: there is no policy {route.policy}"
        earlier = [one for one in routes.routes[:number] if not one.goes_on]
        cells = list(route.match.cells())
        if not cells:
            yield f"route {route.name}: no alert that pages is {route.match}"
        # The net under the others may hang there unused.
        elif (number < len(routes.routes) - 1 or route.match.terms) and all(
            any(one.match.includes(cell) for one in earlier) for cell in cells
        ):
            takers = [
                one.name for one in earlier if any(one.match.includes(cell) for cell in cells)
            ]
            yield f"route {route.name}: unreachable, {' and '.join(takers)} take all that it would"
    last = routes.routes[-1]
    if last.match.terms:
        yield f"route {last.name}: the last route must take everything, not only {last.match}"


def _policies(routes: Routes) -> Iterator[str]:
    for name, steps in routes.policies.items():
        if name == NOBODY:
            yield f"policy {name}: the name is taken, for routes that tell nobody"
        afters = [step.after for step in steps]
        if afters != sorted(set(afters)):
            yield f"policy {name}: each step must come later than the one before"
        for target in (target for step in steps for target in step.to):
            yield from (f"policy {name}: {fault}" for fault in _target(target, routes))


def _target(target: Target, routes: Routes) -> Iterator[str]:
    if target.kind == "hook":
        if target.name not in routes.hooks:
            yield f"there is no hook {target.name}"
        return
    known = routes.people if target.kind == "person" else routes.rotations
    if target.name not in known:
        yield f"there is no {'person' if target.kind == 'person' else 'rotation'} {target.name}"
        return
    for person in _persons(target, routes):
        reached = routes.people.get(person, {})
        if target.hook is not None and target.hook not in reached:
            yield f"{person} is not reached by {target.hook}"
        if not reached:
            yield f"{person} is not reached by any hook"


def _hooks(routes: Routes) -> Iterator[str]:
    for name, hook in routes.hooks.items():
        events = hook.terms.events or ()
        if events and "trigger" not in events:
            yield (
                f"hook {name}: its events lack trigger, and who is not told that something began is"
                " told nothing else of it"
            )


def _people(routes: Routes) -> Iterator[str]:
    for person, reached in routes.people.items():
        for hook in reached:
            if hook not in routes.hooks:
                yield f"person {person}: there is no hook {hook}"
    for name, rotation in routes.rotations.items():
        for person in rotation.people:
            if person not in routes.people:
                yield f"rotation {name}: there is no person {person}"


def _areas(routes: Routes) -> Iterator[str]:
    seen: dict[tuple[str, str], str] = {}
    for area in routes.areas:
        for pattern in area.sensors:
            first = seen.setdefault((area.kind, pattern), area.name)
            if first != area.name:
                yield f"{area.kind} {area.name}: {pattern} stands in {first} as well"
