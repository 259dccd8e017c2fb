"""What onnxruntime's profiler says of single operators."""

from __future__ import annotations

from pathlib import Path

from toy_onnx import chain, write_chain

from bench.export.operator_times import operator_times


def test_each_operator_is_timed_once_and_has_the_name_of_its_result(tmp_path: Path) -> None:
    files = {name: write_chain(tmp_path / f"{name}.onnx", chain(width=width)) for name, width in (("a", 16), ("b", 8))}
    found = operator_times(files, (24, 32), runs=4)
    assert list(found) == ["a", "b"]
    for name, width in (("a", 16), ("b", 8)):
        convolutions = [entry for entry in found[name] if entry.kind == "Conv"]
        # ReLUs are fused into what they follow.
        assert [entry.name for entry in convolutions] == ["value_1", "value_3", "value_5", "logits"]
        assert all(entry.ms > 0 for entry in convolutions)
        # Weights and bias, as float32.
        assert convolutions[1].parameter_bytes == 4 * (9 * width * width + width)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]
