"""Dollars as people read them: rounded so that what is shown adds up to the total that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from math import floor

CENT = Decimal("0.01")
#: For weeks of a few dollars, whose parts would all be no cents at all.
FINE = Decimal("0.0001")


def unit_for(*totals: Decimal) -> Decimal:
    """What to round a review's amounts to, by its totals."""
    return CENT if max(map(abs, totals)) >= 10 else FINE


def rounded(usd: Decimal | Fraction, unit: Decimal) -> Decimal:
    """The amount to a unit."""
    return round(Fraction(usd) / Fraction(unit)) * unit


def apportion(
    amounts: Sequence[Decimal | Fraction], total: Decimal, unit: Decimal
) -> list[Decimal]:
    """The amounts rounded so that they add up to `total`, itself a multiple of the unit.

    Each is rounded down, and what is missing is given, a unit at a time, to those that lost most
    [the largest remainder method, Hamilton 1792]. The total may be a
    difference of two that were rounded, and a unit less than amounts that lost nothing; it is taken
    from one of them then.
    """
    exact = [Fraction(each) / Fraction(unit) for each in amounts]
    units = [floor(each) for each in exact]
    missing = int(Fraction(total) / Fraction(unit)) - sum(units)
    order = sorted(range(len(exact)), key=lambda n: units[n] - exact[n])
    for n in range(abs(missing) if order else 0):
        units[order[n % len(order)]] += 1 if missing > 0 else -1
    return [each * unit for each in units]


def dollars(usd: Decimal) -> str:
    """`$1,234.50`, `−$0.0012`."""
    return f"{'−' if usd < 0 else ''}${abs(usd):,}"


def signed(usd: Decimal) -> str:
    """`+$41.20`, `−$3.00`, `$0.00`."""
    return f"+{dollars(usd)}" if usd > 0 else dollars(usd)


def percent(share: float | None, places: int = 0) -> str:
    """`12 %`; `–` of nothing."""
    if share is None:
        return "–"
    text = f"{100 * abs(share):,.{places}f}"
    return f"{'−' if share < 0 and float(text.replace(',', '')) else ''}{text} %"


def relative(now: Decimal | int, then: Decimal | int) -> str:
    """How much more or less: `+11 %`, `×12`, `new`, `–`."""
    if not then:
        return "new" if now else "–"
    factor = float(now) / float(then)
    if factor >= 10:
        return f"×{factor:,.0f}"
    change = round(100 * (factor - 1))
    return f"{'+' if change > 0 else '−' if change < 0 else '±'}{abs(change)} %"
