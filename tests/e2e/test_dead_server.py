from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from tests import runs


def test_a_dead_server_does_not_stop_the_experiment_and_sync_records_it_later(tmp_path: Path) -> None:
    dead = "tracking.uri=http://me:opensesame@127.0.0.1:9"
    ended = runs.run("stages=[preprocess]", dead, cwd=tmp_path)
    (record,) = runs.records(tmp_path)
    assert record["status"] == "FINISHED"
    assert not record["synced"]
    assert f"python run.py action=sync run={record['id']} 'tracking.uri=http://***@127.0.0.1:9'" in ended.out
    assert "opensesame" not in ended.text
    assert not [f for f in (tmp_path / "outputs").rglob("*.json*") if "opensesame" in f.read_text()]

    refused = runs.run("action=sync", f"run={record['id']}", dead, cwd=tmp_path, code=1)
    assert "does not answer" in refused.err

    for _ in range(2):  # the second time changes nothing
        runs.run("action=sync", f"run={record['id']}", cwd=tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("videolift").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["clips"] == 288
    assert len(client.get_metric_history(run.info.run_id, "clips")) == 1
