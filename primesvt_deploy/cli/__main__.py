"""`python -m primesvt_deploy.cli`."""

from __future__ import annotations

from primesvt_deploy.cli import main

main()
