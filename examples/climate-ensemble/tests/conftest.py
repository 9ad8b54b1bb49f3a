"""The modules of the example, importable as they are for `workflow.py` beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
