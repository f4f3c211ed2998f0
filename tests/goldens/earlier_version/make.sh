#!/bin/bash
# Makes runs.tar.xz: a run with its report, and a sweep, by the version in the working directory.
# Usage, in a checkout of the earlier commit: bash make.sh FOLDER
set -euo pipefail
export JAX_PLATFORMS=cpu PYTHONPATH=$PWD
options=(--model.encoder resnet10 --model.width 0.03125 --model.projector-dim 8 --optimizer.name sgd
    --train.epochs 2 --train.batch-size 256 --train.log-every 1 --train.no-tensorboard --runtime.devices 1)
mkdir -p "$1"
cat > "$1/space.py" << 'EOF'
def space(trial):
    return {"optimizer.learning_rate": trial.suggest_float("learning_rate", 0.01, 0.1)}
EOF
python -m cssl_jax pretrain debug --workdir "$1/run" "${options[@]}"
python -m cssl_jax report "$1/run" --images 0 --no-figures
python -m cssl_jax sweep debug --workdir "$1/sweep" --space "$1/space.py" --trials 2 --no-figures "${options[@]}"
rm -rf "$1"/sweep/trials/*/checkpoints
cd "$1" && find run sweep -name .lock -delete && tar --sort=name --owner=0 --group=0 -cJf runs.tar.xz run sweep
