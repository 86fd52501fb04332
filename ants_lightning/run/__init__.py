"""What a run leaves: report, table, predictions, snapshots."""
