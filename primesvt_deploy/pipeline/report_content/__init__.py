"""Gather what a report shows beside the manifest, at the end of a build."""

from __future__ import annotations

from primesvt_deploy.pipeline.report_content.gather import gather_content

__all__ = ["gather_content"]
