"""The demo: the real one in a short form, and what it says when something is lost, leaked or used too late.

Faults are planted in the report, and for real in a run of one act.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from changeover import Signature, VersionKey, open_engine  # noqa: F401
