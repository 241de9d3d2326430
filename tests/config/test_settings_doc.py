"""docs/settings.md says what the code does: every setting, its default and its description."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stoker.config.names import variable
from stoker.config.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, tuple):
        return ",".join(default) or "empty"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def row(name: str, field: FieldInfo) -> str:
    return f"| `{name}` | {shown(field.default)} | {field.description} |"


def test_the_page_lists_every_setting_as_it_is() -> None:
    expected = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            expected += [row(variable(name, member), inner) for member, inner in group.model_fields.items()]
        else:
            expected.append(row(variable(name), field))
    written = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `STOKER_")
    ]
    assert written == expected
