"""Charts of the report as Vega-Lite, a family of charts a file; `style` says how they look."""
