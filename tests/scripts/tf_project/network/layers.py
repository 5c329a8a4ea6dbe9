import tensorflow as tf


class Classifier(tf.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.w = tf.Variable(tf.random.normal([inputs, classes], stddev=0.1), name="w")
        self.b = tf.Variable(tf.zeros([classes]), name="b")

    def __call__(self, x):
        return x @ self.w + self.b
