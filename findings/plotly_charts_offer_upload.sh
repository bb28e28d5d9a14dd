#!/usr/bin/env bash
# plotly 7.1.0: every chart has a button "Share chart..." that uploads it to the makers' cloud, unless it is switched off.
#
# In the JavaScript inside this package (4.1.1) `showSendToCloud` is true by default, and `plotlyServerURL` is a public address:
# a page that promises that nothing leaves the machine needs `Plotly.setPlotConfig({ showSendToCloud: false, plotlyServerURL: "" })`.
# Pages that the Python package writes keep the default.
#
# Seen 2026-11-30 with Python 3.11:
#   the defaults: showSendToCloud:{valType:"boolean",dflt:!0}
#   plotlyServerURL:{valType:"string",dflt:"https://cloud.plotly.com/newchart"}
#   a page written by to_html switches it off: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check plotly==7.1.0
"$folder/env/bin/python" - <<'PYTHON'
import re
from pathlib import Path

import plotly
import plotly.graph_objects as go

script = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
share = re.search(r"showSendToCloud:\{[^}]*\}", script)[0]
server = re.search(r"plotlyServerURL:\{[^}]*\}", script)[0]
print("the defaults:", share)
print(server)
assert share.endswith("dflt:!0}"), "switched off by default"
assert "https://" in server, "no address by default"
assert "Share chart..." in script
page = go.Figure(go.Scatter(x=[1, 2], y=[3, 4])).to_html(include_plotlyjs=False)
off = "showSendToCloud" in page
print("a page written by to_html switches it off:", off)
assert not off
PYTHON
