"""Write the dashboard and the provisioning files where Grafana reads them."""

from pathlib import Path

from dashboards.grafana import DATASOURCE_YAML, PROVIDER_YAML, overview_json


def files() -> dict[str, str]:
    """Return the text of every generated file by its path under `dashboards/`."""
    return {
        "grafana/overview.json": overview_json(),
        "provisioning/dashboards/citywatch.yaml": PROVIDER_YAML,
        "provisioning/datasources/citywatch.yaml": DATASOURCE_YAML,
    }


def render(out: Path) -> list[Path]:
    """Write the generated files under `out` and return their paths.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    written = []
    for name, text in files().items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
