"""A network out of this project: files that other programs run, and what those need to know of it.

python -m bench.export --ckpt runs/taylor_pruned/pruned_model.pt --format onnx,torch-export --save exported
"""
