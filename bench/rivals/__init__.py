"""The same training step written in other ways: what elbowroom's time is held against."""
