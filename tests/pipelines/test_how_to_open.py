"""The last lines of a run say how to open MLflow, and show no password."""

from pipelines.run import _how_to_open


def test_a_database_with_a_password_is_opened_by_a_variable() -> None:
    shown = _how_to_open("postgresql://reid:geheim@db/mlflow", "#/experiments/1")
    assert "geheim" not in shown
    assert shown.startswith('MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" ')
    assert shown.endswith(" -m mlflow ui, then http://127.0.0.1:5000/#/experiments/1")


def test_a_file_is_named() -> None:
    assert "mlflow ui --backend-store-uri sqlite:////a.db, then" in _how_to_open("sqlite:////a.db", "")
