"""Numbers of things as people write them, for whatever the worker side of Stoker prints."""


def counted(number: int, what: str) -> str:
    """`1 entry`, `1,200 entries`, `0 keys`. `what` is one of them, an ordinary English noun, other words before it."""
    if number != 1:
        what = f"{what[:-1]}ies" if what.endswith("y") and what[-2] not in "aeiou" else f"{what}s"
    return f"{number:,} {what}"
