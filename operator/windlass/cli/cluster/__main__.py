"""`python -m windlass.cli.cluster`: hands the arguments to `main` and exits with its status."""

from __future__ import annotations

import sys

from windlass.cli.cluster import main

sys.exit(main())
