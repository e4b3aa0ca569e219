"""What a refusal of one form means for the other deliveries of the same job to the same destination.

Rows of one kind and destination stand in an order of preference (`rank`): the first is PENDING, the others are SPARE.
A refused form hands over to the next one; a form that arrived makes the others needless; reports follow the
segmentation that they refer to. Plain changes of rows: the caller has locked them and commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dicom_node.states import DeliveryState
from dicom_node.tables import Delivery

WAITING = (DeliveryState.PENDING, DeliveryState.SPARE)
OVER = (DeliveryState.REFUSED, DeliveryState.DEAD, DeliveryState.CANCELLED)


@dataclass(frozen=True)
class Fallback:
    """Another form goes instead."""

    form: str
    withdrawn: frozenset[int] = frozenset()
    """Deliveries that must not be sent any more: reports that refer to the segmentation that was refused."""


def fall_back(refused: Delivery, others: Sequence[Delivery]) -> Fallback | None:
    """Let the next form go in place of the refused one; None, and no change, when none is left."""
    instead = _first_rank(
        other
        for other in _same_kind(refused, others)
        if other.rank > refused.rank and other.state not in OVER and other.result.refers_to == refused.result.refers_to
    )
    if not instead:
        return None
    refused.state = DeliveryState.REFUSED
    _let_go(instead)
    return Fallback(instead[0].result.form, _follow(refused, instead[0], others))


def _follow(refused: Delivery, instead: Delivery, others: Sequence[Delivery]) -> frozenset[int]:
    """Reports that refer to the refused segmentation stay; those that refer to the one instead go in their place."""
    waiting = [
        other
        for other in others
        if other.state in WAITING and other.result.refers_to == refused.result.sop_instance_uid
    ]
    kinds = {other.result.kind for other in waiting if other.state is DeliveryState.PENDING}
    for other in waiting:
        other.state = DeliveryState.REFUSED
        other.last_error = f"refers to {refused.result.form}, which the destination refused"
    about_instead = [other for other in others if other.result.refers_to == instead.result.sop_instance_uid]
    for kind in kinds:
        _let_go(_first_rank(other for other in about_instead if other.result.kind is kind))
    return frozenset(other.id for other in waiting)


def close_others(arrived: Delivery, others: Sequence[Delivery]) -> None:
    """No other form of what arrived is needed any more."""
    for other in _same_kind(arrived, others):
        if other.state in WAITING and other.rank != arrived.rank:
            other.state = DeliveryState.CANCELLED
            other.last_error = f"not needed: {arrived.result.form} was sent"


def _same_kind(delivery: Delivery, others: Iterable[Delivery]) -> list[Delivery]:
    return [other for other in others if other.result.kind is delivery.result.kind]


def _first_rank(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Those that are preferred most: a form may be several objects."""
    found = list(deliveries)
    return [delivery for delivery in found if delivery.rank == min(one.rank for one in found)]


def _let_go(deliveries: Iterable[Delivery]) -> None:
    for delivery in deliveries:
        if delivery.state is DeliveryState.SPARE:
            delivery.state = DeliveryState.PENDING
