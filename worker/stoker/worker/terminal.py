"""Names as a terminal may show them, and numbers as people write them. For the views and commands."""


def printable(name: str) -> str:
    """A key, tenant or tag: it may hold anything."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def counted(number: int, what: str) -> str:
    """`1 entry`, `1,200 entries`, `0 keys`. `what` is one of them, an ordinary English noun, other words before it."""
    if number != 1:
        what = f"{what[:-1]}ies" if what.endswith("y") and what[-2] not in "aeiou" else f"{what}s"
    return f"{number:,} {what}"
