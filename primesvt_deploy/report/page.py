"""Pages that stand alone: templates filled in, with charts, script and style inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

from primesvt_deploy.report.charts.style import CONFIG, Figure, draw_static, vega_script
from primesvt_deploy.report.numbers import DASH, FILTERS, is_missing

__all__ = ["render_page"]


def render_page(
    template: str,
    values: Mapping[str, Any],
    figures: Iterable[Figure],
    sections: Iterable[tuple[str, str]],
) -> str:
    """A page that loads nothing and runs no script but its own.

    Its policy of content allows three scripts by their digests, and no connection. Vega's
    expressions are interpreted (`ast` in `templates/report.js`), so that nothing is evaluated.

    Args:
        template: name of the template.
        values: what it shows.
        figures: all charts in it.
        sections: name and title of each, for the navigation.

    Returns:
        HTML, the same for the same values.
    """
    vega, script = (
        vega_script(),
        (files("primesvt_deploy.report") / "templates/report.js").read_text(),
    )
    specs = {figure.name: figure.spec for figure in figures}
    scripts = [Markup(f"'{_digest(text)}'") for text in (vega, script)]
    return (
        _environment()
        .get_template(template)
        .render(
            values,
            sections=list(sections),
            allowed=Markup(" ").join(scripts),
            charts=_in_a_script({"config": CONFIG, "specs": specs}),
            vega=Markup(vega),
            script=Markup(script),
        )
    )


def _digest(script: str) -> str:
    """The digest by which a policy of content allows a script."""
    found = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(found).decode()}"


def _in_a_script(content: Any) -> Markup:
    """JSON that ends no `<script>` and begins no comment in it, whatever names it holds."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("primesvt_deploy", "report/templates"),
        autoescape=True,
        undefined=ChainableUndefined,
        finalize=lambda value: DASH if is_missing(value) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    # A chart escapes its own text.
    environment.globals["still"] = lambda figure: Markup(draw_static(figure))
    return environment
