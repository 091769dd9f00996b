"""The name that notebooks use for what `anonfolio.kernel` knows of an address space."""

from .kernel.mm import *  # noqa: F403
from .kernel.pagetable import *  # noqa: F403
from .kernel.vma import *  # noqa: F403
