"""Image Gate: a person decides which way an image goes.

Importing this package, or any module in it, starts nothing: no thread, no file, no web route, no
setting is touched until somebody asks for it.
"""

import logging

from .text.printable import EscapeArguments

logging.getLogger("imagegate").addFilter(EscapeArguments())

__version__ = "0.2.0"
