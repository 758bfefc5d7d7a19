"""What is wrong with routes that are well-formed: whom nobody reaches, and what is not there."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

from paging.reach import TooManyError, boxes_of, is_empty, is_left, overlap
from paging.routes import NOBODY, Route, Routes, Target


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
    try:
        return [*unused, *_in_shadow(routes)]
    except TooManyError:
        return [*unused, "routes: of so many globs it cannot be told which routes nobody reaches"]


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
    for route in routes.routes:
        if route.policy != NOBODY and route.policy not in routes.policies:
            yield f"route {route.name}: there is no policy {route.policy}"
    with suppress(TooManyError):
        yield from _unreached(routes)
    last = routes.routes[-1]
    if last.match.terms:
        yield f"route {last.name}: the last route must take everything, not only {last.match}"


def _unreached(routes: Routes) -> Iterator[str]:
    boxes = boxes_of([route.match for route in routes.routes])
    for number, (route, box) in enumerate(zip(routes.routes, boxes, strict=True)):
        if is_empty(box):
            yield f"route {route.name}: no alert that pages is {route.match}"
            continue
        takers = {
            earlier.name: taken
            for earlier, taken in zip(routes.routes[:number], boxes, strict=False)
            if not earlier.goes_on and overlap(taken, box)
        }
        if not _is_net(route, routes) and not is_left(box, list(takers.values())):
            for name in list(takers):
                spared = [taken for other, taken in takers.items() if other != name]
                if not is_left(box, spared):
                    del takers[name]
            yield f"route {route.name}: unreachable, {_all_of(takers)} all that it would"


def _in_shadow(routes: Routes) -> Iterator[str]:
    boxes = boxes_of([*(route.match for route in routes.routes), *routes.shadows])
    shadows = boxes[len(routes.routes) :]
    for number, (route, box) in enumerate(zip(routes.routes, boxes, strict=False)):
        taken = [
            one
            for earlier, one in zip(routes.routes[:number], boxes, strict=False)
            if not earlier.goes_on
        ]
        # Others say already what nothing is left of without shadows.
        if not _is_net(route, routes) and is_left(box, taken) > is_left(box, [*taken, *shadows]):
            yield f"route {route.name}: unreached, all that it would take is in shadow"


def _all_of(names: Iterable[str]) -> str:
    *several, last = names
    return f"{', '.join(several)} and {last} take" if several else f"{last} takes"


def _is_net(route: Route, routes: Routes) -> bool:
    """Say whether a route is the net under the others, which may hang there unused.

    But not under one that takes everything itself.
    """
    earlier = (one for one in routes.routes[:-1] if not one.goes_on)
    is_last = route is routes.routes[-1] and not route.match.terms
    return is_last and all(one.match.terms for one in earlier)


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
