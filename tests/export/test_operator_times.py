"""What onnxruntime's profiler says of single operators."""

from __future__ import annotations

from pathlib import Path

from toy_onnx import chain, write_chain

from bench.export.operator_times import operator_times


def test_each_layer_is_timed_once_and_has_one_name_however_it_is_run(tmp_path: Path) -> None:
    files = {name: write_chain(tmp_path / f"{name}.onnx", chain(width=width)) for name, width in (("a", 16), ("b", 6))}
    found = operator_times(files, (24, 32), runs=4)
    assert list(found) == ["a", "b"]
    for name, width in (("a", 16), ("b", 6)):
        convolutions = [entry for entry in found[name] if entry.weights]
        # ReLUs are fused into what they follow, which has the name of its weights.
        assert [entry.name for entry in convolutions] == ["weight_0", "weight_2", "weight_4", "weight_6"]
        assert all(entry.ms > 0 for entry in convolutions)
        assert convolutions[1].weights == 9 * width * width
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
