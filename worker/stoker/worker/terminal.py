"""Names as a terminal may show them. For the views and commands."""


def printable(name: str) -> str:
    """A key, tenant or tag: it may hold anything."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()
