"""The one error of `stoker.config`: what is wrong in the settings, all of it at once."""

from stoker.cache import ConfigError


class InvalidSettings(ValueError):
    """One or more settings cannot be used; nothing was started.

    Attributes:
        problems: Each wrong setting: the variable's name, its value (secrets masked) and what to do.
    """

    def __init__(self, problems: tuple[ConfigError, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
