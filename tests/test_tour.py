"""The notebook of the tour runs from its first cell to its last, and is small.

Running it is marked `site`: it needs the extra `docs`.
"""

import json
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[1] / "docs" / "tour.ipynb"
CELLS = json.loads(PATH.read_text())["cells"]


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


def has_curve_and_video(shown):
    found = [output.get("data", {}) for output in shown]
    html = ["".join(data.get("text/html", "")) for data in found]
    return any("image/png" in d for d in found) and any("data:image/gif" in h for h in html)


def text(output):
    """What an output shows as text."""
    found = output.get("text") or output.get("data", {}).get("text/plain", "")
    return found if isinstance(found, str) else "".join(found)


def test_the_saved_outputs_are_small_and_without_errors():
    assert PATH.stat().st_size < 400_000
    saved = outputs(CELLS)
    assert has_curve_and_video(saved)
    assert not [o for o in saved if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not [cell for cell in CELLS if "/tmp/" in json.dumps(cell)]


@pytest.mark.site
def test_the_tour_runs(tmp_path, monkeypatch):
    import nbclient
    import nbformat

    monkeypatch.chdir(tmp_path)
    notebook = nbformat.read(PATH, 4)
    for cell in notebook.cells:
        if cell.metadata.get("bellmax") == "install":
            cell.source = ""  # bellmax is installed
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    shown = outputs(notebook.cells)
    assert has_curve_and_video(shown)
    own = next(text(o) for o in shown if text(o).startswith("return of 20 episodes"))
    assert float(own.split(":")[1]) > 50  # that of random actions is 22
    assert (tmp_path / "tour_network.py").exists() and (tmp_path / "tour_agent.py").exists()
