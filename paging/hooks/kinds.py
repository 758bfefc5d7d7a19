"""Every kind of hook there is, by the name that the routes file knows it by."""

from collections.abc import Mapping
from typing import Any, Final

from paging.hooks import HookKind, alertmanager, notify, pagerduty, webhook

_ALL: Final[tuple[HookKind[Any], ...]] = (
    webhook.KIND,
    pagerduty.KIND,
    alertmanager.KIND,
    notify.KIND,
)
KINDS: Final[Mapping[str, HookKind[Any]]] = {kind.name: kind for kind in _ALL}
