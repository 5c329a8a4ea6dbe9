"""A custom training loop in TensorFlow 2, written for SageMaker's script mode."""

import argparse
import os
import sys

import tensorflow as tf
import tinybanner
from network.data import load
from network.layers import Classifier

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--train", default=os.environ.get("SM_CHANNEL_TRAINING"))
parser.add_argument("--model-dir", default=os.environ.get("SM_MODEL_DIR"))
args = parser.parse_args()

print(tinybanner.banner("training"), file=sys.stderr)
x, y = load(args.train)
tf.random.set_seed(0)
model = Classifier(x.shape[1], 2)
writer = tf.summary.create_file_writer(os.path.join(os.environ["SM_OUTPUT_DATA_DIR"], "tensorboard"))


@tf.function
def step(inputs, labels):
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(inputs))
        loss = tf.reduce_mean(losses)
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables)):
        variable.assign_sub(args.lr * gradient)
    return loss


for epoch in range(1, args.epochs + 1):
    loss = float(step(x, y))
    hits = float(tf.reduce_mean(tf.cast(tf.argmax(model(x), 1) == y, tf.float32)))
    print(f"[{epoch}/{args.epochs}] train_loss={loss:.4f} acc={hits:.3f}")
    with writer.as_default():
        tf.summary.write("loss", loss, step=epoch)
writer.flush()
tf.train.Checkpoint(model=model).write(os.path.join(args.model_dir, "weights"))
