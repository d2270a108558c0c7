"""Lets the contract import its cases and its oracle from this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
