"""Base classes for objects that last as long as the block of a `with` statement."""

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Closed when its block ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...


class Starting(Closing):
    """Started when its block begins, closed when it ends."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # also Ctrl-C: nothing that was started may stay
            self.close()
            raise
        return self

    @abstractmethod
    def start(self) -> object: ...
