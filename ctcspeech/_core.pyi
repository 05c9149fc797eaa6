# The native core has no annotations of its own; its callers in Python have.
from typing import Any

def __getattr__(name: str) -> Any: ...
