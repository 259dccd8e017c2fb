"""What a command line and a config file may get wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tests.reliability.place import SCRIPTS, Case

# Script, flags separated by spaces. A value with a space in it is no bad input of these.
FLAGS = """
    train.py --epochs 0
    train.py --epochs -3
    train.py --epochs many
    train.py --batch-size 0
    train.py --batch-size 1.5
    train.py --lr nan
    train.py --lr inf
    train.py --lr -0.1
    train.py --momentum -1
    train.py --weight-decay nan
    train.py --ema 1
    train.py --milestones 0.5,2
    train.py --optimizer adam
    train.py --schedule cosine
    train.py --amp fp16
    train.py --amp int4
    train.py --accumulate 0
    train.py --eval-every 0
    train.py --crop-size 0,32
    train.py --aux-weight nan
    train.py --sparsity-lambda -1
    train.py --resume --overwrite
    train.py --pretrained-backbone none.pth
    train.py --sliding-window 8,8 --stride 9,9
    train.py --lr 1e30 --amp bf16
    train.py --distill-weight 1
    prune.py --global-ratio 1
    prune.py --global-ratio nan
    prune.py --global-ratio 30%
    prune.py --target-macs 0.5
    prune.py --method tailor
    prune.py --method taylor,l1
    prune.py --opt term
    prune.py --opt term=gamma
    prune.py --method taylor --opt term=[
    prune.py --method taylor --opt trem=gamma
    prune.py --method taylor --opt term=3
    prune.py --method papm --classes 99
    prune.py --method papm --alpha 7
    prune.py --method papm --norm-scale most
    prune.py --method magnitude --opt rules=none.yaml
    prune.py --method magnitude --round-to 8
    prune.py --method slimming --iterations 2
    prune.py --scope everywhere
    prune.py --min-keep 2
    prune.py --max-ratio nan
    prune.py --min-keep 0.9
    prune.py --round-to 0
    prune.py --ratio-of nothing*=0.5
    prune.py --ratio-of downs*
    prune.py --ratio-of downs*=1.5
    prune.py --ignore nothing*
    prune.py --reconstruction-layers nothing*
    prune.py --calib-images 0
    prune.py --calib-batch-size -1
    prune.py --recalibration-images 0
    prune.py --iterations 0
    prune.py --finetune-between 5
    prune.py --sensitivity
    prune.py --auto-search
    prune.py --list-groups --ckpt none.pt
    eval.py --split everything
    eval.py --picture p.png --picture-index 99
    eval.py --predict p --predict-ids label
    eval.py --stride 8,8
    eval.py --sliding-window 0,8
    eval.py --scales 1,0
    eval.py --scales inf
    eval.py --boundary-width 1.5
    eval.py --html-images -1
    eval.py --int8 --int8-images 0
    eval.py --latency --latency-runs 0
    eval.py --latency --latency-amp fp8
    eval.py --latency --latency-seconds 0
    eval.py --eval-batch-size 0
    eval.py --input-size 360
    eval.py --input-size 0,0
    eval.py --input-size -24,32
    benchmark.py --methods tailor,l1
    benchmark.py --methods ,
    benchmark.py --ratios 0.1,1.5
    benchmark.py --ratios a
    benchmark.py --seeds x
    benchmark.py --seeds -1
    benchmark.py --target-size 10MB
    benchmark.py --opt term=gamma
    benchmark.py --opt taylor.term=gamma
    benchmark.py --oracle --oracle-images 0
    benchmark.py --oracle --oracle-ratios 2
    benchmark.py --train-baseline --baseline x.pt
    benchmark.py --finetune-epochs -1
    benchmark.py --iterations 2 --methods magnitude
    benchmark.py --distill-weight 1
    finetune_batch.py --finetune-epochs 0
    finetune_batch.py --finetune-lr 0
    finetune_batch.py --distill-temperature 0
    finetune_batch.py --distill-weight -1
    finetune_batch.py --batch-size 0
"""
ON_EVERY_COMMAND = """
    --dataset camvd
    --model resnet50seg
    --device cuda:99
    --device tpu
    --threads 0
    --num-workers -1
    --seed 1.5
    --no-such-flag
"""
MISSING = (
    ("train.py", "--save"),
    ("prune.py", "--ckpt"),
    ("prune.py", "--method"),
    ("prune.py", "--global-ratio"),
    ("prune.py", "--save"),
    ("eval.py", "--baseline"),
    ("eval.py", "--report"),
    ("benchmark.py", "--out-dir"),
    ("benchmark.py", "--ratios"),
    ("benchmark.py", "--baseline"),
    ("finetune_batch.py", "--benchmark-dir"),
    ("finetune_batch.py", "--baseline"),
)


def flags() -> Iterator[Case]:
    """Values that are no values, names that are none, and flags that contradict each other."""
    lines = [line.split() for line in FLAGS.strip().splitlines()]
    for number, line in enumerate(ON_EVERY_COMMAND.strip().splitlines()):
        lines += [[script, *line.split()] for script in (SCRIPTS[number % 5], SCRIPTS[(number + 2) % 5])]
    for script, *words in lines:
        yield Case("flags", " ".join(words), script, lambda _, words=words: words)
    for script, flag in MISSING:
        yield Case("flags", f"no {flag}", script, lambda _: [], without=(flag,))


def config() -> Iterator[Case]:
    """Files of defaults that are none."""
    contents = {
        "an unknown key": b"data-rot: x\n",
        "a value of another type": b"epochs: many\nratios: many\nseed: many\n",
        "a list": b"- l1\n- l2\n",
        "a mapping for a value": b"model: {name: unet}\n",
        "not YAML": b"a: b\nmethods: [l1, l2\n",
        "a control character": b"a: \0\n",
        "not text": b"PK\x03\x04\xff\xfe\x80",
        "a Python object": b"seed: !!python/object/apply:os.getcwd []\n",
        "an alias that is not there": b"seed: *other\n",
        "a tab": b"seed:\n\t1\n",
        "a date": b"seed: 2020-01-01\n",
        "a value that contains itself": b"opt: &a {b: *a}\nratio-of: &c {d: *c}\n",
        "deep nesting": b"seed: " + b"[" * 3000 + b"]" * 3000,
    }
    for number, (name, content) in enumerate(contents.items()):
        script = "prune.py" if "itself" in name else SCRIPTS[number % 5]
        yield Case("config", name, script, lambda place, content=content: ["--config", place.file("c.yaml", content)])
    yield Case("config", "a file that is not there", "train.py", lambda _: ["--config", "none.yaml"])
    yield Case("config", "a folder", "eval.py", lambda place: ["--config", place.folder])
    yield Case("config", "a name that is too long", "prune.py", lambda _: ["--config", "x" * 300])
    yield Case("config", "no file behind --config", "benchmark.py", lambda _: ["--config"])
